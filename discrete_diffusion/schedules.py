"""How fast noise arrives: a time-dependent factor beta(t) on the rate matrix.

    R_t = beta(t) R,   tau(t) = int_0^t beta,   q_{t|0} = exp(tau(t) R),   alpha(t) = exp(-tau(t))

Only tau matters for the marginals: a schedule is a change of clock. alpha is the survival
function, the probability that a clock of rate beta has not rung by time t. A schedule may be
given by either; one whose survival ends at alpha(1) = 0 has tau(1) = inf, and a rate beta that
is infinite at t = 1 although its flow `-d alpha/dt = beta alpha` is finite.

Results have the dtype of t; times that end in a transition matrix are float64.
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
    "CosineSurvival",
    "Exponential",
    "Geometric",
    "LinearSurvival",
    "LogLinear",
    "PolynomialSurvival",
    "Schedule",
]


@dataclass(frozen=True)
class Schedule(diffusion_core.Schedule):
    """How fast noise arrives: a pair (beta, tau) with `d tau/dt = beta` and tau(0) = 0."""

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """beta(t) in 1 / unit of t, and tau(t): each of the shape and dtype of t."""

    def survival(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`alpha(t) = exp(-tau(t))` and its derivative, finite even where beta is not."""
        beta, tau = self(t)
        alpha = torch.exp(-tau)
        return alpha, -beta * alpha


@dataclass(frozen=True)
class Constant(Schedule):
    """Noise at the same rate at all times: `beta = rate`, `tau = rate t`.

    Arguments:
        rate: beta, and tau at t = 1: a share exp(-rate) has not been noised by then. At 4 that is 2 %.
    """

    rate: Positive = 4.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(t, self.rate), self.rate * t


@dataclass(frozen=True)
class Exponential(Schedule):
    """The rate of noise grows exponentially: `beta = a ln(b) b^t`, `tau = a (b^t - 1)`.

    Most of the clock runs near t = 1, where a slowly mixing matrix needs it.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987

    Arguments:
        a: the scale of tau, which is a (b - 1) at t = 1.
        b: how many times as fast noise arrives at t = 1 as at t = 0.
    """

    a: Positive = 3.0
    b: Annotated[float, Range(above=1)] = 100.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        exponent = math.log(self.b) * t
        return self.a * math.log(self.b) * torch.exp(exponent), self.a * torch.expm1(exponent)


@dataclass(frozen=True)
class Geometric(Schedule):
    """Half the growth of a geometric variance: `tau = 1/2 sigma_min^2 ((sigma_max / sigma_min)^{2t} - 1)`.

    References:
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
class LogLinear(Schedule):
    """The surviving share falls linearly to eps: `alpha = 1 - (1 - eps) t`.

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al., 2024) | https://arxiv.org/abs/2310.16834

    Arguments:
        eps: the share of the data that is not noised at t = 1, alpha(1).
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
    """The surviving share falls to 0 by a power of the time: `alpha = 1 - t^power`.

    Arguments:
        power: how late noise arrives: the larger the later; 1 is linear.
    """

    power: Annotated[float, Range(least=1)] = 2.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        gone = t**self.power
        return self.power * t ** (self.power - 1) / (1 - gone), -torch.log1p(-gone)

    def survival(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t**self.power, -self.power * t ** (self.power - 1)


@dataclass(frozen=True)
class LinearSurvival(Schedule):
    """The surviving share falls linearly to 0: `alpha = 1 - t`, tau(1) = inf."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / (1 - t), -torch.log1p(-t)

    def survival(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, -torch.ones_like(t)


@dataclass(frozen=True)
class CosineSurvival(Schedule):
    """The surviving share falls to 0 as a cosine, slowly at the end: `alpha = 1 - cos(pi/2 (1 - t))`, tau(1) = inf.

    References:
        Simplified and generalized masked diffusion for discrete data (Shi et al., 2024) | https://arxiv.org/abs/2406.04329
    """

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # alpha = 1 - sin(pi t / 2) = 2 sin^2(pi (1 - t) / 4): the first form is exact near 0, the second near 1.
        late = -torch.log(self._alpha(t))
        early = -torch.log1p(-torch.sin(math.pi / 2 * t))
        return math.pi / 2 / torch.tan(math.pi / 4 * (1 - t)), torch.where(t < 0.5, early, late)

    def survival(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._alpha(t), -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))

    def _alpha(self, t: Tensor) -> Tensor:
        return torch.where(t < 0.5, 1 - torch.sin(math.pi / 2 * t), 2 * torch.sin(math.pi / 4 * (1 - t)) ** 2)


@dataclass(frozen=True)
class CosineAmplitude(Schedule):
    """The surviving share falls to 0 as a cosine, slowly at the start: `alpha = cos(pi t / 2)`, tau(1) = inf.

    The amplitude of the signal in Gaussian diffusion's cosine schedule, `sqrt(alpha_bar)`, as a survival function.
    With a rate matrix scaled so that its slowest mode decays at rate 1, that mode survives as it does there.

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
