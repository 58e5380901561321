"""Checks that the output of a network is finite."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_core.tensors import batch_time
from diffusion_core.values import readable

__all__ = ["NotFiniteError", "check_finite", "finite_examples"]


class NotFiniteError(ValueError):
    """The error for a network whose input or output is infinite or NaN, so that it cannot be sampled from or evaluated."""


def finite_examples(x: Tensor) -> Tensor:
    """Return whether each example is finite: (B, ...) -> bool (B,). This is one reduction and makes no copy of x."""
    low, high = x.flatten(1).aminmax(dim=1)
    return low.isfinite() & high.isfinite()


def check_finite(fine: Tensor, x_t: Tensor, t: Tensor, what: str = "the network's output") -> None:
    """Raise an error if the output of a network at (x_t, t) is not finite.

    On the CPU the check raises at once. On other devices it is a device-side assertion, which is asynchronous.

    Arguments:
        fine: whether the output of each example is finite, bool (B,).
        x_t: the input of the network (B, *event).
        t: the time, () or (B,).
        what: the name of the output in the error message.

    Raises:
        NotFiniteError: the output of an example is not finite. If its x_t is not finite, the message names x_t instead.
    """
    everywhere = fine.all()
    if not readable(everywhere):
        torch._assert_async(everywhere, f"{what} is not finite")
    elif not everywhere:
        first = int((~fine).nonzero()[0, 0])
        given = "x_t" if x_t.is_floating_point() and not bool(x_t[first].isfinite().all()) else what
        raise NotFiniteError(f"{given} at t = {batch_time(t, len(fine))[first].item():.6g} is not finite")
