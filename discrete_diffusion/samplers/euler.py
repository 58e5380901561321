"""Euler steps: tau-leaping with at most one jump in each dimension, with probability h Lambda."""

from __future__ import annotations

from diffusion_core import TimeGrid
from diffusion_core.ranges import Count
from discrete_diffusion.denoisers import Denoiser, Posterior
from discrete_diffusion.samplers.leaps import BernoulliLeap
from discrete_diffusion.samplers.tau_leaping import TauLeaping

__all__ = ["Euler"]


class Euler(TauLeaping):
    """Euler steps: each dimension jumps to y with probability `h Rhat_t(x_t, y)`, and otherwise keeps its state.

    h is the length of the step and Rhat_t are the reverse rates. Lambda is the exit rate of the dimension: the sum of its
    reverse rates. If `h Lambda > 1`, the probabilities are scaled to sum to 1. The dimension then jumps with probability 1
    and is counted as clamped. The error is of first order in h. In another variant of Euler steps, a dimension keeps its
    state with probability exp(-h Lambda). This class does not do that.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987

    Proven:
        Tests list all states of small chains and compute the exact distribution of the samples after N steps, without random
        numbers. The rate matrices are uniform, absorbing, birth-death, Gaussian-target and one that is not reversible. With
        the exact posterior, this distribution converges to the marginal at the last time of the grid: the total variation
        decreases in proportion to 1 / N (first order). 20,000 random samples agree with the exact distribution (chi-square
        test). For a chain with two dimensions, four values each, and uniform rates, KL(data || samples) is 6.06e-5 nats
        after 128 steps.

        discrete_diffusion/test_samplers.py::test_runs_agree_with_the_exact_law
        discrete_diffusion/test_samplers.py::test_first_order_in_total_variation
        discrete_diffusion/test_samplers.py::test_divergences_of_the_toy_are_the_known_ones

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit. The last step goes from grid.t_min to clean data.
        sub_batch: the number of samples in one network call if `sample` gets seeds. Without seeds, all samples share
            one call.
        argmax: whether the last step takes the most probable x_0 given x_tmin instead of a draw. The samples are then biased.
    """

    def __init__(self, denoiser: Denoiser[Posterior], grid: TimeGrid, *, sub_batch: Count = 16, argmax: bool = False) -> None:
        super().__init__(denoiser, grid, leap=BernoulliLeap(), sub_batch=sub_batch, argmax=argmax)
