"""Samplers and their grids of times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from ml_collections import ConfigDict

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from continuous_diffusion import samplers as gaussian_samplers
from ctdiff.build.processes import GAUSSIAN, SCHEDULES, build_gaussian_schedule, is_gaussian, with_evidence_floor
from diffusion_core import (
    ConstantScale,
    CosineGrid,
    Denoiser,
    GuidanceScale,
    IntervalScale,
    PowerCosineScale,
    QuadraticGrid,
    RespacedGrid,
    Sampler,
    TimeGrid,
    UniformGrid,
)
from discrete_diffusion import samplers

__all__ = [
    "GAUSSIAN_GRIDS",
    "GAUSSIAN_SAMPLERS",
    "GRIDS",
    "GUIDANCE",
    "LEAPS",
    "RATE_SAMPLERS",
    "SAMPLERS",
    "SCALES",
    "VARIANCES",
    "build_grid",
    "build_guidance",
    "build_sampler",
]

RATE_SAMPLERS = ("euler", "tau_leaping")
"""Samplers whose first step needs the reverse rates at the time it begins at."""

_LAST_FINITE = 0.999  # where they begin instead, with a thousandth of the way to the data behind them
_LARGEST_RATE = 1e6

GRIDS: dict[str, Callable[[int, float, float], TimeGrid]] = {
    "uniform": UniformGrid,
    "quadratic": QuadraticGrid,
    "cosine": CosineGrid,
}
GAUSSIAN_GRIDS: dict[str, Callable[[ConfigDict, int], TimeGrid]] = {
    "respaced": lambda c, steps: RespacedGrid(steps, c.process.gaussian.T),
    "log_snr": lambda c, steps: continuous.LogSNRGrid.between(
        steps, build_gaussian_schedule(c), c.sampler.log_snr_max, c.sampler.log_snr_min
    ),
}
"""Grids that say where they begin and end."""

SCALES: dict[str, Callable[[ConfigDict], GuidanceScale]] = {
    "constant": lambda c: ConstantScale(c.guidance),
    "interval": lambda c: IntervalScale(c.guidance, *c.guidance_interval),
    "power_cosine": lambda c: PowerCosineScale(c.guidance, c.guidance_power),
}
GUIDANCE: dict[str, Callable[[Any, GuidanceScale], Denoiser[object]]] = {
    "posterior": discrete.guidance.PosteriorGuidance,
    "rate": discrete.guidance.RateGuidance,
}
LEAPS: dict[str, Callable[[], samplers.Leap]] = {"ordinal": samplers.OrdinalLeap, "categorical": samplers.CategoricalLeap}
SAMPLERS: dict[str, Callable[[Any, TimeGrid, ConfigDict], samplers.Sampler[discrete.Posterior]]] = {
    "ancestral": lambda d, grid, c: samplers.Ancestral(d, grid, sub_batch=c.sub_batch, argmax=c.argmax),
    "euler": lambda d, grid, c: samplers.Euler(d, grid, sub_batch=c.sub_batch, argmax=c.argmax),
    "tau_leaping": lambda d, grid, c: samplers.TauLeaping(
        d, grid, leap=LEAPS[c.leap](), sub_batch=c.sub_batch, argmax=c.argmax
    ),
}
VARIANCES: dict[str, Callable[[], gaussian_samplers.ReverseVariance]] = {
    "small": gaussian_samplers.FixedSmall,
    "large": gaussian_samplers.FixedLarge,
    "learned": gaussian_samplers.LearnedRange,
}
GAUSSIAN_SAMPLERS: dict[str, Callable[[Any, TimeGrid, ConfigDict], Sampler[object]]] = {
    "ancestral": lambda d, grid, c: gaussian_samplers.Ancestral(
        d, grid, variance=VARIANCES[c.variance](), clip=c.clip or None, sub_batch=c.sub_batch
    ),
    "ddim": lambda d, grid, c: gaussian_samplers.DDIM(
        d, grid, eta=c.eta, clip=c.clip or None, sub_batch=c.sub_batch, variance=VARIANCES[c.variance]()
    ),
    "heun": lambda d, grid, c: gaussian_samplers.Heun(d, grid, clip=c.clip or None, sub_batch=c.sub_batch),
}


def _beginning(config: ConfigDict, sampler: str) -> float:
    """`process.t_max`, or just before where a sampler would meet an infinite rate."""
    settings = config.process
    t_max = float(settings.t_max)
    if sampler not in RATE_SAMPLERS or settings.name in (GAUSSIAN, "absorbing"):  # a mask's reverse rates stay finite
        return t_max
    beta, _ = SCHEDULES[settings.schedule](settings)(torch.tensor(t_max, dtype=torch.float64))
    return t_max if beta <= _LARGEST_RATE else min(t_max, _LAST_FINITE)


def build_grid(config: ConfigDict, *, steps: int | None = None, name: str | None = None) -> TimeGrid:
    """The times of a sampler; its number of steps and its name are the configuration's where they are not given."""
    settings = config.sampler
    if settings.grid in GAUSSIAN_GRIDS:
        return GAUSSIAN_GRIDS[settings.grid](config, settings.steps if steps is None else steps)
    t_max = settings.t_max or _beginning(config, settings.name if name is None else name)
    t_min = settings.t_min or config.process.t_min
    if t_min == 0 and is_gaussian(config):
        t_min = 1 / config.process.gaussian.T  # where a chain of T steps takes the last one, to the data
    return GRIDS[settings.grid](settings.steps if steps is None else steps, t_min, t_max)


def build_guidance(config: ConfigDict, denoiser: Denoiser[object]) -> Denoiser[object]:
    """The denoiser as it is where the scale is 1, the conditional model; guided where it is another."""
    settings = config.sampler
    if settings.guidance == 1:
        return denoiser
    scale = SCALES[settings.guidance_scale](settings)
    if is_gaussian(config):
        return continuous.ClassifierFreeGuidance(cast("Denoiser[continuous.Posterior]", denoiser), scale)
    return GUIDANCE[settings.guidance_form](denoiser, scale)


def build_sampler(
    config: ConfigDict, denoiser: Denoiser[object], *, steps: int | None = None, name: str | None = None
) -> Sampler[object]:
    """A sampler of a denoiser: the configuration's, or one with another number of steps, or another one by name.

    Raises:
        ValueError: the process has no sampler of this name.
    """
    settings = config.sampler
    gaussian = is_gaussian(config)
    name = settings.name if name is None else name
    if name not in (table := GAUSSIAN_SAMPLERS if gaussian else SAMPLERS):
        raise ValueError(f"sampler = {name!r}, expected one of {', '.join(table)}")
    grid = build_grid(config, steps=steps, name=name)
    denoiser = build_guidance(config, with_evidence_floor(config, denoiser))
    if gaussian:
        return GAUSSIAN_SAMPLERS[name](denoiser, grid, settings)
    sampler = SAMPLERS[name](denoiser, grid, settings)
    if settings.corrector_steps == 0:
        return sampler
    return samplers.PredictorCorrector(
        sampler,
        samplers.ForwardBackward(sampler.denoiser, leap=LEAPS[settings.leap]()),
        corrector_steps=settings.corrector_steps,
        step_multiplier=settings.corrector_multiplier,
        entry_time=settings.corrector_entry_time,
    )
