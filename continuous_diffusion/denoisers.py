"""Readings of a network as a Gaussian posterior of the clean data.

A parameterisation is four coefficients of time:

    x0hat = c_skip(t) x_t + c_out(t) network(c_in(t) x_t, c_noise(t), **cond)

| network predicts            | c_in      | c_skip           | c_out           | c_noise         |
|-----------------------------|-----------|------------------|-----------------|-----------------|
| the noise eps               | 1         | 1 / alpha        | -sigma / alpha  | t               |
| the data x_0                | 1         | 0                | 1               | t               |
| v = alpha eps - sigma x_0   | 1         | alpha            | -sigma          | t               |
| Karras, std d of the data   | 1 / n     | alpha d^2 / n^2  | sigma d / n     | -logSNR(t) / 8  |

with `n^2 = alpha^2 d^2 + sigma^2`, the variance of x_t. The four are one another's images: given x_t, each
determines eps, x_0 and v. They differ in what an error of the network does to x_0: in eps it is
multiplied by sigma / alpha, which is large in the noise, in x_0 by 1, and in v by sigma. All but v hold for any
(alpha, sigma); v is for schedules that preserve the variance, `alpha^2 + sigma^2 = 1`.

Squared-error training teaches the mean of p(x_0 | x_t) and nothing of its variance. The
posterior of a network denoiser therefore states a variance by convention: sigma_t^2 / (alpha_t^2 + sigma_t^2), which is
exact for white data of variance 1 and, averaged over x_t, at least the best linear
denoiser's error for any data in [-1, 1] (whose second moment is at most 1). The samplers
use the mean alone, unless the network has a second half of outputs that was taught the variance of a
reverse step: `LearnedVarianceDenoiser`. The last term of a bound, -log p(x_0 | x_tmin), uses the variance too.
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
"""(x (B, *event), c (B,), **cond) -> (B, *event)."""


class Posterior:
    """`p(x_0^d | x_t) = N(mean^d, var^d)`, and the noise that goes with the mean.

    Arguments:
        process: the forward process.
        t: the time of x_t, () or (B,).
        mean: x0hat, the expected clean data (B, *event).
        epsilon: epshat, with `x_t = alpha_t mean + sigma_t epshat`: (B, *event).
        var: the variance of every dimension, broadcastable to (B, *event), positive for t > 0; None is what data of variance 1
            have, `sigma_t^2 / (alpha_t^2 + sigma_t^2)`.
        interpolation: v of the learned variance `beta^v beta~^(1 - v)` of a reverse step
            (B, *event); None where the network was taught none.
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
        """The variance of every dimension: (B, *event)."""
        if self._var is not None:
            return self._var.expand_as(self.mean)
        alpha, sigma = self.process.schedule(self.t)
        return match(sigma.square() / (alpha.square() + sigma.square()), self.mean).expand_as(self.mean)

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


class Denoiser(diffusion_core.Denoiser[Posterior]):
    """A parameterisation: a network between four coefficients; subclasses say which.

    Arguments:
        process: the Gaussian process whose noise it removes.
        network: any callable (x, c, **cond) -> the shape of x; a module's parameters are registered.
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
        """(c_in, c_skip, c_out, c_noise), each of the shape of t."""

    @abstractmethod
    def epsilon(self, output: Tensor, mean: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise epshat from the network's output, without a division by sigma where there is a way: (B, *event)."""

    def read(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Check the arguments and evaluate the network: its output in the dtype of x_t, and (c_skip, c_out) to read it with."""
        self.check_event(x_t)
        check_real(x_t)
        check_time(t, len(x_t))
        c_in, c_skip, c_out, c_noise = self.coefficients(t)
        # Where a pass over the image can be seen to change nothing, it is saved.
        x = x_t if number(c_in) == 1 else match(c_in, x_t) * x_t
        output = self.network(x, batch_time(c_noise.to(x_t.dtype), len(x_t)), **cond)
        output = output.to(x_t.dtype)  # the algebra stays in single precision when the network computes in half
        if not output.requires_grad:  # a training looks at its loss and its gradient instead
            check_finite(finite_examples(output), x_t, t)
        return output, (c_skip, c_out)

    def interpret(self, output: Tensor, coefficients: tuple[Tensor, Tensor], x_t: Tensor, t: Tensor) -> Posterior:
        """The posterior that an output of the network, (B, *event), stands for."""
        if output.shape != x_t.shape:
            raise ValueError(f"the network returned shape {tuple(output.shape)}, expected {tuple(x_t.shape)}")
        c_skip, c_out = coefficients
        mean = (match(c_skip, x_t) * x_t).addcmul_(match(c_out, x_t), output)
        return Posterior(self.process, t, mean, self.epsilon(output, mean, x_t, t))

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Posterior:
        """The posterior of x_0 given x_t (B, *event) at time t, () or (B,), and the conditions of the network.

        Raises:
            ValueError: x_t is not a real (B, *event_shape), t is not () or (B,) in [0, 1], or the
                network returned another shape than it was given.
            NotFiniteError: the network returned an infinite number or NaN, and no gradient is formed of it.
        """
        output, coefficients = self.read(x_t, t, **cond)
        return self.interpret(output, coefficients, x_t, t)


class EpsilonDenoiser(Denoiser):
    """The network predicts the noise: `x0hat = (x_t - sigma_t network(x_t, t, **cond)) / alpha_t`, which needs alpha_t > 0.

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
    """The network predicts the clean data: `x0hat = network(x_t, t, **cond)`.

    The noise that goes with it, `(x_t - alpha_t x0hat) / sigma_t`, needs t > 0.
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
    """The network predicts `v = alpha_t eps - sigma_t x_0`: `x0hat = alpha_t x_t - sigma_t network(x_t, t, **cond)`.

    Arguments:
        process: the Gaussian process whose noise it removes; its schedule preserves the variance.
        network: any callable (x, c, **cond) -> the shape of x; a module's parameters are registered.
        event_shape: the shape of one example, such as (1, 28, 28).

    Raises:
        TypeError: the schedule is not VariancePreserving, and x0hat is another function of x_t and v.

    References:
        Progressive distillation for fast sampling of diffusion models (Salimans & Ho, 2022) | https://arxiv.org/abs/2202.00512
    """

    name: ClassVar[str] = "v"

    def __init__(self, process: GaussianProcess, network: Network, event_shape: Sequence[int]) -> None:
        super().__init__(process, network, event_shape)
        if not isinstance(process.schedule, VariancePreserving):
            raise TypeError(
                f"the schedule is {type(process.schedule).__name__}, expected a VariancePreserving one: "
                "v = alpha eps - sigma x_0 gives x_0 only where alpha^2 + sigma^2 = 1"
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
    """EDM's preconditioning: the network's input and its target have variance 1 at every time t > 0.

    EDM writes it for `x_t / alpha_t = x_0 + (sigma_t / alpha_t) eps`. What tells the time is the
    log-SNR: a network trained on one schedule may be used with another.

    Arguments:
        process: the Gaussian process whose noise it removes.
        network: any callable (x, c, **cond) -> the shape of x, with c from about -2 (noise) or
            less to 2 (data) or more, sign reversed: `c = -logSNR / 8`. It is finite where alpha_t and sigma_t are above 0.
        event_shape: the shape of one example, such as (1, 28, 28).
        std: d, the standard deviation of the data; EDM's for images in [-1, 1] is 0.5.

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
    """Any reading whose network also predicts the variance of a reverse step.

    The network returns twice as many channels: the first half is the reading's, the second one
    `out` says where between its two extremes the log variance of the step t -> s lies:

        variance = exp(v ln beta + (1 - v) ln beta~),      v = (out + 1) / 2

    Arguments:
        mean_denoiser: the reading of the first half; its network maps (B, C, ...) to (B, 2C, ...).

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    process: GaussianProcess
    learns_variance: bool = True

    def __init__(self, mean_denoiser: Denoiser) -> None:
        if not isinstance(mean_denoiser, Denoiser):
            raise TypeError(
                f"mean_denoiser is {type(mean_denoiser).__name__}, expected a reading of one network such as EpsilonDenoiser"
            )
        super().__init__(mean_denoiser.process, mean_denoiser.event_shape)
        self.mean_denoiser = mean_denoiser

    def active(self, x_0: Tensor, **cond: Tensor) -> Tensor | None:
        """What the reading of the mean says."""
        return self.mean_denoiser.active(x_0, **cond)

    @property
    def network(self) -> Network:
        """The network, which returns 2C channels."""
        return self.mean_denoiser.network

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Posterior:
        """The posterior of x_0 given x_t (B, *event) at time t, () or (B,), and the conditions of the network.

        Raises:
            ValueError: x_t is not a real (B, *event_shape), t is not () or (B,) in [0, 1], or the
                network did not return twice as many channels as it was given.
            NotFiniteError: the network returned an infinite number or NaN, and no gradient is formed of it.
        """
        output, coefficients = self.mean_denoiser.read(x_t, t, **cond)
        expected = (len(x_t), 2 * x_t.shape[1], *x_t.shape[2:])
        if output.shape != expected:
            raise ValueError(f"the network returned shape {tuple(output.shape)}, expected {expected}: a mean and a variance")
        first, second = output.chunk(2, 1)  # each (B, *event)
        posterior = self.mean_denoiser.interpret(first, coefficients, x_t, t)
        return Posterior(self.process, t, posterior.mean, posterior.epsilon, interpolation=(second + 1) / 2)
