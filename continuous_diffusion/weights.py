"""How the regression losses measure an error, and how they weight the noise levels.

A loss is a target (eps, x_0 or v), a distance and a weight in time. The targets' squared errors are
multiples of one another,

    |eps - epshat|^2 = snr |x_0 - x0hat|^2,      |v - vhat|^2 = (snr + 1) |x_0 - x0hat|^2,

where the last one is for alpha^2 + sigma^2 = 1. So a weight is stated once, for x_0, and divided by the target's
factor: snr, 1 or snr + 1. All of it in log-SNR, so that neither clean data (snr = inf) nor pure noise overflow.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_core.ranges import CheckedArguments, Positive

__all__ = ["AbsoluteError", "Distance", "MinSNR", "SmoothAbsoluteError", "SquaredError", "Unweighted", "Weight"]


class Distance(CheckedArguments, ABC):
    """What an error costs, dimension by dimension."""

    @abstractmethod
    def __call__(self, residual: Tensor) -> Tensor:
        """The cost of each residual: (B, *event) -> (B, *event), at least 0."""


@dataclass(frozen=True)
class SquaredError(Distance):
    """The squared error (L2), `r^2`: the mean of the posterior minimises it, which is what the samplers need."""

    name: ClassVar[str] = "l2"

    def __call__(self, residual: Tensor) -> Tensor:
        return residual.square()


@dataclass(frozen=True)
class AbsoluteError(Distance):
    """The absolute error (L1), `|r|`: the median minimises it."""

    name: ClassVar[str] = "l1"

    def __call__(self, residual: Tensor) -> Tensor:
        return residual.abs()


@dataclass(frozen=True)
class SmoothAbsoluteError(Distance):
    """The squared error of small errors, the absolute error of large ones (smooth L1): `r^2 / (2 beta)` where |r| < beta,
    `|r| - beta / 2` elsewhere.

    Arguments:
        beta: the error at which the parabola becomes a line.
    """

    name: ClassVar[str] = "smooth_l1"
    beta: Positive = 1.0

    def __call__(self, residual: Tensor) -> Tensor:
        size = residual.abs()
        return torch.where(size < self.beta, size.square() / (2 * self.beta), size - self.beta / 2)


class Weight(CheckedArguments, ABC):
    """How much each noise level counts."""

    @abstractmethod
    def __call__(self, log_snr: Tensor, log_factor: Tensor) -> Tensor:
        """The weight of a target's error, of the shape of log_snr.

        Arguments:
            log_snr: 2 log(alpha / sigma), float64.
            log_factor: the log of the target's squared error over that of x_0.
        """


@dataclass(frozen=True)
class Unweighted(Weight):
    """The weight 1 at every noise level: the target alone decides what counts."""

    def __call__(self, log_snr: Tensor, log_factor: Tensor) -> Tensor:
        return torch.ones_like(log_snr)


@dataclass(frozen=True)
class MinSNR(Weight):
    """The weight `min(snr, gamma)` on x_0: as eps-regression in the noise, without its zeal where the data are nearly clean.

    For eps that is `min(gamma / snr, 1)`, for v `min(snr, gamma) / (snr + 1)`.

    Arguments:
        gamma: the signal-to-noise ratio above which the weight of an error of x_0 no longer grows.

    References:
        Efficient diffusion training via min-SNR weighting strategy (Hang et al., 2023) | https://arxiv.org/abs/2303.09556
    """

    gamma: Positive = 5.0

    def __call__(self, log_snr: Tensor, log_factor: Tensor) -> Tensor:
        exponent = log_snr.clamp(max=math.log(self.gamma)) - log_factor
        return exponent.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf).exp()  # -inf in both: their limit is 1
