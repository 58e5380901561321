"""Computes features of images with a network. The name of each metric contains the name and the hash of this network.

A distance between sets of images is computed from features of a network. So it depends on the network too. With two
classifiers of equal accuracy, the distances between the same images can differ by a factor of two. So an `Extractor` has
a name and a hash of its weights. Both are part of the name of each metric:

    FID-mnist-cnn-1a2b3c4d        the name `FID` alone is used only with the Inception network of the literature

Images are integers 0 .. S - 1. They become grey levels 0 .. 255. The extractor's `preprocess` converts the levels to the input
of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctdiff.hashes import weights_hash
from ctdiff.progress import tracked

__all__ = ["Extractor", "Features", "GreyImages", "grey_levels", "module_extractor"]

_BATCH = 100  # images in a batch; a constant, so that the same images in the same order give the same bits


@dataclass(frozen=True, eq=False)
class Features:
    """The outputs of a network for N images.

    Arguments:
        pooled: (N, D), the features that metrics compare.
        logits: (N, K), if the network is a classifier; otherwise None.
        spatial: (N, E), a few flattened channels before pooling. They depend on positions in the image. None if the network
            does not return them.
    """

    pooled: Tensor
    logits: Tensor | None = None
    spatial: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("pooled", "logits", "spatial"):
            value: Tensor | None = getattr(self, name)
            if value is not None and (value.ndim != 2 or len(value) != len(self.pooled)):
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected (N, width) with N = {len(self.pooled)}")

    def __len__(self) -> int:
        return len(self.pooled)

    @classmethod
    def cat(cls, parts: Iterable[Features]) -> Features:
        """Concatenate the features of several batches or of several processes."""
        listed = list(parts)
        logits, spatial = _joined([part.logits for part in listed]), _joined([part.spatial for part in listed])
        return cls(torch.cat([part.pooled for part in listed]), logits, spatial)

    def select(self, indices: Tensor) -> Features:
        """Return the features of the images with the given indices (n,), in this order."""
        logits = None if self.logits is None else self.logits[indices]
        return Features(self.pooled[indices], logits, None if self.spatial is None else self.spatial[indices])

    def map(self, function: Callable[[Tensor], Tensor]) -> Features:
        """Apply a function to every tensor."""
        logits = None if self.logits is None else function(self.logits)
        return Features(function(self.pooled), logits, None if self.spatial is None else function(self.spatial))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if len(present) == len(parts) else None


def grey_levels(images: Tensor, num_values: int = 256) -> Tensor:
    """Convert states 0 .. S - 1 to grey levels `round(255 x / (S - 1))`: integers (N, C, H, W) -> uint8.

    Raises:
        ValueError: the images are not integers (N, C, H, W), or have values outside 0 .. S - 1, such as masked pixels.
    """
    if images.is_floating_point() or images.ndim != 4:
        raise ValueError(f"images are {images.dtype} of shape {tuple(images.shape)}, expected integers (N, C, H, W)")
    low, high = (int(images.min()), int(images.max())) if images.numel() else (0, 0)
    if low < 0 or high >= num_values:
        raise ValueError(f"images have values {low} .. {high}, expected 0 .. {num_values - 1}")
    if num_values == 256:
        return images.to(torch.uint8)
    return (images.double() * (255 / (num_values - 1))).round().to(torch.uint8)


@dataclass(frozen=True)
class GreyImages:
    """Preprocessing for grey images of one size: a level x in 0 .. 255 becomes x / 255.

    Arguments:
        height: H, in pixels.
        width: W, in pixels.
    """

    height: int
    width: int

    def __call__(self, images: Tensor) -> Tensor:
        """Convert uint8 (B, 1, H, W) to floats (B, 1, H, W) in [0, 1].

        Raises:
            ValueError: the images have another shape.
        """
        if images.shape[1:] != (1, self.height, self.width):
            raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, 1, {self.height}, {self.width})")
        return images.float() / 255


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network that computes features of images.

    Arguments:
        name: the name of the network, without spaces.
        hash: 8 hexadecimal digits of the hash of its weights.
        network: the network. It returns `Features`, or a tensor of pooled features.
        preprocess: a function from uint8 images (B, C, H, W) to the input of the network.
        width: D, the number of pooled features.
        reference: whether this is the Inception network of the literature. The names of its metrics have no suffix.
    """

    name: str
    hash: str
    network: nn.Module
    preprocess: Callable[[Tensor], Tensor]
    width: int
    reference: bool = False

    def __post_init__(self) -> None:
        if not self.name or any(letter.isspace() for letter in self.name):
            raise ValueError(f"name = {self.name!r}, expected a name without spaces")
        self.network.eval().requires_grad_(False)

    @property
    def label(self) -> str:
        """The name and the hash: `mnist-cnn-1a2b3c4d`."""
        return f"{self.name}-{self.hash}"

    def metric(self, name: str) -> str:
        """Return the full name of a metric: `FID-mnist-cnn-1a2b3c4d`, or `FID` with the network of the literature."""
        return name if self.reference else f"{name}-{self.label}"

    def describe(self) -> dict[str, Any]:
        """Return the name, the hash, the preprocessing and the width, for a report."""
        preprocessing = repr(self.preprocess) if not hasattr(self.preprocess, "__name__") else self.preprocess.__name__
        return {"name": self.name, "hash": self.hash, "preprocessing": preprocessing, "width": self.width}

    @torch.no_grad()
    def features(self, images: Tensor, num_values: int = 256) -> Features:
        """Compute the features of images in batches, and return them on the CPU.

        Arguments:
            images: integers 0 .. num_values - 1, (N, C, H, W), N at least 1.
            num_values: S, the number of values of a pixel.

        Raises:
            ValueError: the network cannot process the images, or its features are not finite numbers (N, width).
        """
        if len(images) == 0:
            raise ValueError("there are no images, expected at least 1")
        device = next((tensor.device for tensor in self.network.state_dict().values()), torch.device("cpu"))
        return Features.cat(self._batch(part, num_values, device) for part in tracked(images.split(_BATCH), "features"))

    def _batch(self, images: Tensor, num_values: int, device: torch.device) -> Features:
        output = self.network(self.preprocess(grey_levels(images, num_values).to(device)))
        found = (output if isinstance(output, Features) else Features(output)).map(lambda value: value.float().cpu())
        if found.pooled.shape != (len(images), self.width):
            raise ValueError(f"{self.name} gave features {tuple(found.pooled.shape)}, expected ({len(images)}, {self.width})")
        if not bool(found.pooled.isfinite().all()):
            raise ValueError(f"{self.name} gave features that are not finite")
        return found


def module_extractor(
    name: str, network: nn.Module, preprocess: Callable[[Tensor], Tensor], width: int, device: str | torch.device = "cpu"
) -> Extractor:
    """Make an extractor from any network. The hash is computed from its state dict.

    Arguments:
        name: the name of the network, a part of the names of metrics.
        network: the network. It returns features (B, width), or `Features`.
        preprocess: a function from uint8 images (B, C, H, W) to the input of the network.
        width: the number of features.
        device: the device of the network.
    """
    return Extractor(name, weights_hash(network), network.to(device), preprocess, width)
