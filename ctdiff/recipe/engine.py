"""The interface of an engine for the recipe. Everything that differs between engines is behind this interface."""

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
from diffusion_core import Denoiser, GuidanceScale, KnownMask, Process, Sampler, TimeGrid, TimeSampler

__all__ = ["Engine", "booleans", "build_grid", "chosen_class", "engine_of", "engines", "kind", "part", "samplers_of", "tree"]

Fields = Mapping[str, Setting | Place]


class Engine(ABC):
    """An engine: its places in the configuration, and the objects that differ between engines."""

    name: ClassVar[str]
    """Its name, the value of `process.engine`."""
    title: ClassVar[str]
    """The name of its processes in help texts."""
    package: ClassVar[ModuleType]
    """Its package, with the functions `bits_per_dim` and `learn_times`."""
    losses: ClassVar[tuple[type, str]]
    """The base class of its losses, and the name of the default."""
    samplers: ClassVar[tuple[type, str]]
    """The base class of its samplers, and the name of the default."""
    wired: ClassVar[tuple[str, ...]] = ()
    """The names of `wires`: arguments that its losses, training times and grids get in addition to their interval."""

    @abstractmethod
    def fields(self) -> Mapping[str, Fields]:
        """Return the fields of the engine in the sections `model`, `process` and `sampler`."""

    @abstractmethod
    def process(self, config: ConfigDict) -> Process:
        """Return the forward process."""

    @abstractmethod
    def pixels(self, config: ConfigDict) -> Any:
        """Return the conversion between pixels 0 .. S - 1 and clean data x_0: an object with `encode` and `decode`."""

    @abstractmethod
    def network(self, config: ConfigDict, backbone: Callable[[int, int], Backbone]) -> nn.Module:
        """Return the network. `backbone` makes its backbone from the numbers of channels in and out."""

    def denoiser(self, config: ConfigDict, **wires: object) -> Denoiser[Any]:
        """Return the denoiser that is trained, from `process`, `network` and `event_shape`."""
        denoiser: Denoiser[Any] = part(config, "model.parameterisation", **wires)
        return denoiser

    def sampled(self, config: ConfigDict, denoiser: Denoiser[Any]) -> Denoiser[Any]:
        """Return the denoiser for sampling and for likelihoods."""
        return denoiser

    @abstractmethod
    def guided(self, config: ConfigDict, denoiser: Denoiser[Any], scale: GuidanceScale) -> Denoiser[Any]:
        """Return a denoiser with classifier-free guidance."""

    @abstractmethod
    def ends(self, config: ConfigDict, sampler: Any) -> tuple[float, float]:
        """Return the default t_min and t_max of a class of samplers."""

    def wires(self, config: ConfigDict) -> dict[str, object]:
        """Return the arguments that losses, training times and grids get by name."""
        return {}

    def corrected(self, config: ConfigDict, sampler: Sampler[Any]) -> Sampler[Any]:
        """Return the sampler with its corrector, if the configuration has one."""
        return sampler

    @abstractmethod
    def bound_times(self, config: ConfigDict) -> TimeSampler:
        """Return the times of the likelihood bound (bits per dimension)."""

    @abstractmethod
    def described(self, config: ConfigDict) -> str:
        """Return a few words about the process."""

    def advice(self, config: ConfigDict) -> Iterator[tuple[str, str]]:
        """Yield the keys of values that have no effect or do not fit, each with a message."""
        yield from ()


def engines() -> dict[str, Engine]:
    """Return the engines by name."""
    return {cls.name: cls() for cls in Engine.__subclasses__()}


def engine_of(config: ConfigDict) -> Engine:
    """Return the engine of a configuration."""
    return engines()[config.process.engine]


def kind(base: type, default: str = NONE, *wired: str, fields: Fields | None = None, optional: bool = False) -> Place:
    """Return a place with fields, where one of the alternatives of a base class is chosen."""
    return Place(fields or {}, base, default, frozenset(wired), optional=optional)


@cache
def tree(name: str) -> Place:
    """Return the place that is the whole configuration of an engine."""
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
            fields={**fields_of(Labels), "known": kind(KnownMask, NONE, optional=True), **own["model"]},
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
    """Return the names of all boolean settings, of all engines. On a command line they need no value."""
    return frozenset(setting.name for name in engines() for setting in tree(name).settings() if setting.kind is bool)


def part(config: ConfigDict, key: str, **wires: object) -> Any:
    """Make the object that a configuration describes at a key, such as `process.schedule`; see `made`."""
    return made(*_at(config, key), key, wires)


def chosen_class(config: ConfigDict, key: str) -> Any:
    """Return the class that a configuration chooses at a key, None for `none`."""
    place, node = _at(config, key)
    return chosen(place, node["name"], key)


def _at(config: ConfigDict, key: str) -> tuple[Place, ConfigDict]:
    place, node = tree(config.process.engine), config
    for name in key.split("."):
        place, node = place.inner(name), node[name]
    return place, node


def samplers_of(engine: str) -> list[str]:
    """Return the names of the samplers of an engine."""
    return tree(engine).inner("sampler").choices()


def build_grid(config: ConfigDict, steps: int | None = None) -> TimeGrid:
    """Make the time grid of the sampler, or one with another number of steps."""
    settings, engine = config.sampler, engine_of(config)
    t_min, t_max = engine.ends(config, chosen_class(config, "sampler"))
    wires = {
        **engine.wires(config),
        "steps": settings.steps if steps is None else steps,
        "t_min": t_min if settings.t_min is None else settings.t_min,
        "t_max": t_max if settings.t_max is None else settings.t_max,
    }
    grid: TimeGrid = part(config, "sampler.grid", **wires)
    return grid
