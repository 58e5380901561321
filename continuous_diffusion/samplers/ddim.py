"""DDIM: a family of reverse processes with the marginals of DDPM and any amount of noise.

    x_s = alpha_s x0hat + sqrt(sigma_s^2 - eta_s^2) epshat + eta_s z,
    eta_s = eta sigma_s sqrt(1 - snr_t / snr_s)

On a schedule that preserves the variance eta_s is the published `eta (sigma_s / sigma_t) sqrt(1 - alpha_t^2 / alpha_s^2)`.
eta = 1 is ancestral sampling with the bridge's variance; eta = 0 adds no noise: a
deterministic map from x_1 to x_0, the first-order solver of an ordinary differential equation,
which may also be followed from the data to the noise.
With `epshat = (x_t - alpha_t x0hat) / sigma_t` the step is two coefficients and noise:

    x_s = (alpha_s - c alpha_t) x0hat + c x_t + eta_s z,        c = sqrt(sigma_s^2 - eta_s^2) / sigma_t
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from continuous_diffusion.denoisers import Posterior
from continuous_diffusion.samplers.base import Sampler, check_step
from continuous_diffusion.samplers.variances import FixedSmall, ReverseVariance
from diffusion_core import Denoiser, State, TimeGrid
from diffusion_core.conditions import check_conditions
from diffusion_core.ranges import Count, Positive, Share, check_arguments

__all__ = ["DDIM"]


class DDIM(Sampler):
    """The sampler of denoising diffusion implicit models, on any grid of times.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit; t_min > 0.
        eta: the noise of each step in units of ancestral sampling's: 0 is deterministic.
        clip: the bound that the predicted x_0 is clipped to, [-clip, clip]; 1 for images; None does not clip.
        sub_batch: with seeds, how many chains the network sees at once.
        variance: the variance of the noise that a step adds, times eta^2; FixedSmall() is the published step.
            The coefficient of the predicted noise does not depend on it.

    References:
        Denoising diffusion implicit models (Song et al., 2021) | https://arxiv.org/abs/2010.02502

    Raises:
        ValueError: a learned variance, and a denoiser without one.
    """

    def __init__(
        self,
        denoiser: Denoiser[Posterior],
        grid: TimeGrid,
        *,
        eta: Share = 0.0,
        clip: Positive | None = None,
        sub_batch: Count = 16,
        variance: ReverseVariance = FixedSmall(),  # noqa: B008
    ) -> None:
        check_arguments(DDIM, locals())
        super().__init__(denoiser, grid, clip=clip, sub_batch=sub_batch)
        self.eta = eta
        self.variance = variance
        self.variance.check(denoiser)

    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        """`x_s = alpha_s x0hat + sqrt(sigma_s^2 - eta_s^2) epshat + eta_s z`."""
        check_step(t, s)
        posterior, state = self.evaluate(state, t, **cond)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.process.schedule(t), self.process.schedule(s)
        small = self.process.bridge_coefficients(s, t)[2] if self.eta > 0 else torch.zeros_like(t)
        c = (sigma_s**2 - self.eta**2 * small).clamp(min=0).sqrt() / sigma_t  # at alpha_t = 0 rounding may go below 0
        x_s = self.mixed(posterior.mean, alpha_s - c * alpha_t, state.x, c)
        if self.eta > 0:
            x_s = self.noisy(x_s, self.eta * self.variance(self.process, s, t, small, posterior), state)
        return replace(state, x=x_s, t=s)

    @torch.no_grad()
    def encode(self, x_0: Tensor, **cond: Tensor) -> Tensor:
        """Follow the deterministic map upwards, from clean data to x at t_max, which `sample` decodes.

        A step upwards takes epshat where it begins, as a step downwards does:
        `x_t = alpha_t x0hat(x_s, s) + sigma_t epshat(x_s, s)`. So the two undo each other up to first
        order in the length of the steps. Costs N + 1 network calls.

        Arguments:
            x_0: clean data (B, *event).
            cond: conditions of the network by name, batch first.

        Raises:
            ValueError: eta > 0, where there is noise that no map can undo, or x_0 or a condition has a wrong shape.
        """
        if self.eta > 0:
            raise ValueError(f"eta = {self.eta}, expected 0 to encode: a step with noise cannot be undone")
        check_conditions(cond, len(x_0))
        times = torch.tensor(self.grid.times()[::-1], dtype=torch.float64, device=x_0.device)
        state = self.start(x_0)
        alpha, _ = self.process.schedule(times[0])
        # `sample` ends on x0hat(x_tmin). One step of a fixed-point iteration inverts that: alpha x_0 + sigma epshat(alpha x_0).
        posterior, state = self.evaluate(replace(state, x=alpha * x_0), times[0], **cond)
        state = replace(state, x=alpha * (2 * x_0 - self.clipped(posterior.mean)))
        for s, t in pairwise(times):
            posterior, state = self.evaluate(state, s, **cond)
            (alpha_s, sigma_s), (alpha_t, sigma_t) = self.process.schedule(s), self.process.schedule(t)
            c = sigma_t / sigma_s
            state = replace(state, x=self.mixed(posterior.mean, alpha_t - c * alpha_s, state.x, c), t=t)
        return state.x
