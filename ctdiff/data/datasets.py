"""Any map-style torch `Dataset`, read into memory."""

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
    """What an item is made of; None for the label of one without."""
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
    """An item of a data set: its image (1, C, H, W) uint8, and its label."""
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
    """The images of a data set and its labels, integers or strings."""
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
                f"{name}[{i}] has the label {label!r} and {name}[0] has {labels[0]!r}, expected integers alone or strings alone"
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

    An item is an image, (image, label), or a mapping with one of the keys image, img, pixel_values and perhaps one of
    label, labels, target, as data sets of Hugging Face give; its other keys are not read. An image is a PIL image, or a
    tensor or array of shape (H, W), (C, H, W) or (H, W, C) with C = 1 or 3: uint8, other integers in 0 .. 255, or booleans,
    which become 0 and 255. A label is an integer of at least 0 or a string. Strings are classes, numbered in the natural
    order of those of both sets: "2" comes before "10". PIL images are turned upright, put over `ground` and brought to
    8 bits as those of `image_folder` are.

    Arguments:
        dataset: the training set, with `len` and `[]`.
        test: the test set; None splits `dataset`.
        channels: convert PIL images to 1 (grey) or 3 (RGB) channels; None keeps grey grey.
        image_size: as in `image_folder`.
        test_fraction: the share that becomes the test set, where none is given.
        seed: keys that choice.
        ground: the grey level, 0 .. 255, that transparent pixels of PIL images show.

    Raises:
        TypeError: a data set has no `len` or `[]`, or is a dictionary of several.
        ValueError: an item is something else, float images or a one-hot label say, or sizes differ.
    """
    if channels is not None:
        check_channels(channels)
    check_ground(ground)
    train = _read(dataset, "dataset", channels, image_size, ground)
    if test is None:
        return split(with_classes(train)[0], test_fraction, seed)
    return Splits(*with_classes(train, _read(test, "test", channels, image_size, ground)))
