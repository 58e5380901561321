"""Euler steps: tau-leaping with at most one jump in each dimension, with probability h Lambda."""

from __future__ import annotations

from diffusion_core import TimeGrid
from diffusion_core.ranges import Count
from discrete_diffusion.denoisers import Denoiser, Posterior
from discrete_diffusion.samplers.leaps import BernoulliLeap
from discrete_diffusion.samplers.tau_leaping import TauLeaping

__all__ = ["Euler"]


class Euler(TauLeaping):
    """Euler steps: `P(x_s = y) = h Rhat_t(x_t, y)` for y != x_t, else the dimension keeps its state.

    Lambda is the exit rate of the dimension. Where `h Lambda > 1`, the probabilities are scaled to sum to 1. The dimension
    then jumps with probability 1 and is counted as clamped. The error is of first order in h. The variant that keeps the
    state with probability exp(-h Lambda) is another sampler.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987

    Proven:
        Tests compute the exact law of the samples after N steps, without random numbers, on chains with few enough states
        to list them all. The rates are uniform, absorbing, birth-death, Gaussian-target and non-reversible. With the exact
        posterior, this law converges to the exact law of the noisy data at the last time of the grid: the total variation
        decreases at first order in 1 / N. 20,000 random samples agree with the exact law (chi-square test). A chain of
        two dimensions of four values with uniform rates has KL(data || samples) = 6.06e-5 nats after 128 steps.

        discrete_diffusion/test_samplers.py::test_runs_agree_with_the_exact_law
        discrete_diffusion/test_samplers.py::test_first_order_in_total_variation
        discrete_diffusion/test_samplers.py::test_divergences_of_the_toy_are_the_known_ones

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit; the last step goes from grid.t_min to clean data.
        sub_batch: the number of chains in one network call when `sample` gets seeds; without seeds all chains share one call.
        argmax: whether the last step takes the mode of p(x_0 | x_tmin) instead of a draw. This is biased.
    """

    def __init__(self, denoiser: Denoiser[Posterior], grid: TimeGrid, *, sub_batch: Count = 16, argmax: bool = False) -> None:
        super().__init__(denoiser, grid, leap=BernoulliLeap(), sub_batch=sub_batch, argmax=argmax)
