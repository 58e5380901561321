"""Checks of states and of tau. An error message names the argument and its value."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_core.values import NOTHING, check_within, ends

__all__ = ["check_bridge", "check_states", "check_tau", "remaining"]


def check_states(x: Tensor, size: int, name: str = "x") -> None:
    """Raise an error if states are not integers in 0 .. size - 1.

    On an accelerator the values are not checked, because the program would have to wait for the accelerator.

    Raises:
        ValueError: x does not have an integer dtype, or has a value out of range.
    """
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"{name} has dtype {x.dtype}, expected an integer dtype")
    check_within(x, 0, size - 1, f"{name} has the value {{}}, expected values in 0 .. {size - 1}")


def check_tau(tau: Tensor, batch: int | None = None) -> None:
    """Raise an error if tau has a wrong shape, dtype or sign.

    On an accelerator the values are not checked, because the program would have to wait for the accelerator.

    Raises:
        ValueError: tau does not have the shape () or (batch,), is not floating, or has a value that is negative or NaN.
    """
    if tau.ndim > 1 or (batch is not None and tau.shape not in ((), (batch,))):
        raise ValueError(f"tau has shape {tuple(tau.shape)}, expected () or {'(B,)' if batch is None else (batch,)}")
    if not tau.is_floating_point():
        raise ValueError(f"tau has dtype {tau.dtype}, expected a floating dtype")
    least, _ = ends(tau, NOTHING)
    if not least >= 0:
        raise ValueError(f"tau = {least}, expected a non-negative number")


def remaining(tau_s: Tensor, tau_t: Tensor) -> Tensor:
    """Return `tau_t - tau_s`, and 0 where both are infinite.

    Raises:
        ValueError: tau_s > tau_t.
    """
    rest = torch.where(tau_s == tau_t, 0.0, tau_t - tau_s)
    if ends(rest, NOTHING)[0] < 0:
        i = int((tau_s > tau_t).flatten().int().argmax())
        pair = [value.expand(torch.broadcast_shapes(tau_s.shape, tau_t.shape)).flatten()[i].item() for value in (tau_s, tau_t)]
        raise ValueError(f"tau_s = {pair[0]} exceeds tau_t = {pair[1]}, expected tau_s <= tau_t")
    return rest


def check_bridge(x_0: Tensor, x_t: Tensor, tau_s: Tensor, tau_t: Tensor, size: int) -> Tensor:
    """Check the arguments of a bridge, and return `tau_t - tau_s` in float64.

    Raises:
        ValueError: see `check_states`, `check_tau` and `remaining`.
    """
    check_states(x_0, size, "x_0")
    check_states(x_t, size, "x_t")
    check_tau(tau_s, len(x_0))
    check_tau(tau_t, len(x_0))
    return remaining(tau_s.double(), tau_t.double())
