"""A schedule of the Gaussian engine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from continuous_diffusion.schedules.log_snr import LogSNRSchedule
from diffusion_core.ranges import Finite, Positive

__all__ = ["SecantSchedule"]


@dataclass(frozen=True)
class SecantSchedule(LogSNRSchedule):
    """`logSNR(t) = mu - width log tan(pi t / 2)`: a hyperbolic secant density over log-SNR.

    Arguments:
        mu: the log-SNR at t = 1/2.
        width: the scale, in units of log-SNR.
    """

    mu: Finite = 0.0
    width: Positive = 1.5

    def curve(self, t: Tensor) -> Tensor:
        return self.mu - self.width * torch.tan(math.pi * t / 2).log()

    def time(self, log_snr: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp((self.mu - log_snr.double()) / self.width))
