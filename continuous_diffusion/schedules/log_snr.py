"""Schedules given by their log-SNR: `abar = sigmoid(logSNR)`.

With t uniform, a schedule is a density over log-SNR, `p(lambda) = -dt/dlambda`: training sees each noise
level that often. The Laplace and the Cauchy schedule are made for that. They are infinite at both ends, so t is
in the open interval, and equal steps of t are no way to sample them: on i/1000 the Laplace grid stops
at sigma = 0.207, with visible noise left, and starts at alpha = 0.207, which is not pure noise. Sample on
a `BoundedLogSNRGrid`, between log-SNRs that reach both.
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
    """A schedule given by its log-SNR: `abar = sigmoid(logSNR)`."""

    @abstractmethod
    def curve(self, t: Tensor) -> Tensor:
        """logSNR(t) for t in float64: falling, of the shape of t."""

    def log_abar(self, t: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(self.curve(t.double()))

    def log_snr(self, t: Tensor) -> Tensor:
        return self.curve(t.double()).to(t.dtype)


def _check_falling(high: float, low: float) -> None:
    if high <= low:
        raise ValueError(f"log_snr_max = {high}, log_snr_min = {low}: expected the first one larger")


@dataclass(frozen=True)
class SigmoidSchedule(LogSNRSchedule):
    """A straight line of log-SNR: `abar = sigmoid(log_snr_max + t (log_snr_min - log_snr_max))`.

    Arguments:
        log_snr_max: the log-SNR at t = 0; 10 is sigma = 0.007.
        log_snr_min: the log-SNR at t = 1; -10 is alpha = 0.007.

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

    A picture of twice the side says the same at half the SNR: averaged down to 64 x 64,
    pixels lose so much of their noise. The arc is cut off so that the log-SNR before the shift
    stays in [log_snr_min, log_snr_max].

    Arguments:
        side: the side d of the images in pixels; 64 shifts nothing.
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
        """The angles at t = 0 and at t = 1."""
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
    """A Laplace density over log-SNR, for training: `logSNR(t) = mu - b sign(1/2 - t) log(1 - 2 |t - 1/2|)`.

    Infinite at t = 0 and t = 1; see the head of this file for how to sample. diffusers' `laplace` is
    not this schedule: there log-SNR rises with t.

    Arguments:
        mu: the log-SNR at t = 1/2, which training sees most.
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
    """A Cauchy density over log-SNR, for training: `logSNR(t) = mu + g tan(pi (1 - 2t) / 2)`.

    Infinite at t = 0 and t = 1; see the head of this file for how to sample. Its tails are so heavy
    that one time in a few hundred has an alpha that single precision rounds to 0 (log-SNR below
    -200): train it with v, whose coefficients divide by nothing.

    Arguments:
        mu: the log-SNR at t = 1/2, which training sees most.
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
