"""Midpoint tau-leaping: a leap with the reverse rates at the middle of the step."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from diffusion_core import State, TimeGrid
from diffusion_core.ranges import Count
from discrete_diffusion.denoisers import Denoiser, Posterior
from discrete_diffusion.jumps import Jumps, still
from discrete_diffusion.samplers.base import Sampler
from discrete_diffusion.samplers.leaps import OrdinalLeap

__all__ = ["MidpointTauLeaping"]


class MidpointTauLeaping(Sampler[Posterior]):
    """Midpoint tau-leaping for ordinal values: a leap with the reverse rates at the middle of the step.

    First, each dimension moves by its expected displacement in half a step, rounded to an integer:
    `x' = x + round(h/2 sum_y Rhat_t(x, y) (y - x))`, clamped to the range of values. Then the jumps of the whole step are
    drawn with the rates at x' and at the time t - h/2: `K_y ~ Poisson(h Rhat_{t-h/2}(x', y))`. Their displacements are added
    to x: `x_s = x + sum_y K_y (y - x')`, clamped. A step needs two network calls.

    The error is of first order in h, like that of tau-leaping. In a short step, the expected displacement is rounded to
    zero, so the midpoint x' is equal to x. Therefore the order is not higher than one.

    The error was computed by enumeration of all states, as the total variation from the exact marginal, for one dimension
    with 64 values and the exact posterior. It is 0.0258, 0.0099 and 0.0037 with 16, 32 and 64 steps. The error of
    `TauLeaping` is 0.0296, 0.0144 and 0.0071. So the error of `MidpointTauLeaping` is smaller for the same number of steps,
    but not for the same number of network calls.

    References:
        Approximate accelerated stochastic simulation of chemically reacting systems (Gillespie, 2001), the estimated-midpoint
        technique | J. Chem. Phys. 115

    Proven:
        Tests list all states of small chains and compute the exact distribution of the samples after N steps, without random
        numbers. The rate matrices are uniform, birth-death, Gaussian-target and one that is not reversible. With the exact
        posterior, this distribution converges to the marginal at the last time of the grid: the total variation decreases in
        proportion to 1 / N (first order). 20,000 random samples agree with the exact distribution (chi-square test). For
        uniform rates, only the exact distribution is tested. The exact law of one step is equal to that of a second
        implementation of the formula above, with loops over all jumps.

        discrete_diffusion/test_samplers.py::test_runs_agree_with_the_exact_law
        discrete_diffusion/test_samplers.py::test_first_order_in_total_variation
        discrete_diffusion/test_samplers.py::test_midpoint_figures_are_those_of_its_docstring
        discrete_diffusion/test_samplers.py::test_a_midpoint_step_is_the_published_one

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit. The last step goes from grid.t_min to clean data.
        sub_batch: the number of samples in one network call if `sample` gets seeds. Without seeds, all samples share
            one call.
        argmax: whether the last step takes the most probable x_0 given x_tmin instead of a draw. The samples are then biased.

    Raises:
        ValueError: the process has a mask. The distance between a value and a mask is not defined.
    """

    steps_by_rates = True

    def __init__(self, denoiser: Denoiser[Posterior], grid: TimeGrid, *, sub_batch: Count = 16, argmax: bool = False) -> None:
        super().__init__(denoiser, grid, sub_batch=sub_batch, argmax=argmax)
        self.leap = OrdinalLeap()
        self.leap.check(denoiser.process.rates)

    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        known = cond.get("known")
        posterior, here = self.evaluate(state, t, **cond)
        middle = self._midpoint(still(posterior.jumps(), known), t - s)
        posterior, there = self.evaluate(replace(here, x=middle), (t + s) / 2, **cond)
        x, counts = self.leap.draw(still(posterior.jumps(), known), t - s, state.randomness, state.x)
        return replace(there, x=x, t=s).counted(**counts)

    def law(self, x_t: Tensor, t: Tensor, s: Tensor, **cond: Tensor) -> Tensor:
        """Return the law of a step: (B, *event, n). x' is a function of x_t, so dimensions are independent given x_t."""
        known = cond.get("known")
        middle = self._midpoint(still(self.denoiser(x_t, t, **cond).jumps(), known), t - s)
        return self.leap.law(still(self.denoiser(middle, (t + s) / 2, **cond).jumps(), known), t - s, x_t)

    def _midpoint(self, jumps: Jumps, h: Tensor) -> Tensor:
        return self.leap.expected(jumps, h / 2)
