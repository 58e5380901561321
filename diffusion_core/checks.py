"""Networks that have come to say nothing: what they return is checked, and refused."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_core.tensors import batch_time
from diffusion_core.values import readable

__all__ = ["NotFiniteError", "check_finite", "finite_examples"]


class NotFiniteError(ValueError):
    """A network, or what it was given, is infinite or not a number: nothing can be drawn from it or measured of it."""


def finite_examples(x: Tensor) -> Tensor:
    """Which examples have no infinite number and no NaN: (B, ...) -> bool (B,). One reduction, which makes no copy of x."""
    low, high = x.flatten(1).aminmax(dim=1)
    return low.isfinite() & high.isfinite()


def check_finite(fine: Tensor, x_t: Tensor, t: Tensor, what: str = "the network's output") -> None:
    """Refuse what a network says at (x_t, t) where it is not fine.

    The answer is only read on the CPU; elsewhere the check is asynchronous (a device-side assertion).

    Arguments:
        fine: whether it is, for each example: bool (B,).
        x_t: what the network was given (B, *event).
        t: the time, () or (B,).
        what: what it is, for the message.

    Raises:
        NotFiniteError: an example is not fine. If its x_t is not finite, the message says that instead.
    """
    everywhere = fine.all()
    if not readable(everywhere):
        torch._assert_async(everywhere, f"{what} is not finite")
    elif not everywhere:
        first = int((~fine).nonzero()[0, 0])
        given = "x_t" if x_t.is_floating_point() and not bool(x_t[first].isfinite().all()) else what
        raise NotFiniteError(f"{given} at t = {batch_time(t, len(fine))[first].item():.6g} is not finite")
