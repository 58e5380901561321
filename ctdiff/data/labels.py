"""Converts labels to class numbers. Integers stay the same, and strings are numbered in natural order."""

from __future__ import annotations

from reprlib import Repr

import numpy as np
import torch
from torch import Tensor

from ctdiff.data.images import ImageData
from ctdiff.data.listing import natural_order

__all__ = ["as_labels", "item_label", "with_classes"]

_REPR = Repr()
_REPR.maxother = 80  # letters of a tensor or an array


def item_label(label: object, name: str) -> int | str:
    """Return the label of one item: an integer or a string of Python or NumPy, or a tensor or array of one element.

    Arguments:
        label: the label.
        name: the name of the item, for errors.

    Raises:
        ValueError: the label has another type, or is an integer below 0.
    """
    value = label
    if isinstance(label, (Tensor, np.ndarray, np.generic)) and label.shape in ((), (1,)):
        value = label.item()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and value >= 0:
        return int(value)
    raise ValueError(
        f"{name} has the label {_REPR.repr(label)} of type {type(label).__name__}, expected an integer of at least 0, or a "
        "string, which is the name of a class; a one-hot row becomes an integer with argmax"
    )


def as_labels(array: np.ndarray, count: int, name: str) -> np.ndarray:
    """Convert the labels of an array file, (N,) or (N, 1), to (N,) int64 or strings.

    Arguments:
        array: the labels.
        count: the number of images, N.
        name: the name of the labels, for errors.

    Raises:
        ValueError: the labels have another shape, a value below 0, or a dtype other than integer, boolean or string.
    """
    if array.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"{name}: labels have shape {array.shape}, expected ({count},) or ({count}, 1): one for each image; "
            "one-hot rows become integers with labels.argmax(1)"
        )
    if array.dtype.kind not in "biuU":
        raise ValueError(f"{name}: labels have dtype {array.dtype}, expected integers or strings")
    array = array.reshape(count)
    if array.dtype.kind == "U":
        return array
    labels = array.astype(np.int64)
    if (negative := np.flatnonzero(labels < 0)).size:
        raise ValueError(f"{name}: label {negative[0]} is {labels[negative[0]]}, expected 0 or more")
    return labels


def with_classes(*sets: tuple[Tensor, np.ndarray | None]) -> list[ImageData]:
    """Convert the labels of several sets, such as a training and a test set, to class numbers.

    If labels are strings, they are names of classes. The names of all sets together are numbered in natural order: "2" comes
    before "10".

    Arguments:
        sets: images (N, C, H, W) and labels (N,), integers or strings. None means a set without labels.

    Raises:
        ValueError: one set has strings and another has integers.
    """
    given = [labels for _, labels in sets if labels is not None]
    kinds = {labels.dtype.kind == "U" for labels in given}
    if len(kinds) > 1:
        raise ValueError("the labels of one set are strings and those of another are integers, expected one kind")
    if kinds != {True}:
        return [ImageData(images, None if labels is None else torch.from_numpy(labels)) for images, labels in sets]
    names = tuple(sorted({name for labels in given for name in labels.tolist()}, key=natural_order))
    number = {name: i for i, name in enumerate(names)}
    return [
        ImageData(images)
        if labels is None
        else ImageData(images, torch.tensor([number[name] for name in labels.tolist()]), class_names=names)
        for images, labels in sets
    ]
