"""Times and values as tensors: their checks and their shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_core.values import check_within

__all__ = ["batch_time", "check_time", "event_sum", "per_example"]


def check_time(t: Tensor, batch: int) -> None:
    """Refuse times of a wrong shape, dtype or value.

    Values are only read on the CPU, where that costs nothing; elsewhere the check is
    asynchronous (a device-side assertion).

    Raises:
        ValueError: t is not () or (batch,), is not floating, or leaves [0, 1].
    """
    if t.shape not in ((), (batch,)):
        raise ValueError(f"t has shape {tuple(t.shape)}, expected () or ({batch},)")
    if not t.is_floating_point():
        raise ValueError(f"t has dtype {t.dtype}, expected a floating dtype")
    check_within(t, 0, 1, "t = {} is outside [0, 1]")


def batch_time(t: Tensor, batch: int) -> Tensor:
    """The time of every example: () or (B,) -> (B,)."""
    return t.expand(batch)


def per_example(value: Tensor, like: Tensor) -> Tensor:
    """Append axes to a per-example value, () or (B,), so that it broadcasts over `like` (B, ...)."""
    return value if value.ndim == 0 else value.reshape(-1, *(1,) * (like.ndim - 1))


def event_sum(values: Tensor, active: Tensor | None = None) -> Tensor:
    """The sum of each example's values, over its active positions if these are given: (B, *event) -> (B,)."""
    return (values if active is None else torch.where(active, values, 0.0)).flatten(1).sum(1)
