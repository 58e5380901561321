"""Losses of data at given times: draw, then score."""

from __future__ import annotations

from torch import Tensor

from diffusion_core import Denoiser, Generator, Loss, Objective


def scored(
    loss: Loss[object], denoiser: Denoiser[object], x_0: Tensor, t: Tensor, generator: Generator = None, **cond: Tensor
) -> Tensor:
    """The loss of each example noised to its time: (B,)."""
    active = denoiser.active(x_0, **cond)
    return loss(denoiser, loss.draw(denoiser.process, x_0, t, generator, active), **cond)


def losses_of(objective: Objective[object], x_0: Tensor, generator: Generator = None, **cond: Tensor) -> Tensor:
    """The weighted loss of each example at times of the objective: (B,)."""
    sample, given = objective.draw(x_0, generator, **cond)
    return objective(sample, **given)
