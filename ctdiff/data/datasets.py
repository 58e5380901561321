"""Any map-style torch `Dataset`, read into memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ctdiff.data.images import ImageData, Splits, as_images, split
from ctdiff.data.photographs import check_channels, check_ground, is_grey, stacked, to_array

__all__ = ["from_dataset"]


def _item(item: Any, channels: int | None, name: str, ground: int) -> tuple[Tensor, int | None]:
    """An image or an (image, label) of a data set: (1, C, H, W) uint8, and the label."""
    image, label = item if isinstance(item, (tuple, list)) else (item, None)
    if isinstance(image, Image.Image):
        grey = is_grey(image) if channels is None else channels == 1
        image = to_array(image, 1 if grey else 3, name, ground)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise ValueError(f"{name} is a {type(image).__name__}, expected a PIL image, a tensor or an array")
    return as_images(image[None], name), None if label is None else int(label)


def _from_dataset(
    dataset: Any, name: str, channels: int | None, image_size: int | tuple[int, int] | None, ground: int
) -> ImageData:
    items = [_item(dataset[i], channels, f"{name}[{i}]", ground) for i in range(len(dataset))]
    if not items:
        raise ValueError(f"{name} is empty, expected at least one image")
    labels = [label for _, label in items if label is not None]
    if labels and len(labels) < len(items):
        raise ValueError(f"{name}: {len(labels)} of {len(items)} items have a label, expected all or none")
    images = stacked([(f"{name}[{i}]", image) for i, (image, _) in enumerate(items)], image_size)
    return ImageData(images, torch.tensor(labels) if labels else None)


def from_dataset(
    dataset: Any,
    test: Any = None,
    channels: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    test_fraction: float = 0.1,
    seed: int = 0,
    ground: int = 255,
) -> Splits:
    """Read any map-style torch `Dataset` into memory.

    An item is an image or (image, label); an image is a PIL image, or a uint8 tensor or array
    of shape (H, W), (C, H, W) or (H, W, C) with C = 1 or 3; a label is an integer. PIL images are turned upright, put
    over `ground` and brought to 8 bits as those of `image_folder` are.

    Arguments:
        dataset: the training set, with `len` and `[]`.
        test: the test set; None splits `dataset`.
        channels: convert PIL images to 1 (grey) or 3 (RGB) channels; None keeps grey grey.
        image_size: as in `image_folder`.
        test_fraction: the share that becomes the test set, where none is given.
        seed: keys that choice.
        ground: the grey level, 0 .. 255, that transparent pixels of PIL images show.

    Raises:
        ValueError: an item is something else, float images say, or sizes differ.
    """
    if channels is not None:
        check_channels(channels)
    check_ground(ground)
    train = _from_dataset(dataset, "dataset", channels, image_size, ground)
    if test is None:
        return split(train, test_fraction, seed)
    return Splits(train, _from_dataset(test, "test", channels, image_size, ground))
