"""Times and values as tensors: their checks, their shapes, and whether they may be read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["batch_time", "check_time", "per_example", "readable"]


def readable(tensor: Tensor) -> bool:
    """Whether looking at the values of a tensor is possible and costs nothing: it is real, and on the CPU."""
    return tensor.device.type == "cpu" and type(tensor) in (Tensor, nn.Parameter)


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
    if t.ndim == 0 and readable(t) and 0 <= t.item() <= 1:
        return
    inside = ((t >= 0) & (t <= 1)).all()
    if not readable(t):
        torch._assert_async(inside, "t is outside [0, 1]")
    elif not inside:
        outside = t[~((t >= 0) & (t <= 1))].flatten()[0].item()
        raise ValueError(f"t = {outside} is outside [0, 1]")


def batch_time(t: Tensor, batch: int) -> Tensor:
    """The time of every example: () or (B,) -> (B,)."""
    return t.expand(batch)


def per_example(value: Tensor, like: Tensor) -> Tensor:
    """Append axes to a per-example value, () or (B,), so that it broadcasts over `like` (B, ...)."""
    return value if value.ndim == 0 else value.reshape(-1, *(1,) * (like.ndim - 1))
