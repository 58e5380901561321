"""What images are compared by: features of a network, under a name that says which network.

A distance between sets of images is a distance between sets of features, so it is a number about
the network as much as about the images: the same images score differently by up to a factor of two
under two classifiers of equal accuracy. Hence an `Extractor` has a name and the hash of its weights,
both of which enter the name of every metric:

    FID-mnist-cnn-1a2b3c4d        plain `FID` is what the Inception network of the literature gives, and nothing else

Images come in as integers 0 .. S - 1, as data sets and samplers have them; the extractor's
`preprocess` makes the network's input of grey levels 0 .. 255.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Extractor", "Features", "GreyImages", "bytes_hash", "grey_levels", "module_extractor", "weights_hash"]

_BATCH = 100  # images at once; always as many, so that the same images in the same order give the same bits


@dataclass(frozen=True, eq=False)
class Features:
    """What a network says of N images.

    Arguments:
        pooled: (N, D), the features that metrics compare.
        logits: (N, K), of a classifier; None where the network is none.
        spatial: (N, E), a few channels before pooling, flattened, which know where things are; or None.
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
        """The features of several batches, in their order: of a stream, or of several processes."""
        listed = list(parts)
        logits, spatial = _joined([part.logits for part in listed]), _joined([part.spatial for part in listed])
        return cls(torch.cat([part.pooled for part in listed]), logits, spatial)

    def select(self, indices: Tensor) -> Features:
        """The features at the given places (n,), in that order."""
        logits = None if self.logits is None else self.logits[indices]
        return Features(self.pooled[indices], logits, None if self.spatial is None else self.spatial[indices])

    def map(self, function: Callable[[Tensor], Tensor]) -> Features:
        """The same function of every tensor."""
        logits = None if self.logits is None else function(self.logits)
        return Features(function(self.pooled), logits, None if self.spatial is None else function(self.spatial))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if len(present) == len(parts) else None


def grey_levels(images: Tensor, num_values: int = 256) -> Tensor:
    """States 0 .. S - 1 as levels 0 .. 255, round(255 x / (S - 1)): integers (N, C, H, W) -> uint8.

    Raises:
        ValueError: the images are no integers of that shape, or hold another value (a mask, say).
    """
    if images.is_floating_point() or images.ndim != 4:
        raise ValueError(f"images are {images.dtype} of shape {tuple(images.shape)}, expected integers (N, C, H, W)")
    low, high = (int(images.min()), int(images.max())) if images.numel() else (0, 0)
    if low < 0 or high >= num_values:
        raise ValueError(f"images hold values {low} .. {high}, expected 0 .. {num_values - 1}")
    if num_values == 256:
        return images.to(torch.uint8)
    return (images.double() * (255 / (num_values - 1))).round().to(torch.uint8)


@dataclass(frozen=True)
class GreyImages:
    """The preprocessing of a network for grey images of one size: levels 0 .. 255 become x / 255.

    Arguments:
        height: H, in pixels.
        width: W, in pixels.
    """

    height: int
    width: int

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 1, H, W) -> float (B, 1, H, W) in [0, 1].

        Raises:
            ValueError: the images have another shape.
        """
        if images.shape[1:] != (1, self.height, self.width):
            raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, 1, {self.height}, {self.width})")
        return images.float() / 255


def bytes_hash(content: bytes) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()[:8]


def weights_hash(network: nn.Module) -> str:
    """The hash of a network's state: of names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network that makes features of images.

    Arguments:
        name: what to call it, without spaces.
        hash: 8 hexadecimal digits that change with its weights.
        network: its input -> `Features`, or a tensor that is the pooled features.
        preprocess: uint8 images (B, C, H, W) -> the network's input.
        width: D, how many pooled features it has.
        reference: whether this is the network that a metric's plain name stands for in the literature.
    """

    name: str
    hash: str
    network: nn.Module
    preprocess: Callable[[Tensor], Tensor]
    width: int
    reference: bool = False

    def __post_init__(self) -> None:
        if not self.name or any(letter.isspace() for letter in self.name):
            raise ValueError(f"name = {self.name!r}, expected a word")
        self.network.eval().requires_grad_(False)

    @property
    def label(self) -> str:
        """Name and hash: `mnist-cnn-1a2b3c4d`."""
        return f"{self.name}-{self.hash}"

    def metric(self, name: str) -> str:
        """The full name of a metric: `FID` -> `FID-mnist-cnn-1a2b3c4d`, or `FID` with the literature's network."""
        return name if self.reference else f"{name}-{self.label}"

    def describe(self) -> dict[str, str | int]:
        """What a report says of it."""
        preprocessing = repr(self.preprocess) if not hasattr(self.preprocess, "__name__") else self.preprocess.__name__
        return {"name": self.name, "hash": self.hash, "preprocessing": preprocessing, "width": self.width}

    @torch.no_grad()
    def features(self, images: Tensor, num_values: int = 256) -> Features:
        """The features of images, computed batch by batch and returned on the CPU.

        Arguments:
            images: integers 0 .. num_values - 1, (N, C, H, W), N at least 1.
            num_values: S, how many values a pixel can take.

        Raises:
            ValueError: the images cannot be the network's, or its features are not (N, width) finite numbers.
        """
        if len(images) == 0:
            raise ValueError("there are no images, expected at least 1")
        device = next((tensor.device for tensor in self.network.state_dict().values()), torch.device("cpu"))
        return Features.cat(self._batch(part, num_values, device) for part in images.split(_BATCH))

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
    """Make an extractor of any network; its hash is that of its state dict.

    Arguments:
        name: what to call it in the names of metrics.
        network: input -> (B, width) features, or `Features`.
        preprocess: uint8 images (B, C, H, W) -> the network's input.
        width: how many features it has.
        device: where it computes.
    """
    return Extractor(name, weights_hash(network), network.to(device), preprocess, width)
