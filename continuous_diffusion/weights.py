"""Distances and weights of the regression losses.

A loss has a target (eps, x_0 or v), a distance and a weight for each noise level. The squared errors of the targets are
proportional to each other,

    |eps - epshat|^2 = snr |x_0 - x0hat|^2,      |v - vhat|^2 = (snr + 1) |x_0 - x0hat|^2,

where the last equation needs alpha^2 + sigma^2 = 1. A weight is therefore defined for the error of x_0. For the target
of the loss it is divided by the factor above: snr for eps, 1 for x_0 and snr + 1 for v. Weights are computed from the
log-SNR, so there is no overflow for clean data (snr = inf) or pure noise.
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
    """The distance between target and prediction: the cost of the error in one dimension."""

    @abstractmethod
    def __call__(self, residual: Tensor) -> Tensor:
        """Return the cost of each residual: (B, *event) -> (B, *event), at least 0."""


@dataclass(frozen=True)
class SquaredError(Distance):
    """The L2 distance `r^2`. The best prediction for it is the posterior mean, which the samplers need."""

    name: ClassVar[str] = "l2"

    def __call__(self, residual: Tensor) -> Tensor:
        return residual.square()


@dataclass(frozen=True)
class AbsoluteError(Distance):
    """The L1 distance `|r|`. The best prediction for it is the posterior median."""

    name: ClassVar[str] = "l1"

    def __call__(self, residual: Tensor) -> Tensor:
        return residual.abs()


@dataclass(frozen=True)
class SmoothAbsoluteError(Distance):
    """The smooth L1 distance: `r^2 / (2 beta)` if |r| < beta, else `|r| - beta / 2`.

    Arguments:
        beta: the size of the error at which the distance changes from a parabola to a line.
    """

    name: ClassVar[str] = "smooth_l1"
    beta: Positive = 1.0

    def __call__(self, residual: Tensor) -> Tensor:
        size = residual.abs()
        return torch.where(size < self.beta, size.square() / (2 * self.beta), size - self.beta / 2)


class Weight(CheckedArguments, ABC):
    """The weight of the error at each noise level."""

    @abstractmethod
    def __call__(self, log_snr: Tensor, log_factor: Tensor) -> Tensor:
        """Return the weight of the error of a target, in the shape of log_snr.

        Arguments:
            log_snr: 2 log(alpha / sigma), float64.
            log_factor: `log(|target - prediction|^2 / |x_0 - x0hat|^2)`.
        """


@dataclass(frozen=True)
class Unweighted(Weight):
    """The weight 1 at all noise levels, for every target."""

    def __call__(self, log_snr: Tensor, log_factor: Tensor) -> Tensor:
        return torch.ones_like(log_snr)


@dataclass(frozen=True)
class MinSNR(Weight):
    """The min-SNR weight: `min(snr, gamma)` for x_0, `min(gamma / snr, 1)` for eps, `min(snr, gamma) / (snr + 1)` for v.

    At high noise (snr < gamma) the loss equals the unweighted eps loss. At low noise it is smaller than the eps loss.

    Arguments:
        gamma: the signal-to-noise ratio above which the weight of an error in x_0 is constant.

    References:
        Efficient diffusion training via min-SNR weighting strategy (Hang et al., 2023) | https://arxiv.org/abs/2303.09556
    """

    gamma: Positive = 5.0

    def __call__(self, log_snr: Tensor, log_factor: Tensor) -> Tensor:
        exponent = log_snr.clamp(max=math.log(self.gamma)) - log_factor
        return exponent.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf).exp()  # both terms are -inf: the limit is 1
