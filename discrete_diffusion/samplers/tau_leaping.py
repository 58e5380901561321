"""Tau-leaping: hold the reverse rates of time t for the whole step."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from diffusion_core import State, TimeGrid
from diffusion_core.ranges import Count
from discrete_diffusion.denoisers import Denoiser, Posterior
from discrete_diffusion.samplers.base import Sampler
from discrete_diffusion.samplers.leaps import Leap, usual_leap

__all__ = ["TauLeaping"]


class TauLeaping(Sampler[Posterior]):
    """Holds the rates for a step and draws its jumps: `K_y ~ Poisson(h Rhat_t(x_t, y))` in every dimension at once.
    First order in h.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit; the last step goes from grid.t_min to clean data.
        leap: what several jumps of one dimension mean: `OrdinalLeap` (they add up) or `CategoricalLeap` (they are rejected).
            None is `OrdinalLeap` where the rates are `ordered`, `CategoricalLeap` elsewhere.
        sub_batch: with seeds, how many chains the network sees at once.
        argmax: take the mode of p(x_0 | x_tmin) in the last step instead of a draw (biased).

    Raises:
        ValueError: an ordinal leap on a process with a mask.
    """

    steps_by_rates = True

    def __init__(
        self,
        denoiser: Denoiser[Posterior],
        grid: TimeGrid,
        *,
        leap: Leap | None = None,
        sub_batch: Count = 16,
        argmax: bool = False,
    ) -> None:
        super().__init__(denoiser, grid, sub_batch=sub_batch, argmax=argmax)
        self.leap = usual_leap(denoiser.process.rates) if leap is None else leap
        self.leap.check(denoiser.process.rates)

    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        posterior, state = self.evaluate(state, t, **cond)
        x, counts = self.leap.draw(posterior.jumps(), t - s, state.randomness)
        return replace(state, x=x, t=s).counted(**counts)

    def law(self, x_t: Tensor, t: Tensor, s: Tensor, **cond: Tensor) -> Tensor:
        return self.leap.law(self.denoiser(x_t, t, **cond).jumps(), t - s)
