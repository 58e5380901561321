"""Check time tensors, find the dtype of a network, and broadcast or sum the values of examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusion_core.values import check_within

__all__ = ["batch_time", "check_time", "event_sum", "parameter_dtype", "per_example"]


def check_time(t: Tensor, batch: int) -> None:
    """Check the shape, the dtype and the values of times.

    On the CPU the check of the values raises at once. On other devices it is a device-side assertion, which is asynchronous.

    Raises:
        ValueError: t does not have shape () or (batch,), is not floating, or has a value outside [0, 1].
    """
    if t.shape not in ((), (batch,)):
        raise ValueError(f"t has shape {tuple(t.shape)}, expected () or ({batch},)")
    if not t.is_floating_point():
        raise ValueError(f"t has dtype {t.dtype}, expected a floating dtype")
    check_within(t, 0, 1, "t = {} is outside [0, 1]")


def batch_time(t: Tensor, batch: int) -> Tensor:
    """Return the time of each example (B,), for times t of shape () or (B,)."""
    return t.expand(batch)


def per_example(value: Tensor, like: Tensor) -> Tensor:
    """Append axes to one value, (), or one value per example, (B,), so that it broadcasts over `like` (B, ...)."""
    return value if value.ndim == 0 else value.reshape(-1, *(1,) * (like.ndim - 1))


def event_sum(values: Tensor, active: Tensor | None = None) -> Tensor:
    """Sum the values of each example: (B, *event) -> (B,). If `active` is given, only active positions are summed."""
    return (values if active is None else torch.where(active, values, 0.0)).flatten(1).sum(1)


def parameter_dtype(network: object, otherwise: torch.dtype) -> torch.dtype:
    """Return the dtype of the first floating parameter of a network; `otherwise` if it has none."""
    for parameter in network.parameters() if isinstance(network, nn.Module) else ():
        if parameter.is_floating_point():
            return parameter.dtype
    return otherwise
