"""The interface of an engine for the recipe. Everything that differs between engines is behind this interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from ml_collections import ConfigDict
from torch import nn

from backbones import Backbone
from ctdiff.codecs import Codec
from ctdiff.data import Preparation, Source
from ctdiff.recipe.schema import NONE, Place, Setting, fields_of
from ctdiff.recipe.sections import Interval, Labels, Sampling, Saving, Training, Withheld
from ctdiff.recipe.tree import chosen, made, walk
from ctdiff.training import LearningRateFactor, Optimizer
from diffusion_core import Denoiser, GuidanceScale, KnownMask, Process, Sampler, StratifiedTimes, TimeGrid, TimeSampler
from diffusion_core.ranges import arguments

__all__ = [
    "Engine",
    "booleans",
    "chosen_class",
    "engine_of",
    "engines",
    "filled",
    "is_guided",
    "kind",
    "part",
    "samplers_of",
    "tree",
]

T = TypeVar("T")
Fields = Mapping[str, Setting | Place]


class Engine(Protocol):
    """An engine: its places in the configuration, and the objects that differ between engines."""

    name: ClassVar[str]
    """Its name, the value of `process.engine`."""
    title: ClassVar[str]
    """The name of its processes in help texts."""
    package: ClassVar[ModuleType]
    """Its package, with the classes `Loss` and `samplers.Sampler`, and the functions `bits_per_dim` and `learn_times`."""
    loss: ClassVar[str]
    """The name of the default loss."""
    wired: ClassVar[tuple[str, ...]] = ()
    """The names of `wires`: arguments that its losses, training times and grids get in addition to their interval."""
    fields: ClassVar[Mapping[str, Fields]]
    """The settings that only this engine has, by section."""
    places: ClassVar[Mapping[str, Place]]
    """What can be chosen only in this engine, by key."""

    def process(self, config: ConfigDict) -> Process:
        """Return the forward process."""

    def pixels(self, config: ConfigDict) -> Codec:
        """Return the codec: it converts between pixels 0 .. S - 1 and clean data x_0."""

    def network(self, config: ConfigDict, backbone: Callable[[int, int], Backbone]) -> nn.Module:
        """Return the network. `backbone` makes its backbone from the numbers of channels in and out."""

    def denoiser(self, config: ConfigDict, **wires: object) -> Denoiser[Any]:
        """Return the denoiser that is trained, from `process`, `network` and `event_shape`."""
        denoiser: Denoiser[Any] = part(config, "model.parameterisation", **wires)
        return denoiser

    def sampled(self, config: ConfigDict, denoiser: Denoiser[Any]) -> Denoiser[Any]:
        """Return the denoiser for sampling."""
        return denoiser

    def scored(self, config: ConfigDict, denoiser: Denoiser[Any]) -> Denoiser[Any]:
        """Return the denoiser for bits per dimension."""
        return denoiser

    def guided(self, config: ConfigDict, denoiser: Denoiser[Any], scale: GuidanceScale) -> Any:
        """Return a denoiser with classifier-free guidance."""

    def ends(self, config: ConfigDict) -> dict[str, float]:
        """Return the default `t_min` and `t_max` of the sampler."""

    def wires(self, config: ConfigDict) -> dict[str, object]:
        """Return the arguments that losses, training times and grids get by name."""
        return {}

    def corrected(self, config: ConfigDict, sampler: Sampler[Any]) -> Sampler[Any]:
        """Return the sampler with its corrector, if the configuration has one."""
        return sampler

    def bound_times(self, config: ConfigDict) -> TimeSampler:
        """Return the times of the likelihood bound (bits per dimension)."""
        return StratifiedTimes(config.process.t_min, config.process.t_max)

    def described(self, config: ConfigDict) -> str:
        """Return a few words about the process."""

    def advice(self, config: ConfigDict) -> Iterator[tuple[str, str]]:
        """Yield the keys of values that have no effect or do not fit, each with the end of a message."""
        guidance, grid = config.sampler.guidance, chosen_class(config, "sampler.grid")
        if is_guided(config) and not config.model.num_classes:
            why = "config.model.num_classes = 0, and guidance needs a network that was trained with labels"
            key, expected = ("g", "1.0") if "g" in guidance else ("name", "'constant'")
            yield f"sampler.guidance.{key}", f", expected {expected}: {why}"
        if not is_guided(config) and guidance.name != "constant":
            why = "config.sampler.guidance.g = 1.0 is the model without guidance"
            yield "sampler.guidance.name", f" has no effect, expected 'constant': {why}"
        for name in ("t_min", "t_max"):
            if config.sampler[name] is not None and name not in arguments(grid):
                why = f"config.sampler.grid.name = {config.sampler.grid.name!r} has ends of its own"
                yield f"sampler.{name}", f" cannot act, expected none: {why}"


def is_guided(config: ConfigDict) -> bool:
    """Return whether the sampler guides. g = 1 is the conditional model itself. A scale without this argument always guides."""
    return bool(config.sampler.guidance.get("g") != 1)


def engines() -> dict[str, Engine]:
    """Return the engines by name."""
    return {cls.name: cls() for cls in Engine.__subclasses__()}


def engine_of(config: ConfigDict) -> Engine:
    """Return the engine of a configuration."""
    return engines()[config.process.engine]


def kind(base: type, default: str, *wired: str, fields: Fields | None = None, optional: bool = False) -> Place:
    """Return a place with fields, where one of the alternatives of a base class is chosen."""
    return Place(fields or {}, base, default, frozenset(wired), optional=optional)


@cache
def tree(name: str) -> Place:
    """Return the place that is the whole configuration of an engine."""
    engine = engines()[name]
    wired, package = engine.wired, engine.package
    places = {
        "data": kind(Source, "embedded_mnist", "channels", "image_size", fields=fields_of(Preparation)),
        "model": kind(Backbone, "unet", "in_channels", "out_channels", "img_size", "num_classes", fields=fields_of(Labels)),
        "model.known": kind(KnownMask, NONE, optional=True),
        "process": Place({"engine": Setting("engine", Interval, Literal[tuple(engines())], Interval.engine)}),
        "loss": kind(package.Loss, engine.loss, *wired, fields=fields_of(Withheld)),
        "loss.times": kind(TimeSampler, "stratified", "t_min", "t_max", *wired),
        "training": Place(fields_of(Training)),
        "optimizer": kind(Optimizer, "adamw"),
        "optimizer.schedule": kind(LearningRateFactor, "cosine", "steps"),
        "sampler": kind(package.samplers.Sampler, "ancestral", "denoiser", "grid", fields=fields_of(Sampling)),
        "sampler.grid": kind(TimeGrid, "uniform", "steps", "t_min", "t_max", *wired),
        "sampler.guidance": kind(GuidanceScale, "constant"),
        "saving": Place(fields_of(Saving)),
        **engine.places,
    }

    def whole(key: str) -> Place:
        place = places.get(key, Place())
        inner = {each.rpartition(".")[2]: whole(each) for each in places if each.rpartition(".")[0] == key}
        return replace(place, fields={**place.fields, **engine.fields.get(key, {}), **inner})

    return whole("")


@cache
def booleans() -> frozenset[str]:
    """Return the names of all boolean settings, of all engines. On a command line they need no value."""
    settings = [member for name in engines() for _, member in walk(tree(name)) if isinstance(member, Setting)]
    return frozenset(setting.name for setting in settings if setting.kind is bool)


def samplers_of(engine: str) -> list[str]:
    """Return the names of the samplers of an engine."""
    return tree(engine).inner("sampler").choices()


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


def filled(target: Callable[..., T], section: Mapping[str, Any], **wires: object) -> T:
    """Call a class that is not chosen by name with its values in a section, and with further arguments."""
    return target(**{name: section[name] for name in fields_of(target, *wires)}, **wires)
