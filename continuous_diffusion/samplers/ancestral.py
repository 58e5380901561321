"""Ancestral sampling: draw the bridge as if x0hat were the clean data.

    x_s = c_0 x0hat + c_t x_t + sqrt(var) z,        (c_0, c_t, beta~) the bridge q(x_s | x_t, x_0)

The mean is the bridge's; the variance is a choice between two extremes. beta~ is right where
x_0 is known exactly, beta where the data are white noise of variance 1; both give the
same limit of many steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from torch import Tensor

from continuous_diffusion.denoisers import GaussianPosterior
from continuous_diffusion.process import GaussianProcess
from continuous_diffusion.samplers.base import GaussianSampler, clock
from diffusion_core import Denoiser, State, TimeGrid

__all__ = ["Ancestral", "FixedLarge", "FixedSmall", "ReverseVariance"]


class ReverseVariance(ABC):
    """The variance of the noise that a reverse step adds."""

    @abstractmethod
    def __call__(self, process: GaussianProcess, posterior: GaussianPosterior, s: Tensor, t: Tensor) -> Tensor:
        """The variance of x_s given x_t, broadcastable to (B, *event); s and t are scalars on the CPU."""


@dataclass(frozen=True)
class FixedSmall(ReverseVariance):
    """`beta~ = (sigma_s^2 / sigma_t^2) beta`: the bridge's variance, the lower bound."""

    def __call__(self, process: GaussianProcess, posterior: GaussianPosterior, s: Tensor, t: Tensor) -> Tensor:
        return process.bridge_coefficients(s, t)[2]


@dataclass(frozen=True)
class FixedLarge(ReverseVariance):
    """`beta = 1 - abar_t / abar_s`: the forward step's variance, the upper bound."""

    def __call__(self, process: GaussianProcess, posterior: GaussianPosterior, s: Tensor, t: Tensor) -> Tensor:
        return process.added_variance(s, t)


class Ancestral(GaussianSampler):
    """The sampler of DDPM, on any grid of times.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit; t_min > 0.
        variance: the variance of the noise of each step.
        clip: the bound that x0hat is clipped to; 1 for images; None does not clip.
        sub_batch: with seeds, how many chains the network sees at once.

    References:
        Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    """

    def __init__(
        self,
        denoiser: Denoiser,
        grid: TimeGrid,
        variance: ReverseVariance | None = None,
        clip: float | None = None,
        sub_batch: int = 16,
    ) -> None:
        super().__init__(denoiser, grid, clip, sub_batch)
        self.variance = FixedSmall() if variance is None else variance

    def step(self, state: State, t: float, s: float, y: Tensor | None = None) -> State:
        """`x_s ~ N(c_0 x0hat + c_t x_t, variance)`."""
        at_s, at_t = clock(s, t)
        posterior, state = self.evaluate(state, t, y)
        c_0, c_t, _ = self.process.bridge_coefficients(at_s, at_t)
        std = self.variance(self.process, posterior, at_s, at_t).sqrt()
        noise = state.randomness.normal(state.x.shape, state.x.dtype, state.x.device)
        return replace(state, x=c_0 * self.clipped(posterior.mean) + c_t * state.x + std * noise, t=s)
