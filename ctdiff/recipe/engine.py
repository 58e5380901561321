"""What the recipe asks of an engine. Everything that differs between engines is asked here, and nowhere else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any, ClassVar, Literal

from ml_collections import ConfigDict
from torch import nn

from backbones import Backbone
from ctdiff.data import Preparation, Source
from ctdiff.recipe.schema import NONE, Place, Setting, fields_of
from ctdiff.recipe.sections import Interval, Labels, Sampling, Saving, Training, Withheld
from ctdiff.recipe.tree import chosen, made
from ctdiff.training import LearningRateFactor, Optimizer
from diffusion_core import Denoiser, GuidanceScale, Process, Sampler, TimeGrid, TimeSampler

__all__ = ["Engine", "booleans", "build_grid", "engine_of", "engines", "kind", "part", "samplers_of", "tree"]

Fields = Mapping[str, Setting | Place]


class Engine(ABC):
    """One engine: its places in the configuration, and the objects that differ between engines."""

    name: ClassVar[str]
    """What chooses it as `process.engine`."""
    title: ClassVar[str]
    """What help texts call its processes."""
    package: ClassVar[ModuleType]
    """Its package, which measures likelihoods: `bits_per_dim`, `learn_times`."""
    losses: ClassVar[tuple[type, str]]
    """The base class of its losses, and the one that is chosen if the configuration names none."""
    samplers: ClassVar[tuple[type, str]]
    """The same of its samplers."""
    wired: ClassVar[tuple[str, ...]] = ()
    """What its losses, training times and grids are given by name, beside their interval: the names of `wires`."""

    @abstractmethod
    def fields(self) -> Mapping[str, Fields]:
        """The engine's own fields of the sections `model`, `process` and `sampler`."""

    @abstractmethod
    def process(self, config: ConfigDict) -> Process:
        """The forward process."""

    @abstractmethod
    def pixels(self, config: ConfigDict) -> Any:
        """The way between pixels 0 .. S - 1 and what the process runs on: `encode` and `decode`."""

    @abstractmethod
    def network(self, config: ConfigDict, backbone: Callable[[int, int], Backbone]) -> nn.Module:
        """The network around a backbone, which is made from its numbers of channels in and out."""

    def denoiser(self, config: ConfigDict, **wires: object) -> Denoiser[Any]:
        """The denoiser that is trained, from `process`, `network` and `event_shape`."""
        denoiser: Denoiser[Any] = part(config, "model.parameterisation", **wires)
        return denoiser

    def sampled(self, config: ConfigDict, denoiser: Denoiser[Any]) -> Denoiser[Any]:
        """What samples are drawn from and likelihoods are taken of."""
        return denoiser

    @abstractmethod
    def guided(self, config: ConfigDict, denoiser: Denoiser[Any], scale: GuidanceScale) -> Denoiser[Any]:
        """A denoiser with classifier-free guidance."""

    @abstractmethod
    def ends(self, config: ConfigDict, sampler: Any) -> tuple[float, float]:
        """t_min and t_max of a class of samplers where the configuration leaves them open."""

    def wires(self, config: ConfigDict) -> dict[str, object]:
        """What losses, training times and grids are given by name."""
        return {}

    def corrected(self, config: ConfigDict, sampler: Sampler[Any]) -> Sampler[Any]:
        """The sampler with its corrector, if the configuration has one."""
        return sampler

    @abstractmethod
    def bound_times(self, config: ConfigDict) -> TimeSampler:
        """The times of the bound that bits per dimension are measured by."""

    @abstractmethod
    def described(self, config: ConfigDict) -> str:
        """The process in a few words."""

    def advice(self, config: ConfigDict) -> Iterator[tuple[str, str]]:
        """Keys whose values can be built but cannot be meant, each with what to say about it."""
        yield from ()


def engines() -> dict[str, Engine]:
    """The engines by name."""
    return {cls.name: cls() for cls in Engine.__subclasses__()}


def engine_of(config: ConfigDict) -> Engine:
    """The engine of a configuration."""
    return engines()[config.process.engine]


def kind(base: type, default: str = NONE, *wired: str, fields: Fields | None = None, optional: bool = False) -> Place:
    """The place where one of a base class's alternatives is chosen, beside some fields."""
    return Place(fields or {}, base, default, frozenset(wired), optional=optional)


@cache
def tree(name: str) -> Place:
    """The whole configuration of an engine."""
    engine = engines()[name]
    own, wired = engine.fields(), engine.wired
    sampler = {
        **fields_of(Sampling),
        "grid": kind(TimeGrid, "uniform", "steps", "t_min", "t_max", *wired),
        "guidance": kind(GuidanceScale, "constant"),
        **own["sampler"],
    }
    sections = {
        "data": kind(Source, "embedded_mnist", "channels", "image_size", fields=fields_of(Preparation)),
        "model": kind(
            Backbone,
            "unet",
            *("in_channels", "out_channels", "img_size", "num_classes"),
            fields={**fields_of(Labels), **own["model"]},
        ),
        "process": Place({"engine": Setting("engine", Interval, Literal[tuple(engines())], Interval.engine), **own["process"]}),
        "loss": kind(
            *engine.losses,
            *wired,
            fields={**fields_of(Withheld), "times": kind(TimeSampler, "stratified", "t_min", "t_max", *wired)},
        ),
        "training": Place(fields_of(Training)),
        "optimizer": kind(Optimizer, "adamw", fields={"schedule": kind(LearningRateFactor, "cosine", "steps")}),
        "sampler": kind(*engine.samplers, "denoiser", "grid", fields=sampler),
        "saving": Place(fields_of(Saving)),
    }
    return Place(sections)


@cache
def booleans() -> frozenset[str]:
    """The names of the settings that are true or false, of all engines: on a command line they need no value."""
    return frozenset(setting.name for name in engines() for setting in tree(name).settings() if setting.kind is bool)


def part(config: ConfigDict, key: str, **wires: object) -> Any:
    """The object that a configuration describes at a key, such as `process.schedule`; see `made`."""
    return made(*_at(config, key), key, wires)


def _at(config: ConfigDict, key: str) -> tuple[Place, ConfigDict]:
    place, node = tree(config.process.engine), config
    for name in key.split("."):
        place, node = place.inner(name), node[name]
    return place, node


def samplers_of(engine: str) -> list[str]:
    """The names of an engine's samplers."""
    return tree(engine).inner("sampler").choices()


def build_grid(config: ConfigDict, steps: int | None = None) -> TimeGrid:
    """The times of the sampler, or of one with another number of steps."""
    settings, engine = config.sampler, engine_of(config)
    t_min, t_max = engine.ends(config, chosen(_at(config, "sampler")[0], settings.name, "sampler"))
    wires = {
        **engine.wires(config),
        "steps": settings.steps if steps is None else steps,
        "t_min": t_min if settings.t_min is None else settings.t_min,
        "t_max": t_max if settings.t_max is None else settings.t_max,
    }
    grid: TimeGrid = part(config, "sampler.grid", **wires)
    return grid
