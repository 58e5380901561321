"""Ancestral sampling: draw the bridge as if x0hat were the clean data.

    x_s = c_0 x0hat + c_t x_t + sqrt(var) z,        (c_0, c_t, beta~) the bridge q(x_s | x_t, x_0)

The mean is the bridge's; the variance is a choice, of which `variances.py` has the theory.
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
    """The sampler of DDPM, on any grid of times.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit; t_min > 0.
        variance: the variance of the noise of each step.
        clip: the bound that the predicted x_0 is clipped to, [-clip, clip]; 1 for images; None does not clip.
        sub_batch: with seeds, how many chains the network sees at once.

    References:
        Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239

    Raises:
        ValueError: a learned variance, and a denoiser without one.
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
        """`x_s ~ N(c_0 x0hat + c_t x_t, variance)`."""
        check_step(t, s)
        posterior, state = self.evaluate(state, t, **cond)
        c_0, c_t, small = self.process.bridge_coefficients(s, t)
        mean = self.mixed(posterior.mean, c_0, state.x, c_t)
        std = self.variance(self.process, s, t, small, posterior)
        return replace(state, x=self.noisy(mean, std, state), t=s)
