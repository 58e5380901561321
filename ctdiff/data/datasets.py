"""Reads any map-style torch `Dataset` into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from ctdiff.data.images import Splits, as_images, split
from ctdiff.data.labels import item_label, with_classes
from ctdiff.data.photographs import check_channels, check_ground, is_grey, stacked, to_array

__all__ = ["from_dataset"]


_IMAGE_KEYS = ("image", "img", "pixel_values")
_LABEL_KEYS = ("label", "labels", "target")


def _image_and_label(item: Any, name: str) -> tuple[Any, Any]:
    """Return the image and the label of an item; the label is None if there is none."""
    if isinstance(item, Mapping):
        images, labels = ([key for key in keys if key in item] for keys in (_IMAGE_KEYS, _LABEL_KEYS))
        if len(images) != 1 or len(labels) > 1:
            raise ValueError(
                f"{name} has the keys {sorted(map(str, item))}, expected one of {', '.join(_IMAGE_KEYS)} "
                f"and at most one of {', '.join(_LABEL_KEYS)}"
            )
        return item[images[0]], item[labels[0]] if labels else None
    if isinstance(item, (tuple, list)):
        if len(item) not in (1, 2):
            raise ValueError(f"{name} is a {type(item).__name__} of {len(item)}, expected an image or (image, label)")
        return item[0], item[1] if len(item) == 2 else None
    return item, None


def _item(item: Any, channels: int | None, name: str, ground: int) -> tuple[Tensor, int | str | None]:
    """Return the image (1, C, H, W) uint8 and the label of an item."""
    image, label = _image_and_label(item, name)
    if isinstance(image, Image.Image):
        grey = is_grey(image) if channels is None else channels == 1
        image = to_array(image, 1 if grey else 3, name, ground)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise ValueError(f"{name} is a {type(image).__name__}, expected a PIL image, a tensor or an array")
    return as_images(image[None], name), None if label is None else item_label(label, name)


def _read(
    dataset: Any, name: str, channels: int | None, image_size: int | tuple[int, int] | None, ground: int
) -> tuple[Tensor, np.ndarray | None]:
    """Return the images and the labels of a data set. Labels are integers or strings."""
    if isinstance(dataset, Mapping):
        keys = ", ".join(f"{name}[{key!r}]" for key in dataset)
        raise TypeError(f"{name} is a {type(dataset).__name__} of several data sets, expected one of them: {keys}")
    map_style = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not map_style or isinstance(dataset, IterableDataset):
        raise TypeError(f"{name} is a {type(dataset).__name__}, expected a map-style data set, with len({name}) and {name}[i]")
    if len(dataset) == 0:
        raise ValueError(f"{name} is empty, expected at least one image")
    labels: list[int | str] = []

    def read() -> Iterator[tuple[str, Tensor]]:
        for i in range(len(dataset)):  # one original at a time is in memory
            image, label = _item(dataset[i], channels, f"{name}[{i}]", ground)
            labels.extend([] if label is None else [label])
            yield f"{name}[{i}]", image

    images = stacked(read(), image_size)
    if labels and len(labels) < len(images):
        raise ValueError(f"{name}: {len(labels)} of {len(images)} items have a label, expected all or none")
    for i, label in enumerate(labels):
        if isinstance(label, str) != isinstance(labels[0], str):
            raise ValueError(
                f"{name}[{i}] has the label {label!r} and {name}[0] has {labels[0]!r}, expected only integers or only strings"
            )
    return images, np.array(labels, None if isinstance(labels[0], str) else np.int64) if labels else None


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

    An item is an image, a pair (image, label), or a mapping, as in data sets of Hugging Face. A mapping has one of the keys
    image, img, pixel_values, and optionally one of label, labels, target. Its other keys are not read.

    An image is a PIL image, or a tensor or array of shape (H, W), (C, H, W) or (H, W, C) with C = 1 or 3. Its dtype is uint8,
    another integer type with values in 0 .. 255, or bool, whose values become 0 and 255. A PIL image is turned upright, its
    transparent pixels show the grey level `ground`, and its values are reduced to 8 bits.

    A label is an integer of at least 0, or a string. Strings are names of classes. The classes of both sets are numbered in
    natural order: "2" comes before "10".

    Arguments:
        dataset: the training set, with `len` and `[]`.
        test: the test set. None means that `dataset` is split at random.
        channels: the channels of converted PIL images, 1 (grey) or 3 (RGB). None means 1 for grey images and 3 for others.
        image_size: the side, or (height, width), of the resized images. None if all images have the same size.
        test_fraction: the share of the images that becomes the test set, if `test` is None.
        seed: the seed of the random split.
        ground: the grey level behind transparent pixels of PIL images, 0 .. 255.

    Raises:
        TypeError: a data set has no `len` or `[]`, or it is a dictionary of several data sets.
        ValueError: an item has another form, such as a float image or a one-hot label, or the sizes of images differ.
    """
    if channels is not None:
        check_channels(channels)
    check_ground(ground)
    train = _read(dataset, "dataset", channels, image_size, ground)
    if test is None:
        return split(with_classes(train)[0], test_fraction, seed)
    return Splits(*with_classes(train, _read(test, "test", channels, image_size, ground)))
