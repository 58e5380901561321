"""Tau-leaping: hold the reverse rates of time t for the whole step."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from diffusion_core import State, TimeGrid
from discrete_diffusion.denoisers import Denoiser, Posterior
from discrete_diffusion.samplers.base import Sampler
from discrete_diffusion.samplers.leaps import CategoricalLeap, Landing, Leap

__all__ = ["TauLeaping", "landed"]


def landed(state: State, landing: Landing, s: float) -> State:
    """The state after a leap that ends at time s, its rejected and clamped dimensions counted."""
    rejected, clamped = state.rejected + landing.rejected, state.clamped + landing.clamped
    return replace(state, x=landing.x, t=s, rejected=rejected, clamped=clamped)


class TauLeaping(Sampler[Posterior]):
    """`K_y ~ Poisson(h Rhat_t(x_t, y))` jumps in every dimension at once. First order in h.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987

    Arguments:
        denoiser, grid, sub_batch, argmax: see `Sampler`.
        leap: what several jumps of one dimension mean: `OrdinalLeap` (they add up) or
            `CategoricalLeap` (they are rejected).

    Raises:
        ValueError: an ordinal leap on a process with a mask.
    """

    def __init__(
        self,
        denoiser: Denoiser[Posterior],
        grid: TimeGrid,
        *,
        leap: Leap | None = None,
        sub_batch: int = 16,
        argmax: bool = False,
    ) -> None:
        super().__init__(denoiser, grid, sub_batch=sub_batch, argmax=argmax)
        self.leap = CategoricalLeap() if leap is None else leap
        self.leap.check(denoiser.process.rates)

    def step(self, state: State, t: float, s: float, **cond: Tensor) -> State:
        posterior, state = self.evaluate(state, t, **cond)
        return landed(state, self.leap.draw(posterior.jumps(), t - s, state.randomness), s)

    def law(self, x_t: Tensor, t: float, s: float, **cond: Tensor) -> Tensor:
        return self.leap.law(self.posterior(x_t, t, **cond).jumps(), t - s)
