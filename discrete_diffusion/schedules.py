"""Noise schedules: a factor beta(t) that multiplies the rate matrix R at time t.

    R_t = beta(t) R,   tau(t) = int_0^t beta,   q_{t|0} = exp(tau(t) R),   alpha(t) = exp(-tau(t))

The marginals depend on the schedule only through tau(t). So changing the schedule only changes how fast the same chain
runs. alpha(t) is called the survival. It is the probability that an event with the rate beta has not happened up to time t.
With `AbsorbingRates`, the event is that a value becomes masked.

A schedule can be defined by tau or by alpha. If alpha(1) = 0, then tau(1) = inf and beta is infinite at t = 1. The product
`-d alpha/dt = beta alpha` stays finite.

Results have the dtype of t. Times that are used for a transition matrix are float64.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

import diffusion_core
from diffusion_core.ranges import Positive, Range

__all__ = [
    "Constant",
    "CosineAmplitude",
    "CosineRoot",
    "CosineSurvival",
    "Exponential",
    "Geometric",
    "LinearSurvival",
    "LogLinear",
    "LogSquare",
    "PolynomialSurvival",
    "Schedule",
]


@dataclass(frozen=True)
class Schedule(diffusion_core.Schedule):
    """A noise schedule: the rate factor beta(t) and its integral tau(t), with tau(0) = 0."""

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return beta(t) in 1 / unit of t, and tau(t). Both have the shape and dtype of t."""

    def survival(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the survival `alpha(t) = exp(-tau(t))` and its derivative, which is finite even where beta is infinite."""
        beta, tau = self(t)
        alpha = torch.exp(-tau)
        return alpha, -beta * alpha


@dataclass(frozen=True)
class Constant(Schedule):
    """A constant rate: `beta = rate`, `tau = rate t`.

    Arguments:
        rate: beta, and also tau at t = 1. The survival at t = 1, alpha(1), is exp(-rate): 2 % for a rate of 4.
    """

    rate: Positive = 4.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(t, self.rate), self.rate * t


@dataclass(frozen=True)
class Exponential(Schedule):
    """A rate that grows exponentially: `beta = a ln(b) b^t`, `tau = a (b^t - 1)`.

    tau grows most near t = 1. This is useful for a rate matrix whose chain converges slowly to its stationary law.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987

    Arguments:
        a: a factor of tau. tau at t = 1 is a (b - 1).
        b: the ratio of beta at t = 1 to beta at t = 0.
    """

    a: Positive = 3.0
    b: Annotated[float, Range(above=1)] = 100.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        exponent = math.log(self.b) * t
        return self.a * math.log(self.b) * torch.exp(exponent), self.a * torch.expm1(exponent)


@dataclass(frozen=True)
class Geometric(Schedule):
    """A geometric noise level: `tau = 1/2 sigma_min^2 ((sigma_max / sigma_min)^{2t} - 1)`.

    tau is half the increase of a variance, which grows geometrically from `sigma_min^2` to `sigma_max^2`. The published
    birth-death process over 129 values (Campbell et al.) has sigma_min = 1 and sigma_max = 100. The paper on score entropy
    (Lou et al.) uses smaller values.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al., 2024) | https://arxiv.org/abs/2310.16834

    Arguments:
        sigma_min: the noise level at t = 0.
        sigma_max: the noise level at t = 1.
    """

    sigma_min: Positive = 0.1
    sigma_max: Positive = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max = {self.sigma_max}, expected a number above sigma_min = {self.sigma_min}")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        growth = 2 * math.log(self.sigma_max / self.sigma_min)
        half = 0.5 * self.sigma_min**2
        return half * growth * torch.exp(growth * t), half * torch.expm1(growth * t)


@dataclass(frozen=True)
class LogSquare(Schedule):
    """A rate that starts at zero: `beta = scale 2t / (1 + t^2)`, `tau = scale ln(1 + t^2)`.

    tau at t = 1 is only 0.69 times `scale`, and the survival alpha(1) is 2^-scale. So x_1 is far from the stationary law,
    unless this scale or the scale of the rate matrix is large.

    References:
        Score-based continuous-time discrete diffusion models (Sun et al., 2023) | https://arxiv.org/abs/2211.16750

    Arguments:
        scale: a factor of beta and tau. The published value is 1; the published rate matrix has its own factor.
    """

    scale: Positive = 1.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * 2 * t / (1 + t**2), self.scale * torch.log1p(t**2)


@dataclass(frozen=True)
class CosineRoot(Schedule):
    """The square root of a cosine: `tau = scale (1 - sqrt(cos u))` with `u = pi/2 stop t`.

    The published schedule has stop = 1. Its rate is infinite at t = 1, and its tau at t = 1 is only `scale`. With a smaller
    stop, this schedule covers the times 0 to stop of the published schedule, so all rates are finite. x_1 is far from the
    stationary law, unless this scale or the scale of the rate matrix is large.

    References:
        Score-based continuous-time discrete diffusion models (Sun et al., 2023) | https://arxiv.org/abs/2211.16750

    Arguments:
        scale: a factor of beta and tau. The published value is 1; the published rate matrix has its own factor.
        stop: the time in the published schedule that corresponds to t = 1.
    """

    scale: Positive = 1.0
    stop: Annotated[float, Range(above=0, below=1)] = 0.999

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        speed = math.pi / 2 * self.stop
        u = speed * t
        # cos u = 1 - 2 sin^2(u / 2): 1 - sqrt(cos u) keeps its digits near t = 0.
        half_log = 0.5 * torch.log1p(-2 * torch.sin(u / 2) ** 2)
        beta = self.scale * speed / 2 * torch.sin(u) * torch.exp(-half_log)
        return beta, -self.scale * torch.expm1(half_log)


@dataclass(frozen=True)
class LogLinear(Schedule):
    """A survival that falls linearly from 1 to eps: `alpha = 1 - (1 - eps) t`.

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al., 2024) | https://arxiv.org/abs/2310.16834

    Arguments:
        eps: the survival at t = 1, alpha(1).
    """

    eps: Annotated[float, Range(least=0, below=1)] = 1e-3

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        slope = 1 - self.eps
        return slope / (1 - slope * t), -torch.log1p(-slope * t)

    def survival(self, t: Tensor) -> tuple[Tensor, Tensor]:
        slope = 1 - self.eps
        return 1 - slope * t, torch.full_like(t, -slope)


@dataclass(frozen=True)
class PolynomialSurvival(Schedule):
    """A polynomial survival: `alpha = 1 - t^power`.

    Arguments:
        power: the exponent. With a larger exponent, the noise is added later. With 1, the survival is linear.
    """

    power: Annotated[float, Range(least=1)] = 2.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        gone = t**self.power
        return self.power * t ** (self.power - 1) / (1 - gone), -torch.log1p(-gone)

    def survival(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t**self.power, -self.power * t ** (self.power - 1)


@dataclass(frozen=True)
class LinearSurvival(Schedule):
    """A survival that falls linearly from 1 to 0: `alpha = 1 - t`, with tau(1) = inf."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / (1 - t), -torch.log1p(-t)

    def survival(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, -torch.ones_like(t)


@dataclass(frozen=True)
class CosineSurvival(Schedule):
    """A cosine survival: `alpha = 1 - cos(pi/2 (1 - t))`, with tau(1) = inf.

    References:
        Simplified and generalized masked diffusion for discrete data (Shi et al., 2024) | https://arxiv.org/abs/2406.04329
    """

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # alpha = 1 - sin(pi t / 2) = 2 sin^2(pi (1 - t) / 4): the first form is exact near 0, the second near 1.
        late = -torch.log(2 * torch.sin(math.pi / 4 * (1 - t)) ** 2)
        early = -torch.log1p(-torch.sin(math.pi / 2 * t))
        return math.pi / 2 / torch.tan(math.pi / 4 * (1 - t)), torch.where(t < 0.5, early, late)

    def survival(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._alpha(t), -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))

    def _alpha(self, t: Tensor) -> Tensor:
        return torch.where(t < 0.5, 1 - torch.sin(math.pi / 2 * t), 2 * torch.sin(math.pi / 4 * (1 - t)) ** 2)


@dataclass(frozen=True)
class CosineAmplitude(Schedule):
    """The cosine schedule of Gaussian diffusion as a survival: `alpha = cos(pi t / 2)`, with tau(1) = inf.

    This survival is equal to the signal amplitude `sqrt(alpha_bar)` of the Gaussian cosine schedule. Scale the rate matrix
    so that its slowest eigenmode decays at rate 1: the eigenvalue of R that is nearest to zero, but not zero, is then -1.
    This eigenmode then decays like the signal in Gaussian diffusion.

    References:
        Improved denoising diffusion probabilistic models (Nichol and Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # cos(pi t / 2) = 1 - 2 sin^2(pi t / 4) = sin(pi (1 - t) / 2): the first form is exact near 0, the second near 1.
        early = -torch.log1p(-2 * torch.sin(math.pi / 4 * t) ** 2)
        late = -torch.log(torch.sin(math.pi / 2 * (1 - t)))
        return math.pi / 2 / torch.tan(math.pi / 2 * (1 - t)), torch.where(t < 0.5, early, late)

    def survival(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(math.pi / 2 * (1 - t)), -math.pi / 2 * torch.cos(math.pi / 2 * (1 - t))
