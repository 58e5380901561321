"""A data set: a uint8 tensor of images, optional labels, and the number of values of a pixel.

Images have the shape (N, C, H, W) with 1 or 3 channels, and values 0 .. S - 1. S is `num_values`. It is 256 for
images from a file. As uint8, 60,000 digits need 47 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctdiff.data.pixels import as_bytes
from ctdiff.hashes import content_hash
from diffusion_core import stream_seed

__all__ = ["ImageData", "Splits", "as_images", "data_record", "split", "split_indices"]


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images with integer pixels, and optional labels.

    Arguments:
        images: (N, C, H, W) uint8, values in 0 .. num_values - 1.
        labels: (N,) int64, non-negative, or None.
        num_values: S, the number of values that a pixel can have, 2 .. 256.
        class_names: the names of the labels 0, 1, ...; empty if they have no names.

    Raises:
        ValueError: a wrong shape, dtype or value.
    """

    images: Tensor
    labels: Tensor | None = None
    num_values: int = 256
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8:
            raise ValueError(f"images have dtype {images.dtype}, expected torch.uint8 (integers 0 .. 255)")
        if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
            raise ValueError(f"images have shape {tuple(images.shape)}, expected (N, C, H, W) with C = 1 or 3 and no side of 0")
        if not 2 <= self.num_values <= 256:
            raise ValueError(f"num_values = {self.num_values}, expected 2 .. 256")
        if self.num_values < 256 and (largest := int(images.max())) >= self.num_values:
            raise ValueError(f"images have the value {largest}, expected 0 .. {self.num_values - 1}")
        if labels is None:
            if self.class_names:
                raise ValueError(f"there are {len(self.class_names)} class_names and no labels, expected no class_names")
            return
        if labels.dtype != torch.int64:
            raise ValueError(f"labels have dtype {labels.dtype}, expected torch.int64")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels have shape {tuple(labels.shape)}, expected ({len(images)},): one for each image")
        if int(labels.min()) < 0:
            raise ValueError(f"labels have the value {int(labels.min())}, expected 0 or more")
        if self.class_names and (largest := int(labels.max())) >= len(self.class_names):
            raise ValueError(f"labels have the value {largest}, expected less than the {len(self.class_names)} class_names")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image, (C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """The number of class names. Without names, it is the largest label plus one; without labels, it is 0."""
        if self.class_names:
            return len(self.class_names)
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def select(self, indices: Tensor) -> ImageData:
        """Return the images at the given indices (n,), in that order."""
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, images=self.images[indices], labels=labels)


@dataclass(frozen=True, eq=False)
class Splits:
    """A training set and a test set of images of one shape, with the same values and the same classes.

    Raises:
        ValueError: the sets differ in image shape, in num_values or in class_names, or only one of them has labels.
    """

    train: ImageData
    test: ImageData

    def __post_init__(self) -> None:
        for name in ("shape", "num_values", "class_names"):
            one, other = getattr(self.train, name), getattr(self.test, name)
            if one != other:
                raise ValueError(f"the training and the test set differ in {name}: {one} and {other}")
        if (self.train.labels is None) != (self.test.labels is None):
            raise ValueError("only one of the training and the test set has labels, expected both or neither")

    @property
    def num_classes(self) -> int:
        """The number of class names. Without names, the largest label of both sets plus one; without labels, 0."""
        return max(self.train.num_classes, self.test.num_classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the labels 0, 1, ...; empty if they have no names."""
        return self.train.class_names

    def map(self, transform: Callable[[ImageData], ImageData]) -> Splits:
        """Apply a transform to both sets."""
        return Splits(transform(self.train), transform(self.test))


def data_record(splits: Splits) -> dict[str, Any]:
    """Return the number, the shape and the hashes of the images of a data set. The place of the files has no influence."""

    def record(data: ImageData) -> dict[str, Any]:
        labels = [] if data.labels is None else [data.labels]
        return {"count": len(data), "sha256": content_hash(data.images, *labels)}

    shape, num_values = list(splits.train.shape), splits.train.num_values
    return {"shape": shape, "num_values": num_values, "train": record(splits.train), "held_out": record(splits.test)}


def split_indices(count: int, test_fraction: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Choose training images and test images at random. Return the indices of both, in ascending order.

    The test set has `round(test_fraction * count)` images, but both sets have at least one image.

    Arguments:
        count: the number of images.
        test_fraction: the share of the images that becomes the test set.
        seed: the seed of the random choice.

    Raises:
        ValueError: the fraction is not in (0, 1), or there are fewer than two images.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction = {test_fraction}, expected a fraction in (0, 1)")
    if count < 2:
        raise ValueError(f"{count} image cannot be split into a training and a test set, expected at least 2")
    n_test = min(max(round(test_fraction * count), 1), count - 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(stream_seed(seed)))
    return order[n_test:].sort().values, order[:n_test].sort().values


def split(data: ImageData, test_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Split a data set at random, as `split_indices` does.

    Raises:
        ValueError: the fraction is not in (0, 1), or there are fewer than two images.
    """
    train, test = split_indices(len(data), test_fraction, seed)
    return Splits(data.select(train), data.select(test))


def as_images(array: np.ndarray | Tensor, name: str) -> Tensor:
    """Convert a batch of images to (N, C, H, W) uint8. `as_bytes` lists the allowed dtypes.

    (N, H, W) becomes (N, 1, H, W). With four axes, the channels are the second axis if it has 1 or 3 entries, otherwise the
    last axis.

    Arguments:
        array: the images.
        name: the name of the images, for errors.

    Raises:
        ValueError: the images have another dtype, such as float32, values outside 0 .. 255, or another shape.
    """
    images = as_bytes(array, name)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"{name}: images have shape {tuple(array.shape)}, "
            "expected (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1 or 3 and no side of 0"
        )
    return images.contiguous()
