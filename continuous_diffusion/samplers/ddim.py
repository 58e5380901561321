"""DDIM: a family of reverse processes with the marginals of DDPM and any amount of noise.

    x_s = alpha_s x0hat + sqrt(sigma_s^2 - eta_s^2) epshat + eta_s z,
    eta_s = eta (sigma_s / sigma_t) sqrt(1 - alpha_t^2 / alpha_s^2)

eta = 1 is ancestral sampling with the bridge's variance; eta = 0 adds no noise: a
deterministic map from x_1 to x_0, the first-order solver of an ordinary differential equation,
which may also be followed from the data to the noise.
With `epshat = (x_t - alpha_t x0hat) / sigma_t` the step is two coefficients, of x0hat and x_t.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from continuous_diffusion.denoisers import Posterior
from continuous_diffusion.samplers.base import Sampler
from continuous_diffusion.samplers.variances import FixedSmall, ReverseVariance
from diffusion_core import Denoiser, State, TimeGrid
from diffusion_core.conditions import check_conditions

__all__ = ["DDIM"]


class DDIM(Sampler):
    """The sampler of denoising diffusion implicit models, on any grid of times.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit; t_min > 0.
        eta: the noise of each step in units of the ancestral one, in [0, 1].
        clip: the bound that x0hat is clipped to; 1 for images; None does not clip.
        sub_batch: with seeds, how many chains the network sees at once.
        variance: whose noise is injected, times eta; the coefficient of epshat is not touched by it.
            None means FixedSmall(), which is the published step.

    References:
        Denoising diffusion implicit models (Song et al., 2021) | https://arxiv.org/abs/2010.02502

    Raises:
        ValueError: eta is outside [0, 1]; a learned variance, and a denoiser without one.
    """

    def __init__(
        self,
        denoiser: Denoiser[Posterior],
        grid: TimeGrid,
        *,
        eta: float = 0.0,
        clip: float | None = None,
        sub_batch: int = 16,
        variance: ReverseVariance | None = None,
    ) -> None:
        super().__init__(denoiser, grid, clip=clip, sub_batch=sub_batch)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta = {eta} is outside [0, 1]")
        self.eta = eta
        self.variance = FixedSmall() if variance is None else variance
        self.variance.check(denoiser)

    def step(self, state: State, t: float, s: float, **cond: Tensor) -> State:
        """`x_s = alpha_s x0hat + sqrt(sigma_s^2 - eta_s^2) epshat + eta_s z`."""
        step, x_t = self.numbers(t, s), state.x
        posterior, state = self.evaluate(state, t, **cond)
        c_t = math.sqrt(max(step.sigma_s**2 - self.eta**2 * step.small, 0.0)) / step.sigma_t
        x = self.mixed(posterior.mean, step.alpha_s - c_t * step.alpha_t, x_t, c_t)
        if self.eta > 0:
            x = self.noisy(x, self.eta * self.variance(step, posterior), state)
        return replace(state, x=x, t=s)

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
        times = self.grid.times()[::-1]
        alpha = self.numbers(times[1], times[0]).alpha_s
        state = self.start(x_0)
        # `sample` ends on x0hat(x_tmin). One step of a fixed-point iteration inverts that: alpha x_0 + sigma epshat(alpha x_0).
        posterior, state = self.evaluate(replace(state, x=alpha * x_0), times[0], **cond)
        state = replace(state, x=alpha * (2 * x_0 - self.clipped(posterior.mean)))
        for s, t in pairwise(times):
            up, x_s = self.numbers(t, s), state.x
            posterior, state = self.evaluate(state, s, **cond)
            c_s = up.sigma_t / up.sigma_s
            state = replace(state, x=self.mixed(posterior.mean, up.alpha_t - c_s * up.alpha_s, x_s, c_s), t=t)
        return state.x
