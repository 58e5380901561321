"""Times chosen by log-SNR: grids for sampling and a density for training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from continuous_diffusion.schedules import CosineSchedule, LaplaceSchedule, Schedule
from diffusion_core import TimeGrid, TimeSampler
from diffusion_core.ranges import Finite, check_arguments
from diffusion_core.times import Early, Late, clamped

__all__ = ["BoundedLogSNRGrid", "LogSNRGrid", "LogSNRTimes"]


def _ends(schedule: Schedule, t_min: float, t_max: float) -> tuple[float, float]:
    """Return the log-SNR at t_max and at t_min."""
    low, high = schedule.log_snr(torch.tensor([t_max, t_min], dtype=torch.float64, device="cpu")).tolist()
    return low, high


def _finite_ends(schedule: Schedule, t_min: float, t_max: float) -> tuple[float, float]:
    """Return the log-SNR at t_max and at t_min.

    Raises:
        ValueError: one of the two is infinite.
    """
    low, high = _ends(schedule, t_min, t_max)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"{type(schedule).__name__} has log-SNR {high} at t_min = {t_min} and {low} at t_max = {t_max}, "
            "expected finite values"
        )
    return low, high


@dataclass(frozen=True)
class LogSNRGrid(TimeGrid):
    """A time grid with equal steps of log-SNR between two times.

    Use `BoundedLogSNRGrid` for schedules that are made for training.

    Arguments:
        steps: the number N of reverse steps.
        t_min: the last time of sampling, near the data.
        t_max: the first time of sampling, near the noise.
        schedule: the schedule of the process; the steps are equal in its log-SNR.

    Raises:
        ValueError: the log-SNR is infinite at t_min or t_max.
    """

    schedule: Schedule = field(default_factory=CosineSchedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        _finite_ends(self.schedule, self.t_min, self.t_max)

    def times(self) -> list[float]:
        low, high = _finite_ends(self.schedule, self.t_min, self.t_max)
        inner = torch.linspace(low, high, self.steps + 1, dtype=torch.float64, device="cpu")[1:-1]
        return [self.t_max, *self.schedule.time(inner).tolist(), self.t_min]


@dataclass(frozen=True)
class BoundedLogSNRGrid(LogSNRGrid):
    """A time grid with equal steps of log-SNR between two log-SNRs, by default from alpha = 0.011 to sigma = 0.011.

    If the log-SNR of the schedule is above `log_snr_min` at all times, the grid starts at t = 1. Use this grid to
    sample with schedules that are made for training. Their log-SNR is infinite at t = 0 and t = 1.

    Arguments:
        steps: the number N of reverse steps.
        schedule: the schedule of the process; the steps are equal in its log-SNR.
        log_snr_max: the log-SNR at the last time, near the data; a log-SNR of 9 means sigma = 0.011.
        log_snr_min: the log-SNR at the first time, near the noise; a log-SNR of -9 means alpha = 0.011.

    Raises:
        ValueError: log_snr_min < log_snr_max does not hold, log_snr_max is not below the log-SNR of the schedule at t =
            0, or the log-SNR is infinite at the start of the grid.
    """

    t_min: float = field(init=False, default=0.0)
    t_max: float = field(init=False, default=1.0)
    log_snr_max: Finite = 9.0
    log_snr_min: Finite = -9.0

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))
        high = _ends(self.schedule, 0.0, 1.0)[1]
        if not self.log_snr_min < self.log_snr_max < high:
            raise ValueError(
                f"log_snr_min = {self.log_snr_min}, log_snr_max = {self.log_snr_max}: expected log_snr_min < log_snr_max < "
                f"{high:.4g}, the log-SNR of {type(self.schedule).__name__} at t = 0"
            )
        ends = torch.tensor([self.log_snr_max, self.log_snr_min], dtype=torch.float64, device="cpu")
        for name, time in zip(("t_min", "t_max"), self.schedule.time(ends).tolist(), strict=True):
            object.__setattr__(self, name, time)
        super().__post_init__()


@dataclass(frozen=True)
class LogSNRTimes(TimeSampler):
    """A time sampler that draws log-SNRs from a given density, and converts them to times with weights.

    Two schedules have two roles: `schedule` adds the noise to the data, and `density` defines how often each noise
    level is drawn. The loss of each example is multiplied by the weight of its time, which is 1 / (the probability
    density with which the time was drawn). So the mean of the loss is the same as with uniform times, and only its
    variance changes.

    Because of the weights, the mean loss does not prefer any noise level. If you want to prefer some noise levels, use
    `density` as the schedule of the process, and draw uniform times.

    Arguments:
        schedule: the schedule of the process.
        density: a schedule that only defines a density of log-SNRs. At a time that is uniform in [0, 1], the log-SNR of
            this schedule is a random number, and the density of this number is used. Only log-SNRs between those of
            `schedule` at t_max and at t_min are drawn.
        t_min: the smallest time that is drawn.
        t_max: the largest time that is drawn.

    Raises:
        ValueError: if 0 <= t_min < t_max <= 1 does not hold, or if the density does not cover the log-SNRs of all times
            between t_min and t_max.

    References:
        Understanding diffusion objectives as the ELBO with simple data augmentation (Kingma & Gao, 2023) | https://arxiv.org/abs/2303.00848
    """

    schedule: Schedule = field(default_factory=CosineSchedule)
    density: Schedule = field(default_factory=lambda: LaplaceSchedule(b=4.0))
    t_min: Early = 0.01
    t_max: Late = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        needed, had = _ends(self.schedule, self.t_min, self.t_max), _ends(self.density, 0.0, 1.0)
        if needed[0] < had[0] or needed[1] > had[1]:
            raise ValueError(
                f"the density {type(self.density).__name__} has log-SNR {had[0]:.4g} to {had[1]:.4g}, expected a density that "
                f"covers {needed[0]:.4g} to {needed[1]:.4g}, the log-SNR of the schedule: some times would never be drawn"
            )

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        ends = torch.tensor([self.t_min, self.t_max], dtype=torch.float64, device=u.device)
        first, last = self.density.time(self.schedule.log_snr(ends))
        t = self.schedule.time(self.density.log_snr(first + (last - first) * u.double())).clamp(self.t_min, self.t_max)
        # dt/du for the map from u to the log-SNR to t, which is one over the density of t.
        there = self.density.time(self.schedule.log_snr(t))
        weight = (last - first) * self.density.log_snr_rate(there) / self.schedule.log_snr_rate(t)
        return clamped(t, self.t_min, self.t_max), weight.float()
