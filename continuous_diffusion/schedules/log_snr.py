"""Schedules given by their log-SNR: `abar = sigmoid(logSNR)`, where `abar = alpha^2`.

If training draws t uniformly, a schedule defines a density over the log-SNR lambda, `p(lambda) = -dt/dlambda`. This
density says how often training sees each noise level. The Laplace and the Cauchy schedule are designed for training.
Their log-SNR is infinite at both ends, so t must be in the open interval (0, 1). Do not sample from them with equal
steps of t: on the times i/1000 the Laplace schedule starts at alpha = 0.207, which is not pure noise, and ends at
sigma = 0.207, which is visible noise. Sample on a `BoundedLogSNRGrid`, which goes from nearly pure noise to nearly
clean data.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from continuous_diffusion.schedules.base import VariancePreserving
from diffusion_core.ranges import Finite, Positive

__all__ = ["CauchySchedule", "LaplaceSchedule", "LogSNRSchedule", "ShiftedCosineSchedule", "SigmoidSchedule"]


class LogSNRSchedule(VariancePreserving):
    """A schedule given by its log-SNR: `abar = sigmoid(logSNR)`, where `abar = alpha^2`."""

    @abstractmethod
    def curve(self, t: Tensor) -> Tensor:
        """Return logSNR(t) for float64 times t. It falls with t. The result has the shape of t."""

    def log_abar(self, t: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(self.curve(t.double()))

    def log_snr(self, t: Tensor) -> Tensor:
        return self.curve(t.double()).to(t.dtype)


def _check_falling(high: float, low: float) -> None:
    if high <= low:
        raise ValueError(f"log_snr_min = {low}, log_snr_max = {high}: expected log_snr_min < log_snr_max")


@dataclass(frozen=True)
class SigmoidSchedule(LogSNRSchedule):
    """The schedule with a log-SNR that is linear in time: `abar = sigmoid(log_snr_max + t (log_snr_min - log_snr_max))`.

    Arguments:
        log_snr_max: the log-SNR at t = 0; a log-SNR of 10 means sigma = 0.007.
        log_snr_min: the log-SNR at t = 1; a log-SNR of -10 means alpha = 0.007.

    References:
        Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    """

    log_snr_max: Finite = 10.0
    log_snr_min: Finite = -10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_falling(self.log_snr_max, self.log_snr_min)

    def curve(self, t: Tensor) -> Tensor:
        return self.log_snr_max + (self.log_snr_min - self.log_snr_max) * t

    def time(self, log_snr: Tensor) -> Tensor:
        return ((self.log_snr_max - log_snr.double()) / (self.log_snr_max - self.log_snr_min)).clamp(0, 1)


@dataclass(frozen=True)
class ShiftedCosineSchedule(LogSNRSchedule):
    """The cosine schedule with more noise for larger images: `logSNR = -2 log tan(pi t / 2) + 2 log(64 / d)`.

    If a noisy image of d x d pixels is averaged down to 64 x 64, it has less noise per pixel. The shift adds noise to
    correct this: after averaging, the log-SNR is that of the cosine schedule. The log-SNR before the shift is limited
    to [log_snr_min, log_snr_max].

    Arguments:
        side: the side d of the images in pixels; 64 means no shift.
        log_snr_max: the log-SNR at t = 0, before the shift.
        log_snr_min: the log-SNR at t = 1, before the shift.

    References:
        Simple diffusion: end-to-end diffusion for high resolution images (Hoogeboom et al., 2023) | https://arxiv.org/abs/2301.11093
    """

    side: Positive = 64.0
    log_snr_max: Finite = 15.0
    log_snr_min: Finite = -15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_falling(self.log_snr_max, self.log_snr_min)

    def _arc(self) -> tuple[float, float]:
        """Return the angles at t = 0 and at t = 1."""
        return math.atan(math.exp(-self.log_snr_max / 2)), math.atan(math.exp(-self.log_snr_min / 2))

    def curve(self, t: Tensor) -> Tensor:
        first, last = self._arc()
        return -2 * torch.tan(first + (last - first) * t).log() + 2 * math.log(64 / self.side)

    def time(self, log_snr: Tensor) -> Tensor:
        first, last = self._arc()
        angle = torch.atan(torch.exp((2 * math.log(64 / self.side) - log_snr.double()) / 2))
        return ((angle - first) / (last - first)).clamp(0, 1)


@dataclass(frozen=True)
class LaplaceSchedule(LogSNRSchedule):
    """A schedule with a Laplace density over log-SNR, for training: `logSNR(t) = mu - b sign(1/2 - t) log(1 - 2 |t - 1/2|)`.

    The log-SNR is infinite at t = 0 and t = 1: sample on a `BoundedLogSNRGrid`. The schedule `laplace` in diffusers is
    different, because its log-SNR rises with t.

    Arguments:
        mu: the log-SNR at t = 1/2, where the density is highest.
        b: the width of the density over log-SNR around mu, in units of log-SNR.

    References:
        Improved noise schedule for diffusion training (Hang et al., 2024) | https://arxiv.org/abs/2407.03297
    """

    mu: Finite = 0.0
    b: Positive = 0.5

    def curve(self, t: Tensor) -> Tensor:
        # 1 - 2 |t - 1/2| is twice the distance from the nearer end, without a rounding near t = 0.
        distance = torch.where(t < 0.5, -(2 * t).log(), (2 * (1 - t)).log())
        return self.mu + self.b * distance

    def time(self, log_snr: Tensor) -> Tensor:
        distance = log_snr.double() - self.mu
        tail = torch.exp(-distance.abs() / self.b) / 2
        return torch.where(distance > 0, tail, 1 - tail)


@dataclass(frozen=True)
class CauchySchedule(LogSNRSchedule):
    """A schedule with a Cauchy density over log-SNR, for training: `logSNR(t) = mu + g tan(pi (1 - 2t) / 2)`.

    The log-SNR is infinite at t = 0 and t = 1: sample on a `BoundedLogSNRGrid`. The density has heavy tails: about
    one random time in a few hundred has a log-SNR below -200, and its alpha is rounded to 0 in single precision. Train with
    the v parameterisation, whose coefficients contain no division by alpha.

    Arguments:
        mu: the log-SNR at t = 1/2, where the density is highest.
        g: the width of the density over log-SNR around mu, in units of log-SNR.

    References:
        Improved noise schedule for diffusion training (Hang et al., 2024) | https://arxiv.org/abs/2407.03297
    """

    mu: Finite = 0.0
    g: Positive = 1.0

    def curve(self, t: Tensor) -> Tensor:
        return self.mu + self.g / torch.tan(math.pi * t)  # tan(pi/2 - pi t) = 1 / tan(pi t), exact near t = 0

    def time(self, log_snr: Tensor) -> Tensor:
        distance = log_snr.double() - self.mu
        return torch.atan2(torch.full_like(distance, self.g), distance) / math.pi
