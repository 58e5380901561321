"""DDIM: a family of reverse processes with the marginals of DDPM and an adjustable amount of noise.

    x_s = alpha_s x0hat + sqrt(sigma_s^2 - eta_s^2) epshat + eta_s z,
    eta_s = eta sigma_s sqrt(1 - snr_t / snr_s)

For variance-preserving schedules eta_s is `eta (sigma_s / sigma_t) sqrt(1 - alpha_t^2 / alpha_s^2)`, as published.
eta = 1 is ancestral sampling with the variance of the bridge q(x_s | x_t, x_0). eta = 0 adds no noise. The sampler is
then a deterministic map from x_1 to x_0: a first-order solver of an ordinary differential equation. This equation can
also be solved from the data to the noise (`DDIM.encode`).

If we insert `epshat = (x_t - alpha_t x0hat) / sigma_t`, the step is a sum of x0hat, x_t and noise:

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
    """DDIM, the sampler of denoising diffusion implicit models, on any grid of times.

    Proven:
        Whole trajectories equal those of DDIM in diffusers for the same network and noise (eta = 0, 0.5 and 1), to
        1e-10 in double precision. Convergence is tested with Gaussian data, and for eta = 0 also with data from a
        mixture of Gaussians. With the exact posterior, the distribution of the samples at t_min converges to the exact
        distribution of the noisy data at t_min. The total variation decreases at first order in 1 / N for N steps.

        continuous_diffusion/test_against_diffusers.py::test_ddim
        continuous_diffusion/test_samplers.py::test_order_on_a_gaussian
        continuous_diffusion/test_samplers.py::test_order_of_deterministic_maps_on_a_mixture

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times of the steps, with t_min > 0.
        eta: the noise of each step relative to ancestral sampling; 0 is deterministic.
        clip: each prediction of x_0 is clipped to [-clip, clip]. Use 1 for images. None means no clipping.
        sub_batch: the number of samples in one network call if `sample` gets seeds. Without seeds, all samples share
            one call.
        variance: the variance of the added noise for eta = 1. For other eta it is multiplied by eta^2. FixedSmall()
            gives the published step. Another variance changes only the noise that is added. The coefficients of x0hat and
            epshat in the step stay the same.

    References:
        Denoising diffusion implicit models (Song et al., 2021) | https://arxiv.org/abs/2010.02502

    Raises:
        ValueError: `variance` uses a learned variance and the denoiser learns none.
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
        """Make one step: `x_s = alpha_s x0hat + sqrt(sigma_s^2 - eta_s^2) epshat + eta_s z`."""
        check_step(t, s)
        posterior, state = self.evaluate(state, t, **cond)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.process.schedule(t), self.process.schedule(s)
        small = self.process.bridge_coefficients(s, t)[2] if self.eta > 0 else torch.zeros_like(t)
        c = (sigma_s**2 - self.eta**2 * small).clamp(min=0).sqrt() / sigma_t  # rounding can make it negative if alpha_t = 0
        x_s = self.mixed(posterior.mean, alpha_s - c * alpha_t, state.x, c)
        if self.eta > 0:
            x_s = self.noisy(x_s, self.eta * self.variance(self.process, s, t, small, posterior), state)
        return replace(state, x=x_s, t=s)

    @torch.no_grad()
    def encode(self, x_0: Tensor, **cond: Tensor) -> Tensor:
        """Map clean data to x at t_max: the inverse of the deterministic map. `sample(x)` decodes the result.

        A step towards noise, from s to t > s, is `x_t = alpha_t x0hat(x_s, s) + sigma_t epshat(x_s, s)`. Its predictions
        are those at its start s. A step towards data, from t to s, uses the predictions at t. So the two are not exact
        inverses. The error of encoding and decoding is of first order in the length of the steps. There are N + 1 network
        calls.

        Arguments:
            x_0: clean data (B, *event).
            cond: conditions of the network by name, batch first.

        Raises:
            ValueError: eta > 0 (a step with noise has no inverse), or x_0 or a condition has a wrong shape.
        """
        if self.eta > 0:
            raise ValueError(f"eta = {self.eta}, expected 0 to encode: a step with noise has no inverse")
        check_conditions(cond, len(x_0))
        times = torch.tensor(self.grid.times()[::-1], dtype=torch.float64, device=x_0.device)
        state = self.start(x_0)
        alpha, _ = self.process.schedule(times[0])
        # `sample` ends with x0hat(x_tmin). One step of a fixed-point iteration inverts it: alpha x_0 + sigma epshat(alpha x_0).
        posterior, state = self.evaluate(replace(state, x=alpha * x_0), times[0], **cond)
        state = replace(state, x=alpha * (2 * x_0 - self.clipped(posterior.mean)))
        for s, t in pairwise(times):
            posterior, state = self.evaluate(state, s, **cond)
            (alpha_s, sigma_s), (alpha_t, sigma_t) = self.process.schedule(s), self.process.schedule(t)
            c = sigma_t / sigma_s
            state = replace(state, x=self.mixed(posterior.mean, alpha_t - c * alpha_s, state.x, c), t=t)
        return state.x
