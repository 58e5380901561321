"""Readings of a network as a Gaussian posterior of the clean data.

A parameterisation is four coefficients of time:

    x0hat = c_skip(t) x_t + c_out(t) network(c_in(t) x_t, c_noise(t), y)

| network predicts | c_in | c_skip  | c_out           | c_noise |
|------------------|------|---------|-----------------|---------|
| the noise eps    | 1    | 1/alpha | -sigma / alpha  | t       |

Squared-error training teaches the mean of p(x_0 | x_t) and nothing of its variance. The
posterior of a network denoiser therefore states a variance by convention: sigma_t^2, which is
exact for white data of variance 1 and, averaged over x_t, at least the best linear
denoiser's error for any data in [-1, 1] (whose second moment is at most 1). The samplers
use the mean alone.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from continuous_diffusion.process import GaussianProcess, check_real, match
from diffusion_core import Denoiser, Generator, Posterior, as_randomness, batch_time, check_time

__all__ = ["EpsilonDenoiser", "GaussianPosterior", "Network", "PreconditionedDenoiser"]

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x (B, *event), c (B,), y (B,) or None) -> (B, *event)."""


class GaussianPosterior(Posterior):
    """`p(x_0^d | x_t) = N(mean^d, var^d)`, and the noise that goes with the mean.

    Arguments:
        mean: x0hat, the expected clean data (B, *event).
        var: the variance of every dimension, broadcastable to (B, *event); positive for t > 0.
        epsilon: epshat, with `x_t = alpha_t mean + sigma_t epshat`: (B, *event).
    """

    def __init__(self, mean: Tensor, var: Tensor, epsilon: Tensor) -> None:
        self.mean = mean
        self.var = var.expand_as(mean)
        self.epsilon = epsilon

    def log_prob(self, x_0: Tensor) -> Tensor:
        """The log density of every dimension in nats: (B, *event) -> (B, *event)."""
        return -((x_0 - self.mean).square() / self.var + self.var.log() + math.log(2 * math.pi)) / 2

    def sample(self, generator: Generator = None) -> Tensor:
        """`mean + sqrt(var) z`: (B, *event)."""
        noise = as_randomness(generator).normal(self.mean.shape, self.mean.dtype, self.mean.device)
        return self.mean + self.var.sqrt() * noise

    def mode(self) -> Tensor:
        """The mean: (B, *event)."""
        return self.mean


class PreconditionedDenoiser(Denoiser):
    """A network between four coefficients; subclasses say which.

    Arguments:
        process: the Gaussian process whose noise it removes.
        network: any callable (x, c, y) -> the shape of x; a module's parameters are registered.
        event_shape: the shape of one example, such as (1, 28, 28).

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    """

    process: GaussianProcess

    def __init__(self, process: GaussianProcess, network: Network, event_shape: Sequence[int]) -> None:
        super().__init__(process, event_shape)
        self.network = network

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(c_in, c_skip, c_out, c_noise), each of the shape of t."""

    @abstractmethod
    def epsilon(self, output: Tensor, mean: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise epshat from the network's output, without a division by sigma where there is a way: (B, *event)."""

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> GaussianPosterior:
        """The posterior of x_0 given x_t (B, *event) at time t, () or (B,), and labels y (B,).

        Raises:
            ValueError: x_t is not a real (B, *event_shape), t is not () or (B,) in [0, 1], or the
                network returned another shape than it was given.
        """
        self.check_event(x_t)
        check_real(x_t)
        check_time(t, len(x_t))
        c_in, c_skip, c_out, c_noise = self.coefficients(t)
        output = self.network(match(c_in, x_t) * x_t, batch_time(c_noise.to(x_t.dtype), len(x_t)), y)
        if output.shape != x_t.shape:
            raise ValueError(f"the network returned shape {tuple(output.shape)}, expected {tuple(x_t.shape)}")
        output = output.to(x_t.dtype)  # the algebra stays in single precision when the network computes in half
        mean = match(c_skip, x_t) * x_t + match(c_out, x_t) * output
        var = match(self.process.schedule(t)[1].square(), x_t)
        return GaussianPosterior(mean, var, self.epsilon(output, mean, x_t, t))


class EpsilonDenoiser(PreconditionedDenoiser):
    """The network predicts the noise: `x0hat = (x_t - sigma_t network(x_t, t, y)) / alpha_t`.

    References:
        Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, sigma = self.process.schedule(t)
        c_in = torch.ones_like(t)
        c_skip = 1 / alpha
        c_out = -sigma / alpha
        c_noise = t
        return c_in, c_skip, c_out, c_noise

    def epsilon(self, output: Tensor, mean: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return output
