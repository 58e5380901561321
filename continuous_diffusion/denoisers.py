"""Parameterisations: how the output of a network becomes a Gaussian posterior of the clean data.

A parameterisation has four coefficients, which are functions of time:

    x0hat = c_skip(t) x_t + c_out(t) network(c_in(t) x_t, c_noise(t), **cond)

| network predicts            | c_in      | c_skip           | c_out           | c_noise         |
|-----------------------------|-----------|------------------|-----------------|-----------------|
| the noise eps               | 1         | 1 / alpha        | -sigma / alpha  | t               |
| the data x_0                | 1         | 0                | 1               | t               |
| v = alpha eps - sigma x_0   | 1         | alpha            | -sigma          | t               |
| Karras, std d of the data   | 1 / n     | alpha d^2 / n^2  | sigma d / n     | -logSNR(t) / 8  |

with `n^2 = alpha^2 d^2 + sigma^2`, the variance of x_t. Given x_t, each prediction determines eps, x_0 and v. The
parameterisations differ in how much an error of the network changes x0hat. The error is multiplied by sigma / alpha for
eps (large at high noise), by 1 for x_0, and by sigma for v. The v parameterisation needs a variance-preserving
schedule, `alpha^2 + sigma^2 = 1`. The others work for any (alpha, sigma).

Training with a squared error learns the mean of p(x_0 | x_t) but not its variance. The posterior of a network denoiser
therefore has the fixed variance sigma_t^2 / (alpha_t^2 + sigma_t^2). This variance is exact for x_0 ~ N(0, I). Data in
[-1, 1] have a second moment of at most 1. For such data the variance is at least the squared error of the best linear
denoiser, averaged over x_t. Samplers use only the mean. With `LearnedVarianceDenoiser` they can also use the variance
of a reverse step, which its network predicts. The last term of a bound, -log p(x_0 | x_tmin), uses the variance of the
posterior.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

import diffusion_core
from continuous_diffusion.process import GaussianProcess, check_real, match
from continuous_diffusion.schedules import VariancePreserving
from diffusion_core import Generator, as_randomness, batch_time, check_time
from diffusion_core.checks import check_finite, finite_examples
from diffusion_core.lazy import lazy_property
from diffusion_core.ranges import Positive, check_arguments
from diffusion_core.values import number

__all__ = [
    "Denoiser",
    "EpsilonDenoiser",
    "KarrasDenoiser",
    "LearnedVarianceDenoiser",
    "Network",
    "Posterior",
    "VelocityDenoiser",
    "X0Denoiser",
]

Network = Callable[..., Tensor]
"""A network: (x (B, *event), c (B,), **cond) -> (B, *event)."""


class Posterior:
    """The Gaussian posterior `p(x_0^d | x_t) = N(mean^d, var^d)`, with the predicted noise.

    Arguments:
        process: the forward process.
        t: the time of x_t, () or (B,).
        mean: x0hat, the expected clean data (B, *event).
        epsilon: epshat (B, *event), the predicted noise, with `x_t = alpha_t mean + sigma_t epshat`.
        var: the variance of each dimension, broadcastable to (B, *event), positive for t > 0. None means the variance for
            data of variance 1, `sigma_t^2 / (alpha_t^2 + sigma_t^2)`.
        interpolation: the exponent v (B, *event) of the learned variance `beta^v beta~^(1 - v)` of a reverse step; None
            if the network learns no variance.
    """

    def __init__(
        self,
        process: GaussianProcess,
        t: Tensor,
        mean: Tensor,
        epsilon: Tensor,
        var: Tensor | None = None,
        interpolation: Tensor | None = None,
    ) -> None:
        self.process = process
        self.t = t
        self.mean = mean
        self.epsilon = epsilon
        self.interpolation = interpolation
        self._var = var

    @lazy_property
    def var(self) -> Tensor:
        """The variance of each dimension: (B, *event)."""
        if self._var is not None:
            return self._var.expand_as(self.mean)
        alpha, sigma = self.process.schedule(self.t)
        return match(sigma.square() / (alpha.square() + sigma.square()), self.mean).expand_as(self.mean)

    def log_prob(self, x_0: Tensor) -> Tensor:
        """Return the log density of each dimension in nats: (B, *event) -> (B, *event)."""
        return -((x_0 - self.mean).square() / self.var + self.var.log() + math.log(2 * math.pi)) / 2

    def sample(self, generator: Generator = None) -> Tensor:
        """Draw `mean + sqrt(var) z`: (B, *event)."""
        noise = as_randomness(generator).normal(self.mean.shape, self.mean.dtype, self.mean.device)
        return self.mean + self.var.sqrt() * noise

    def mode(self) -> Tensor:
        """Return the mean, which is the mode of a Gaussian: (B, *event)."""
        return self.mean


class Denoiser(diffusion_core.Denoiser[Posterior]):
    """The base class of parameterisations. A subclass defines the four coefficients and the predicted noise.

    Arguments:
        process: the Gaussian process of the noisy data.
        network: any callable (x, c, **cond) -> a tensor of the shape of x. If it is a module, its parameters are
            registered.
        event_shape: the shape of one example, such as (1, 28, 28).

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    """

    process: GaussianProcess
    learns_variance: bool = False

    def __init__(self, process: GaussianProcess, network: Network, event_shape: Sequence[int]) -> None:
        super().__init__(process, event_shape)
        self.network = network

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (c_in, c_skip, c_out, c_noise), each the shape of t."""

    @abstractmethod
    def epsilon(self, output: Tensor, mean: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the predicted noise epshat: (B, *event). Avoid a division by sigma if possible."""

    def read(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Check the arguments and evaluate the network. Return its output, in the dtype of x_t, and (c_skip, c_out)."""
        self.check_event(x_t)
        check_real(x_t)
        check_time(t, len(x_t))
        c_in, c_skip, c_out, c_noise = self.coefficients(t)
        # Skip the multiplication if c_in is known to be 1.
        x = x_t if number(c_in) == 1 else match(c_in, x_t) * x_t
        output = self.network(x, batch_time(c_noise.to(x_t.dtype), len(x_t)), **cond)
        output = output.to(x_t.dtype)  # keep single precision if the network computes in half precision
        if not output.requires_grad:  # training checks its loss and its gradient instead
            check_finite(finite_examples(output), x_t, t)
        return output, (c_skip, c_out)

    def interpret(self, output: Tensor, coefficients: tuple[Tensor, Tensor], x_t: Tensor, t: Tensor) -> Posterior:
        """Return the posterior for an output of the network (B, *event)."""
        if output.shape != x_t.shape:
            raise ValueError(f"the network returned shape {tuple(output.shape)}, expected {tuple(x_t.shape)}")
        c_skip, c_out = coefficients
        mean = (match(c_skip, x_t) * x_t).addcmul_(match(c_out, x_t), output)
        return Posterior(self.process, t, mean, self.epsilon(output, mean, x_t, t))

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Posterior:
        """Return the posterior of x_0 given x_t (B, *event) at time t, () or (B,), and the conditions of the network.

        Raises:
            ValueError: x_t is not real or does not have the shape (B, *event_shape), t does not have the shape () or (B,)
                or has values outside [0, 1], or the network returned another shape than that of x_t.
            NotFiniteError: the network returned infinity or NaN. This is not checked if the output requires a gradient.
        """
        output, coefficients = self.read(x_t, t, **cond)
        return self.interpret(output, coefficients, x_t, t)


class EpsilonDenoiser(Denoiser):
    """The eps parameterisation: the network predicts the noise.

    `x0hat = (x_t - sigma_t network(x_t, t, **cond)) / alpha_t`, which needs alpha_t > 0.

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


class X0Denoiser(Denoiser):
    """The x_0 parameterisation: the network predicts the clean data, `x0hat = network(x_t, t, **cond)`.

    The predicted noise, `(x_t - alpha_t x0hat) / sigma_t`, needs t > 0.
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c_in = torch.ones_like(t)
        c_skip = torch.zeros_like(t)
        c_out = torch.ones_like(t)
        c_noise = t
        return c_in, c_skip, c_out, c_noise

    def epsilon(self, output: Tensor, mean: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self.process.epsilon(mean, x_t, t)


class VelocityDenoiser(Denoiser):
    """The v parameterisation: the network predicts `v = alpha_t eps - sigma_t x_0`.

    `x0hat = alpha_t x_t - sigma_t network(x_t, t, **cond)`.

    Arguments:
        process: the Gaussian process of the noisy data, with a variance-preserving schedule.
        network: any callable (x, c, **cond) -> a tensor of the shape of x. If it is a module, its parameters are
            registered.
        event_shape: the shape of one example, such as (1, 28, 28).

    Raises:
        TypeError: the schedule is not VariancePreserving, so the formula for x0hat does not hold.

    References:
        Progressive distillation for fast sampling of diffusion models (Salimans & Ho, 2022) | https://arxiv.org/abs/2202.00512
    """

    name: ClassVar[str] = "v"

    def __init__(self, process: GaussianProcess, network: Network, event_shape: Sequence[int]) -> None:
        super().__init__(process, network, event_shape)
        if not isinstance(process.schedule, VariancePreserving):
            raise TypeError(
                f"the schedule is {type(process.schedule).__name__}, expected a VariancePreserving one: "
                "x0hat = alpha x_t - sigma v needs alpha^2 + sigma^2 = 1"
            )

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, sigma = self.process.schedule(t)
        c_in = torch.ones_like(t)
        c_skip = alpha
        c_out = -sigma
        c_noise = t
        return c_in, c_skip, c_out, c_noise

    def epsilon(self, output: Tensor, mean: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.process.schedule(t)
        return match(sigma, x_t) * x_t + match(alpha, x_t) * output


class KarrasDenoiser(Denoiser):
    """The EDM parameterisation of Karras et al.: input and target of the network have variance 1 at every time t > 0.

    The EDM paper gives its formulas for `x_t / alpha_t = x_0 + (sigma_t / alpha_t) eps`. Here they are written for x_t.
    The network gets the log-SNR instead of the time. So a network that was trained with one schedule can be used with
    another one.

    Arguments:
        process: the Gaussian process of the noisy data.
        network: any callable (x, c, **cond) -> a tensor of the shape of x. Its input c is `-logSNR / 8`, which is about
            2 for noise and -2 for nearly clean data. c is finite if alpha_t > 0 and sigma_t > 0.
        event_shape: the shape of one example, such as (1, 28, 28).
        std: d, the standard deviation of the data; EDM uses 0.5 for images in [-1, 1].

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    """

    def __init__(self, process: GaussianProcess, network: Network, event_shape: Sequence[int], std: Positive = 0.5) -> None:
        check_arguments(KarrasDenoiser, locals())
        super().__init__(process, network, event_shape)
        self.std = std

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, sigma = self.process.schedule(t)
        variance = alpha.square() * self.std**2 + sigma.square()
        c_in = 1 / variance.sqrt()
        c_skip = alpha * self.std**2 / variance
        c_out = sigma * self.std / variance.sqrt()
        c_noise = -self.process.schedule.log_snr(t) / 8
        return c_in, c_skip, c_out, c_noise

    def epsilon(self, output: Tensor, mean: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.process.schedule(t)
        variance = alpha.square() * self.std**2 + sigma.square()
        # (x_t - alpha mean) / sigma with the coefficients written out: sigma cancels.
        return match(sigma / variance, x_t) * x_t - match(alpha * self.std / variance.sqrt(), x_t) * output


class LearnedVarianceDenoiser(diffusion_core.Denoiser[Posterior]):
    """A denoiser whose network also predicts the variance of a reverse step, for any parameterisation of the mean.

    The network returns twice as many channels. The first half is the output for the parameterisation of the mean. The
    second half, `out`, interpolates the log-variance of the step t -> s between its two extremes, beta~ (the variance
    of the bridge q(x_s | x_t, x_0)) and beta (the variance of the forward step):

        variance = exp(v ln beta + (1 - v) ln beta~),      v = (out + 1) / 2

    Arguments:
        mean_denoiser: the parameterisation of the mean. Its network maps (B, C, ...) to (B, 2C, ...).

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    process: GaussianProcess
    learns_variance: bool = True

    def __init__(self, mean_denoiser: Denoiser) -> None:
        if not isinstance(mean_denoiser, Denoiser):
            raise TypeError(
                f"mean_denoiser is {type(mean_denoiser).__name__}, expected a parameterisation such as EpsilonDenoiser"
            )
        super().__init__(mean_denoiser.process, mean_denoiser.event_shape)
        self.mean_denoiser = mean_denoiser

    def active(self, x_0: Tensor, **cond: Tensor) -> Tensor | None:
        """Return the active dimensions of `mean_denoiser`."""
        return self.mean_denoiser.active(x_0, **cond)

    @property
    def network(self) -> Network:
        """The network, which returns 2C channels."""
        return self.mean_denoiser.network

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Posterior:
        """Return the posterior of x_0 given x_t (B, *event) at time t, () or (B,), and the conditions of the network.

        Raises:
            ValueError: x_t is not real or does not have the shape (B, *event_shape), t does not have the shape () or (B,)
                or has values outside [0, 1], or the network did not return twice as many channels as it got.
            NotFiniteError: the network returned infinity or NaN. This is not checked if the output requires a gradient.
        """
        output, coefficients = self.mean_denoiser.read(x_t, t, **cond)
        expected = (len(x_t), 2 * x_t.shape[1], *x_t.shape[2:])
        if output.shape != expected:
            raise ValueError(
                f"the network returned shape {tuple(output.shape)}, expected {expected}: half of the channels for the mean, "
                "half for the variance"
            )
        first, second = output.chunk(2, 1)  # each (B, *event)
        posterior = self.mean_denoiser.interpret(first, coefficients, x_t, t)
        return Posterior(self.process, t, posterior.mean, posterior.epsilon, interpolation=(second + 1) / 2)
