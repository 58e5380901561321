"""Conditions of a network, by name: tensors with one row an example, such as labels y (B,).

A network lists its conditions with the values that mean "none". A condition that is absent is omitted; it is never None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Null", "check_conditions", "check_labels", "check_names", "null_like", "rows_of"]

Null: TypeAlias = int | float | Tensor
"""The value of a condition that means "none", for one example: a number, or a tensor without the batch axis."""


def rows_of(null: Null, like: Tensor) -> Tensor:
    """A null value for every example of a batch, on its device: (B, ...)."""
    value = torch.as_tensor(null, device=like.device)
    return value.expand(len(like), *value.shape)


def null_like(name: str, null: Null, value: Tensor) -> Tensor:
    """A null value in every row of a condition: in the shape of its values (B, ...) and, if they are floating, in their dtype.

    Integers keep their own: the null class may be more than a narrow dtype of labels holds.

    Raises:
        ValueError: the null value is not of the shape of one row.
    """
    rows = rows_of(null, value)
    if rows.shape != value.shape:
        found, expected = tuple(rows.shape[1:]), tuple(value.shape[1:])
        raise ValueError(f"the null value of {name} has shape {found}, expected {expected}: that of one example")
    return rows.to(value.dtype) if value.is_floating_point() else rows


def check_names(names: Iterable[str], conditions: Iterable[str]) -> None:
    """Refuse conditions that a network does not have.

    Arguments:
        names: the names of the conditions that are given.
        conditions: the names of those that the network has.

    Raises:
        ValueError: a name that is not among them.
    """
    has = list(conditions)
    for name in names:
        if name not in has:
            raise ValueError(f"the condition {name} was given to a network with the conditions: {', '.join(has) or 'none'}")


def check_conditions(cond: Mapping[str, object], batch: int) -> None:
    """Refuse conditions that are no tensors with one row an example.

    Raises:
        TypeError: one is no tensor.
        ValueError: one has another number of rows.
    """
    for name, value in cond.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is of type {type(value).__name__}, expected a tensor with {batch} rows")
        if value.shape[:1] != (batch,):
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {batch} rows")


def check_labels(y: Tensor, batch: int) -> None:
    """Refuse what cannot be labels.

    Raises:
        ValueError: y is not (batch,) or is not integer.
    """
    if y.shape != (batch,):
        raise ValueError(f"y has shape {tuple(y.shape)}, expected ({batch},)")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"y has dtype {y.dtype}, expected an integer dtype")
