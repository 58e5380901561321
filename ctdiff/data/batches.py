"""Training batches. Batch k depends only on the images, the seed and k.

The order of the images in epoch e is a random permutation that depends on (seed, e). The epochs form one endless sequence.
Batch k consists of the entries k B .. (k + 1) B - 1 of this sequence. So every image is used once before one is used again. A
run that resumes at step k takes batch k, so there is no state to save. Random rotations and flips depend on (seed, k, place in
the batch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from ctdiff.data.images import ImageData
from diffusion_core import PerSampleRandomness, Randomness, stream_seed

__all__ = ["Batches", "Encoding", "Flip", "Rotation"]

# Random streams that differ from those of the training noise, which depend on (seed, step, sample).
_ORDER, _ROTATION, _FLIP = 0x6F72646572, 0x726F74617465, 0x666C6970


Encoding = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rotation:
    """Rotates every image about its centre by a random angle, uniform on [-degrees, degrees].

    Values are interpolated bilinearly and rounded. Outside the image, the nearest pixel of the border is repeated. Values must
    be ordered, like grey levels. Interpolation between unordered categories has no meaning.

    Arguments:
        degrees: the largest angle, in (0, 180].

    Raises:
        ValueError: degrees is outside (0, 180].
    """

    degrees: float

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 180:
            raise ValueError(f"degrees = {self.degrees}, expected an angle in (0, 180]")

    def __call__(self, images: Tensor, randomness: Randomness) -> Tensor:
        """Rotate a batch (B, C, H, W) uint8. Values stay between the smallest and the largest value of the image."""
        batch, _, height, width = images.shape
        angle = math.radians(self.degrees) * (2 * randomness.uniform((batch,)) - 1)
        theta = torch.zeros(batch, 2, 3)  # sampling positions in coordinates -1 .. 1, so an aspect ratio appears
        theta[:, 0, 0] = theta[:, 1, 1] = angle.cos()
        theta[:, 0, 1] = -angle.sin() * height / width
        theta[:, 1, 0] = angle.sin() * width / height
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        turned = functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        return turned.round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Flip:
    """Mirrors each image left to right with probability 1/2.

    Use it for photographs, not for digits. A mirrored photograph is as likely as the original, but a mirrored digit is not.
    """

    def __call__(self, images: Tensor, randomness: Randomness) -> Tensor:
        """Mirror about half of a batch (B, C, H, W)."""
        mirrored = randomness.uniform((len(images),)) < 0.5
        return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True, eq=False)
class Batches:
    """An endless, shuffled sequence of batches (x_0, cond).

    `batches[k]` is batch k. Iteration starts at batch 0, and `batches.from_step(k)` starts at batch k.

    Arguments:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, or None.
        batch_size: B; it may be larger than N.
        seed: the seed of the order, the rotations and the flips.
        rotation: a random rotation of every image, or None.
        flip: a random reflection of every image, or None.
        encode: a function from pixels (B, C, H, W) int64 to x_0; None means x_0 = pixels.

    Raises:
        ValueError: batch_size is below 1, or the images or the labels are not valid for `ImageData`.
    """

    images: Tensor
    labels: Tensor | None
    batch_size: int
    seed: int = 0
    rotation: Rotation | None = None
    flip: Flip | None = None
    encode: Encoding | None = None
    _epochs: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        ImageData(self.images, self.labels)
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size}, expected at least 1")

    def _epoch(self, epoch: int) -> Tensor:
        """Return the permutation of one epoch. The last two are cached."""
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                del self._epochs[min(self._epochs)]
            generator = torch.Generator().manual_seed(stream_seed(self.seed, _ORDER, epoch))
            self._epochs[epoch] = torch.randperm(len(self.images), generator=generator)
        return self._epochs[epoch]

    def indices(self, step: int) -> Tensor:
        """Return the indices of the images of batch `step`: (B,)."""
        if step < 0:
            raise ValueError(f"step = {step}, expected 0 or more")
        n = len(self.images)
        first, end = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while first < end:
            epoch, place = divmod(first, n)
            part = self._epoch(epoch)[place : place + end - first]
            parts.append(part)
            first += len(part)
        return torch.cat(parts)

    def __getitem__(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return batch `step`: x_0 (B, C, H, W), int64 without `encode`, and the labels (if there are any) as y (B,) int64."""
        indices = self.indices(step)
        x_0 = self.images[indices]
        for change, stream in ((self.flip, _FLIP), (self.rotation, _ROTATION)):
            if change is not None:
                x_0 = change(x_0, PerSampleRandomness.keyed(stream_seed(self.seed, stream), step, 0, self.batch_size))
        x_0 = x_0.long()
        return x_0 if self.encode is None else self.encode(x_0), {} if self.labels is None else {"y": self.labels[indices]}

    def from_step(self, step: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield batch `step` and all later batches, without end."""
        while True:
            yield self[step]
            step += 1

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        return self.from_step(0)
