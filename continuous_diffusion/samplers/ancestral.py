"""Ancestral sampling: draw x_s from the bridge, with the prediction x0hat of the network in place of x_0.

    x_s = c_0 x0hat + c_t x_t + sqrt(var) z,        (c_0, c_t, beta~) from the bridge q(x_s | x_t, x_0)

The mean is the mean of the bridge. The variance can be chosen, as `variances.py` explains.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from continuous_diffusion.denoisers import Posterior
from continuous_diffusion.samplers.base import Sampler, check_step
from continuous_diffusion.samplers.variances import FixedSmall, ReverseVariance
from diffusion_core import Denoiser, State, TimeGrid
from diffusion_core.ranges import Count, Positive

__all__ = ["Ancestral"]


class Ancestral(Sampler):
    """Ancestral sampling, the sampler of DDPM, on any grid of times.

    Proven:
        Whole trajectories equal those of DDPM in diffusers for the same network and noise, to 1e-10 in double precision.
        With the exact posterior, the distribution of the samples at t_min converges to the exact distribution of the
        noisy data at t_min. The total variation decreases at first order in 1 / N for N steps. The data are a Gaussian
        or a mixture of Gaussians.

        continuous_diffusion/test_against_diffusers.py::test_ddpm
        continuous_diffusion/test_samplers.py::test_order_on_a_gaussian
        continuous_diffusion/test_samplers.py::test_ancestral_is_first_order_on_a_mixture

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times of the steps, with t_min > 0.
        variance: the variance of the noise of each step.
        clip: each prediction of x_0 is clipped to [-clip, clip]. Use 1 for images. None means no clipping.
        sub_batch: the number of samples in one network call if `sample` gets seeds. Without seeds, all samples share
            one call.

    References:
        Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239

    Raises:
        ValueError: `variance` uses a learned variance and the denoiser learns none.
    """

    def __init__(
        self,
        denoiser: Denoiser[Posterior],
        grid: TimeGrid,
        *,
        variance: ReverseVariance = FixedSmall(),  # noqa: B008
        clip: Positive | None = None,
        sub_batch: Count = 16,
    ) -> None:
        super().__init__(denoiser, grid, clip=clip, sub_batch=sub_batch)
        self.variance = variance
        self.variance.check(denoiser)

    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        """Draw `x_s ~ N(c_0 x0hat + c_t x_t, variance)`."""
        check_step(t, s)
        posterior, state = self.evaluate(state, t, **cond)
        c_0, c_t, small = self.process.bridge_coefficients(s, t)
        mean = self.mixed(posterior.mean, c_0, state.x, c_t)
        std = self.variance(self.process, s, t, small, posterior)
        return replace(state, x=self.noisy(mean, std, state), t=s)
