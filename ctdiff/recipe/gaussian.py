"""The continuous engine: Gaussian noise on real numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, ClassVar

from ml_collections import ConfigDict
from torch import nn

import continuous_diffusion as continuous
from backbones import Backbone
from ctdiff.recipe.engine import Engine, Fields, chosen_class, kind, part
from ctdiff.recipe.parts import build_grid
from ctdiff.recipe.schema import Place, fields_of
from ctdiff.recipe.sections import Interval
from diffusion_core import Denoiser, GridTimes, GuidanceScale, Process, TimeSampler, UniformGrid
from diffusion_core.ranges import CheckedArguments, Range
from diffusion_core.times import Early

__all__ = ["Gaussian"]


@dataclass(frozen=True)
class Chain(Interval):
    """The settings of the section `process`, except the choice of the schedule.

    Arguments:
        T: the number of steps of the published chain; the schedules linear, cosine and quadratic are tables of T values.
    """

    t_min: Early = 1e-3
    T: Annotated[int, Range(least=2)] = 1000


@dataclass(frozen=True)
class Variance(CheckedArguments):
    """The settings of the section `model` that only this engine has.

    Arguments:
        learned_variance: whether the network also learns the variance of a reverse step, with a second half of its outputs.
    """

    learned_variance: bool = False


class Gaussian(Engine):
    """Gaussian processes: schedules and parameterisations."""

    name = "gaussian"
    title = "Gaussian diffusion"
    package: ClassVar[ModuleType] = continuous
    loss = "epsilon"
    wired = ("schedule", "T", "grid")

    fields: ClassVar[Mapping[str, Fields]] = {"model": fields_of(Variance), "process": fields_of(Chain, "engine")}
    places: ClassVar[Mapping[str, Place]] = {
        "model.parameterisation": kind(continuous.Denoiser, "epsilon", "process", "network", "event_shape"),
        "process.schedule": kind(continuous.Schedule, "cosine", "T"),
    }

    def wires(self, config: ConfigDict) -> dict[str, object]:
        T = config.process.T
        return {"schedule": part(config, "process.schedule", T=T), "T": T, "grid": UniformGrid(T - 1, 1 / T)}

    def process(self, config: ConfigDict) -> Process:
        return continuous.GaussianProcess(part(config, "process.schedule", T=config.process.T), self.pixels(config))

    def pixels(self, config: ConfigDict) -> continuous.PixelScale:
        return continuous.PixelScale(config.data.num_values)

    def network(self, config: ConfigDict, backbone: Callable[[int, int], Backbone]) -> nn.Module:
        channels = config.data.channels
        return backbone(channels, channels * (2 if config.model.learned_variance else 1))

    def denoiser(self, config: ConfigDict, **wires: object) -> Denoiser[Any]:
        denoiser: Any = super().denoiser(config, **wires)
        return continuous.LearnedVarianceDenoiser(denoiser) if config.model.learned_variance else denoiser

    def guided(self, config: ConfigDict, denoiser: Denoiser[Any], scale: GuidanceScale) -> Denoiser[Any]:
        return continuous.ClassifierFreeGuidance(denoiser, scale)

    def ends(self, config: ConfigDict) -> dict[str, float]:
        # The last step of a chain of T steps goes from 1 / T to the data.
        return {"t_min": config.process.t_min or 1 / config.process.T, "t_max": config.process.t_max}

    def bound_times(self, config: ConfigDict) -> TimeSampler:
        """Return the steps of the chain of T times, or the T steps of the sampling grid if that grid has its own ends."""
        T = config.process.T
        own = issubclass(chosen_class(config, "sampler.grid"), continuous.BoundedLogSNRGrid)
        return GridTimes(build_grid(config, T - 1) if own else UniformGrid(T - 1, 1 / T))

    def described(self, config: ConfigDict) -> str:
        published = " (improved DDPM)" if config.model.learned_variance else " (DDPM)"
        return f"Gaussian diffusion{published if config.model.parameterisation.name == 'epsilon' else ''}"
