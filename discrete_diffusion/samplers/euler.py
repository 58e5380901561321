"""Euler steps: tau-leaping with at most one jump a dimension, of probability h Lambda."""

from __future__ import annotations

from diffusion_core import TimeGrid
from diffusion_core.ranges import Count
from discrete_diffusion.denoisers import Denoiser, Posterior
from discrete_diffusion.samplers.leaps import BernoulliLeap
from discrete_diffusion.samplers.tau_leaping import TauLeaping

__all__ = ["Euler"]


class Euler(TauLeaping):
    """At most one jump of a dimension in a step: `P(x_s = y) = h Rhat_t(x_t, y)` for y != x_t; the dimension stays with the
    rest.

    Where `h Lambda > 1` the probabilities are scaled to sum to one: the dimension surely jumps, and is counted as clamped.
    First order in h. (The variant that stays with probability exp(-h Lambda) is another sampler.)

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit; the last step goes from grid.t_min to clean data.
        sub_batch: with seeds, how many chains the network sees at once.
        argmax: take the mode of p(x_0 | x_tmin) in the last step instead of a draw (biased).
    """

    def __init__(self, denoiser: Denoiser[Posterior], grid: TimeGrid, *, sub_batch: Count = 16, argmax: bool = False) -> None:
        super().__init__(denoiser, grid, leap=BernoulliLeap(), sub_batch=sub_batch, argmax=argmax)
