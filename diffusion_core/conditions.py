"""Checks of the conditions of a network: named tensors with one row for each example, such as labels y (B,).

A network lists its conditions. Each condition has a null value, which means "no condition". Leave out a condition that
is absent; do not pass None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Null", "check_conditions", "check_labels", "check_names", "null_like", "rows_of"]

Null: TypeAlias = int | float | Tensor
"""The value of a condition that means "no condition", for one example: a number, or a tensor without the batch axis."""


def rows_of(null: Null, like: Tensor) -> Tensor:
    """Repeat a null value for every example of a batch, on the device of the batch: (B, ...)."""
    value = torch.as_tensor(null, device=like.device)
    return value.expand(len(like), *value.shape)


def null_like(name: str, null: Null, value: Tensor) -> Tensor:
    """Repeat a null value to the shape of a condition (B, ...).

    If the condition has a floating dtype, the result has the same dtype. Otherwise the null value keeps its own dtype,
    because the null class may be too large for the dtype of the labels, for example uint8.

    Raises:
        ValueError: the null value does not have the shape of one row of the condition.
    """
    rows = rows_of(null, value)
    if rows.shape != value.shape:
        found, expected = tuple(rows.shape[1:]), tuple(value.shape[1:])
        raise ValueError(f"the null value of {name} has shape {found}, expected {expected}, the shape of one example")
    return rows.to(value.dtype) if value.is_floating_point() else rows


def check_names(names: Iterable[str], conditions: Iterable[str]) -> None:
    """Check that a network has every condition that is given.

    Arguments:
        names: the names of the given conditions.
        conditions: the names of the conditions of the network.

    Raises:
        ValueError: the network has no condition of a given name.
    """
    has = list(conditions)
    for name in names:
        if name not in has:
            raise ValueError(f"the condition {name} was given to a network with the conditions: {', '.join(has) or 'none'}")


def check_conditions(cond: Mapping[str, object], batch: int) -> None:
    """Check that conditions are tensors with one row for each example.

    Raises:
        TypeError: a condition is not a tensor.
        ValueError: a condition does not have `batch` rows.
    """
    for name, value in cond.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is of type {type(value).__name__}, expected a tensor with {batch} rows")
        if value.shape[:1] != (batch,):
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {batch} rows")


def check_labels(y: Tensor, batch: int) -> None:
    """Check the shape and the dtype of labels.

    Raises:
        ValueError: y does not have shape (batch,) or an integer dtype.
    """
    if y.shape != (batch,):
        raise ValueError(f"y has shape {tuple(y.shape)}, expected ({batch},)")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"y has dtype {y.dtype}, expected an integer dtype")
