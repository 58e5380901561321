"""Processes and readings: rate matrices, schedules, denoisers, and the way between pixels and what a process runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from ml_collections import ConfigDict, FrozenConfigDict
from torch import Tensor, nn

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from ctdiff.build.shapes import event_shape
from diffusion_core import Denoiser, Process
from discrete_diffusion import rates, schedules

__all__ = [
    "DENOISERS",
    "GAUSSIAN",
    "GAUSSIAN_DENOISERS",
    "GAUSSIAN_SCHEDULES",
    "RATES",
    "SCALED_RATES",
    "SCHEDULES",
    "TRAINING_SCHEDULES",
    "States",
    "build_denoiser",
    "build_gaussian_schedule",
    "build_pixels",
    "build_process",
    "is_gaussian",
    "misfit",
]

Builder: TypeAlias = Callable[[ConfigDict], Any]

GAUSSIAN = "gaussian"
"""The process of the continuous engine; every other name is a rate matrix."""

RATES: dict[str, Callable[[int, ConfigDict], rates.RateMatrix]] = {
    "gaussian_target": lambda n, c: rates.GaussianTargetRates(n, c.gaussian_target.sigma_r, c.gaussian_target.Q, c.scale),
    "uniform": lambda n, c: rates.UniformRates(n, c.scale),
    "absorbing": lambda n, c: rates.AbsorbingRates(n),
    "birth_death": lambda n, c: rates.BirthDeathRates(n, c.scale),
}
SCHEDULES: dict[str, Builder] = {
    "constant": lambda c: schedules.Constant(c.constant.rate),
    "exponential": lambda c: schedules.Exponential(c.exponential.a, c.exponential.b),
    "geometric": lambda c: schedules.Geometric(c.geometric.sigma_min, c.geometric.sigma_max),
    "linear": lambda c: schedules.LinearSurvival(),
    "log_linear": lambda c: schedules.LogLinear(c.log_linear.eps),
    "polynomial": lambda c: schedules.PolynomialSurvival(c.polynomial.power),
    "cosine": lambda c: schedules.CosineSurvival(),
    "cosine_amplitude": lambda c: schedules.CosineAmplitude(),
}
SCALED_RATES = ("gaussian_target", "uniform", "birth_death")
"""Rate matrices that `process.scale` multiplies."""

GAUSSIAN_SCHEDULES: dict[str, Builder] = {
    "linear": lambda c: continuous.LinearSchedule(c.gaussian.T),
    "cosine": lambda c: continuous.CosineSchedule(c.gaussian.T),
    "quadratic": lambda c: continuous.QuadraticSchedule(c.gaussian.T),
    "sigmoid": lambda c: continuous.SigmoidSchedule(c.sigmoid.log_snr_max, c.sigmoid.log_snr_min),
    "shifted_cosine": lambda c: continuous.ShiftedCosineSchedule(c.shifted_cosine.side),
    "laplace": lambda c: continuous.LaplaceSchedule(c.laplace.mu, c.laplace.b),
    "cauchy": lambda c: continuous.CauchySchedule(c.cauchy.mu, c.cauchy.g),
}
TRAINING_SCHEDULES = ("laplace", "cauchy")
"""Gaussian schedules whose ends are infinitely far in log-SNR: no chain of even steps walks them."""

_MISFIT = 4.0  # how many times too fast or too slow the slowest mode may be

DENOISERS: dict[str, Callable[..., Denoiser[object]]] = {
    "x0": discrete.X0Denoiser,
    "leave_one_out": discrete.LeaveOneOutDenoiser,
    "absorbing": discrete.AbsorbingDenoiser,
}
GAUSSIAN_DENOISERS: dict[str, Callable[..., continuous.Denoiser]] = {
    "epsilon": continuous.EpsilonDenoiser,
    "x0": continuous.X0Denoiser,
    "v": continuous.VelocityDenoiser,
    "karras": continuous.KarrasDenoiser,
}


def is_gaussian(config: ConfigDict) -> bool:
    """Whether the configuration is of the continuous engine."""
    return bool(config.process.name == GAUSSIAN)


@dataclass(frozen=True)
class States:
    """The discrete engine's pixels, which are states as they are; `PixelScale` is its Gaussian twin."""

    def encode(self, k: Tensor) -> Tensor:
        """Pixels to what the process takes: unchanged."""
        return k

    def decode(self, x: Tensor) -> Tensor:
        """What a sampler returns to pixels: unchanged."""
        return x


def build_pixels(config: ConfigDict) -> States | continuous.PixelScale:
    """The way between pixels 0 .. S-1 and what the process runs on."""
    return _pixel_scale(config) if is_gaussian(config) else States()


def _pixel_scale(config: ConfigDict) -> continuous.PixelScale:
    return continuous.PixelScale(config.data.num_values)


def build_gaussian_schedule(config: ConfigDict) -> continuous.Schedule:
    """The schedule of a Gaussian process."""
    schedule: continuous.Schedule = GAUSSIAN_SCHEDULES[config.process.schedule](config.process)
    return schedule


def build_process(config: ConfigDict) -> Process:
    """The forward process."""
    settings = config.process
    if is_gaussian(config):
        process: Process = continuous.GaussianProcess(build_gaussian_schedule(config), _pixel_scale(config))
    else:
        process = discrete.CTMC(RATES[settings.name](config.data.num_values, settings), SCHEDULES[settings.schedule](settings))
    return process.to(config.training.device)


@lru_cache(maxsize=64)
def _slowest_rate(num_values: int, settings: FrozenConfigDict) -> float:
    """How fast the slowest mode of a rate matrix decays: the smallest of its eigenvalues but 0, negated."""
    matrix = RATES[settings.name](num_values, settings)
    generator = matrix.rates_from(torch.arange(matrix.num_states), torch.float64).numpy()
    return float(np.sort(-np.linalg.eigvals(generator).real)[1])


def misfit(config: ConfigDict) -> str | None:
    """What to say about rates that are far from what the schedule takes them for; None where there is nothing to say.

    `cosine_amplitude` spreads noise levels over time if the slowest mode of the rate matrix decays at rate 1. At another
    rate its survival is `cos(pi t / 2)^rate`: at 16, a hundredth is left at t = 0.46, and the rest of the training is noise.
    """
    settings, values = config.process, config.data.num_values
    if settings.schedule != "cosine_amplitude" or settings.name not in SCALED_RATES:
        return None
    rate = _slowest_rate(values, FrozenConfigDict(settings))
    if 1 / _MISFIT <= rate <= _MISFIT:
        return None
    return (
        f"config.process.scale = {settings.scale!r}, expected about {settings.scale / rate:.3g}: the slowest mode of "
        f"{settings.name} over config.data.num_values = {values} would decay at {rate:.3g} times the rate that "
        "config.process.schedule = 'cosine_amplitude' is made for, and most noise levels would hardly be trained on"
    )


def with_evidence_floor(config: ConfigDict, denoiser: Denoiser[object]) -> Denoiser[object]:
    """The denoiser that samples are drawn from and likelihoods are taken of: an x0 reading gets its evidence floor."""
    if isinstance(denoiser, discrete.X0Denoiser):
        return discrete.X0Denoiser(denoiser.process, denoiser.network, denoiser.event_shape, config.sampler.evidence_floor)
    return denoiser


def build_denoiser(config: ConfigDict, process: Process, network: nn.Module) -> Denoiser[object]:
    """The configuration's reading of a network, as it is trained."""
    name, shape = config.model.parameterisation, event_shape(config)
    if not is_gaussian(config):
        return DENOISERS[name](process, network, shape)
    options = {"std": config.model.karras_std} if name == "karras" else {}
    denoiser = GAUSSIAN_DENOISERS[name](process, network, shape, **options)
    return continuous.LearnedVarianceDenoiser(denoiser) if config.model.learned_variance else denoiser
