"""DDIM: a family of reverse processes with the marginals of DDPM and any amount of noise.

    x_s = alpha_s x0hat + sqrt(sigma_s^2 - eta_s^2) epshat + eta_s z,
    eta_s = eta (sigma_s / sigma_t) sqrt(1 - alpha_t^2 / alpha_s^2)

eta = 1 is ancestral sampling with the bridge's variance; eta = 0 adds no noise: a
deterministic map from x_1 to x_0, the first-order solver of an ordinary differential equation.
With `epshat = (x_t - alpha_t x0hat) / sigma_t` the step is two coefficients, of x0hat and x_t.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from continuous_diffusion.samplers.base import GaussianSampler, clock
from diffusion_core import Denoiser, State, TimeGrid

__all__ = ["DDIM"]


class DDIM(GaussianSampler):
    """The sampler of denoising diffusion implicit models, on any grid of times.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit; t_min > 0.
        eta: the noise of each step in units of the ancestral one, in [0, 1].
        clip: the bound that x0hat is clipped to; 1 for images; None does not clip.
        sub_batch: with seeds, how many chains the network sees at once.

    References:
        Denoising diffusion implicit models (Song et al., 2021) | https://arxiv.org/abs/2010.02502

    Raises:
        ValueError: eta is outside [0, 1].
    """

    def __init__(
        self,
        denoiser: Denoiser,
        grid: TimeGrid,
        eta: float = 0.0,
        clip: float | None = None,
        sub_batch: int = 16,
    ) -> None:
        super().__init__(denoiser, grid, clip, sub_batch)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta = {eta} is outside [0, 1]")
        self.eta = eta

    def step(self, state: State, t: float, s: float, y: Tensor | None = None) -> State:
        """`x_s = alpha_s x0hat + sqrt(sigma_s^2 - eta_s^2) epshat + eta_s z`."""
        at_s, at_t = clock(s, t)
        posterior, state = self.evaluate(state, t, y)
        schedule = self.process.schedule
        (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(at_s), schedule(at_t)
        eta_s = self.eta * self.process.bridge_coefficients(at_s, at_t)[2].sqrt()
        c_t = (sigma_s.square() - eta_s.square()).clamp(min=0).sqrt() / sigma_t
        x = (alpha_s - c_t * alpha_t) * self.clipped(posterior.mean) + c_t * state.x
        if self.eta > 0:
            x = x + eta_s * state.randomness.normal(x.shape, x.dtype, x.device)
        return replace(state, x=x, t=s)
