"""The discrete engine: Markov chains on integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, ClassVar

import torch
from ml_collections import ConfigDict, FrozenConfigDict
from torch import nn

import discrete_diffusion as discrete
from backbones import Backbone, Head, PixelInput, PixelLogits
from ctdiff.codecs import States
from ctdiff.recipe.engine import Engine, Fields, chosen_class, filled, kind, part
from ctdiff.recipe.schema import NONE, Place, fields_of
from ctdiff.recipe.sections import Interval
from diffusion_core import Denoiser, GuidanceScale, Process, Sampler
from diffusion_core.ranges import CheckedArguments, Share, arguments
from discrete_diffusion import guidance, rates, samplers

__all__ = ["Discrete"]

_CORRECTED = fields_of(samplers.PredictorCorrector, "predictor", "corrector")
_LARGEST_RATE = 1e6
_LAST_FINITE = 0.999  # samplers begin here if the rate at t_max is larger
_MISFIT = 4.0  # the slowest mode may be so many times too fast or too slow


@dataclass(frozen=True)
class Evidence(CheckedArguments):
    """The settings of the section `sampler` that only this engine has.

    Arguments:
        evidence_floor: for the parameterisation x0. Clean values whose probability of giving x_t is below this share of the
            largest one get less weight; 0 takes the network's posterior as it is. None means 0 for samplers that use no
            rates and have no corrector. In all other cases, and for bits per dimension, it means 0.1 with Gaussian-target and
            birth-death rates, and 0 with other rates.
    """

    evidence_floor: Share | None = None


class Discrete(Engine):
    """Continuous-time Markov chains: rate matrices, schedules, parameterisations, heads and inputs."""

    name = "discrete"
    title = "Markov chain"
    package: ClassVar[ModuleType] = discrete
    loss = "cross_entropy"

    fields: ClassVar[Mapping[str, Fields]] = {"process": fields_of(Interval, "engine"), "sampler": fields_of(Evidence)}
    places: ClassVar[Mapping[str, Place]] = {
        "model.parameterisation": kind(discrete.Denoiser, "x0", "process", "network", "event_shape", "evidence_floor"),
        "model.head": kind(Head, "truncated_logistic", "channels", "num_values"),
        "model.inputs": kind(PixelInput, "ordinal", "channels", "num_states", "masked"),
        "process.rates": kind(rates.RateMatrix, "gaussian_target", "num_states", "data_states"),
        "process.schedule": kind(discrete.Schedule, "exponential"),
        "sampler.corrector": kind(samplers.Corrector, NONE, "denoiser", fields=_CORRECTED, optional=True),
        "sampler.guidance_form": kind(guidance.ClassifierFree, "posterior", "denoiser", "scale"),
    }

    def process(self, config: ConfigDict) -> Process:
        return discrete.CTMC(_rates(config), part(config, "process.schedule"))

    def pixels(self, config: ConfigDict) -> States:
        return States()

    def network(self, config: ConfigDict, backbone: Callable[[int, int], Backbone]) -> nn.Module:
        values, channels, states = config.data.num_values, config.data.channels, _rates(config).num_states
        inputs = part(config, "model.inputs", channels=channels, num_states=states, masked=states > values)
        head = part(config, "model.head", channels=channels, num_values=values)
        return PixelLogits(backbone(inputs.out_channels, head.in_channels), head, inputs, values, states)

    def sampled(self, config: ConfigDict, denoiser: Any) -> Denoiser[Any]:
        corrector = config.sampler.corrector
        corrected = corrector.name != NONE and corrector.corrector_steps > 0
        by_rates = chosen_class(config, "sampler").steps_by_rates or corrected
        return self._floored(config, denoiser, denoiser.process.rates.evidence_floor if by_rates else 0.0)

    def scored(self, config: ConfigDict, denoiser: Any) -> Denoiser[Any]:
        return self._floored(config, denoiser, denoiser.process.rates.evidence_floor)

    def _floored(self, config: ConfigDict, denoiser: Any, usual: float) -> Denoiser[Any]:
        wires = {"process": denoiser.process, "network": denoiser.network, "event_shape": denoiser.event_shape}
        floor = config.sampler.evidence_floor
        return super().denoiser(config, **wires, evidence_floor=usual if floor is None else floor)

    def guided(self, config: ConfigDict, denoiser: Denoiser[Any], scale: GuidanceScale) -> Any:
        return part(config, "sampler.guidance_form", denoiser=denoiser, scale=scale)

    def corrected(self, config: ConfigDict, sampler: Sampler[Any]) -> Sampler[Any]:
        corrector = part(config, "sampler.corrector", denoiser=sampler.denoiser)
        if corrector is None:
            return sampler
        return filled(samplers.PredictorCorrector, config.sampler.corrector, predictor=sampler, corrector=corrector)

    def ends(self, config: ConfigDict) -> dict[str, float]:
        t_min, t_max = config.process.t_min, config.process.t_max
        # The reverse rates of this parameterisation stay finite where beta does not.
        finite = issubclass(chosen_class(config, "model.parameterisation"), discrete.AbsorbingDenoiser)
        if chosen_class(config, "sampler").steps_by_rates and not finite:
            beta, _ = part(config, "process.schedule")(torch.tensor(t_max, dtype=torch.float64))
            t_max = t_max if beta <= _LARGEST_RATE else min(t_max, _LAST_FINITE)
        return {"t_min": t_min, "t_max": t_max}

    def advice(self, config: ConfigDict) -> Iterator[tuple[str, str]]:
        yield from super().advice(config)
        parameterisation = chosen_class(config, "model.parameterisation")
        if config.sampler.evidence_floor is not None and "evidence_floor" not in arguments(parameterisation):
            why = f"config.model.parameterisation.name = {config.model.parameterisation.name!r}"
            yield "sampler.evidence_floor", f" cannot act, expected none: {why}"
        yield from _misfit(config)

    def described(self, config: ConfigDict) -> str:
        levels = "grey levels" if config.data.channels == 1 else "levels a colour"
        name = config.process.rates.name
        words = {"gaussian_target": "Gaussian target", "absorbing": "absorbing (a mask)", "birth_death": "birth-death"}
        return f"Markov chain on {config.data.num_values} {levels}, {words.get(name, name)} rates"


def _rates(config: ConfigDict) -> rates.RateMatrix:
    values = config.data.num_values
    matrix: rates.RateMatrix = part(config, "process.rates", num_states=values, data_states=values)
    return matrix


@lru_cache(maxsize=64)
def _slowest_rate(process: FrozenConfigDict, num_values: int) -> float:
    """Return the rate at which the slowest mode of a rate matrix decays: its second largest eigenvalue, negated."""
    matrix = _rates(ConfigDict({"process": process.as_configdict(), "data": {"num_values": num_values}}))
    generator = matrix.rates_from(torch.arange(matrix.num_states), torch.float64)
    return float(torch.linalg.eigvals(-generator).real.sort().values[1])


def _misfit(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Yield the key of the scale of the rates, if the rates do not fit the schedule.

    A schedule with tau(1) = inf spreads the noise levels over time if the slowest mode of the rate matrix decays at rate 1. At
    another rate, the share of this mode that is left at t is `alpha(t)^rate`. With `alpha = 1 - t` and rate 16, one hundredth
    is left at t = 0.25, and most of the training sees noise only.
    """
    name, values, schedule = config.process.rates.name, config.data.num_values, config.process.schedule.name
    scale = config.process.rates.get(name, {}).get("scale")
    _, tau = part(config, "process.schedule")(torch.ones((), dtype=torch.float64))
    if tau.isfinite() or scale is None:
        return
    rate = _slowest_rate(FrozenConfigDict(config.process), values)
    if not 1 / _MISFIT <= rate <= _MISFIT:
        yield (
            f"process.rates.{name}.scale",
            f", expected about {scale / rate:.3g}: the slowest mode of {name} over config.data.num_values = {values} would "
            f"decay at {rate:.3g} times the rate that config.process.schedule.name = {schedule!r} is made for, and most "
            "noise levels would hardly be trained on",
        )
