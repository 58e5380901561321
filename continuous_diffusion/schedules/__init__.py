"""Noise schedules of the Gaussian engine: the interface and the published schedules."""

from continuous_diffusion.schedules.base import Schedule, VariancePreserving
from continuous_diffusion.schedules.log_snr import (
    CauchySchedule,
    LaplaceSchedule,
    LogSNRSchedule,
    ShiftedCosineSchedule,
    SigmoidSchedule,
)
from continuous_diffusion.schedules.tabulated import CosineSchedule, LinearSchedule, QuadraticSchedule, TabulatedSchedule

__all__ = [
    "CauchySchedule",
    "CosineSchedule",
    "LaplaceSchedule",
    "LinearSchedule",
    "LogSNRSchedule",
    "QuadraticSchedule",
    "Schedule",
    "ShiftedCosineSchedule",
    "SigmoidSchedule",
    "TabulatedSchedule",
    "VariancePreserving",
]
