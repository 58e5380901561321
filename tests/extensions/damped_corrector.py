"""A corrector of the discrete engine."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from diffusion_core import State
from diffusion_core.ranges import Range, check_arguments
from discrete_diffusion.denoisers import Denoiser, Posterior
from discrete_diffusion.samplers.correctors import ForwardBackward

__all__ = ["DampedCorrector"]


class DampedCorrector(ForwardBackward):
    """A shorter leap of `ForwardBackward`, which keeps the marginal to second order in its length.

    Arguments:
        denoiser: the denoiser whose marginal is kept.
        damping: the share of the length.
    """

    def __init__(self, denoiser: Denoiser[Posterior], *, damping: Annotated[float, Range(above=0, most=1)] = 0.5) -> None:
        check_arguments(DampedCorrector, locals())
        super().__init__(denoiser)
        self.damping = damping

    def step(self, state: State, s: Tensor, h: Tensor, **cond: Tensor) -> State:
        return super().step(state, s, self.damping * h, **cond)

    def law(self, x_s: Tensor, s: Tensor, h: Tensor, **cond: Tensor) -> Tensor:
        return super().law(x_s, s, self.damping * h, **cond)
