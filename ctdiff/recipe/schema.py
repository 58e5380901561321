"""The keys of a configuration, read from constructors.

A *setting* is an argument that a configuration can hold: a number, a text, a boolean, several of these, or the name of a
class (`type[Base]`). A *place* is a part of the configuration. Its fields are settings and further places. If a place has a
base class, its key `name` chooses one of the alternatives of this class:

    process.rates.name = gaussian_target             the choice
    process.rates.gaussian_target.sigma_r = 6.0      an argument of what is chosen
    sampler.sub_batch = 16                           an argument of the base class, `Sampler`

An alternative is a concrete subclass that its package exports. Each of its arguments is a setting, a place, or *wired*: the
recipe gives it, under one of the names in `WIRED`.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin

import docstring_parser

from diffusion_core.ranges import Argument, Range, arguments

__all__ = [
    "EMPTY",
    "NONE",
    "PACKAGES",
    "WIRED",
    "Place",
    "Setting",
    "Unfit",
    "alternatives",
    "called",
    "fields_of",
    "members",
    "union",
]

PACKAGES = ("diffusion_core", "backbones", "discrete_diffusion", "continuous_diffusion", "ctdiff.data", "ctdiff.training")
"""The packages that are searched for alternatives."""

WIRED = frozenset(
    {
        *("process", "network", "denoiser", "event_shape", "evidence_floor"),
        *("schedule", "grid", "steps", "t_min", "t_max", "T"),
        *("in_channels", "out_channels", "channels", "image_size", "img_size", "num_classes"),
        *("num_values", "num_states", "data_states", "masked"),
    }
)
"""The names of arguments that the recipe gives. An argument with such a name is not a setting."""

NONE = "none"
"""The name that chooses no class, if an argument may be None."""

EMPTY = inspect.Parameter.empty
"""The default of a setting without a default."""

_SUFFIXES = re.compile(
    "(?<=.)(Rates|Schedule|Survival|Loss|Denoiser|Times|Grid|Scale|Leap|Weight|Head|Input|Factor|Block|Guidance|Mask)$"
)
_WORDS = re.compile("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Unfit(TypeError):
    """A class that a configuration cannot choose. The message names the reason, such as an argument."""


@dataclass(frozen=True)
class Setting:
    """One value of the configuration.

    Arguments:
        name: the argument.
        owner: the class that has the argument.
        kind: its type, such as float, `int | None` or `tuple[float, float]`.
        default: its default, or `EMPTY`.
        allowed: its range, None if it has none.
    """

    name: str
    owner: type
    kind: Any
    default: Any
    allowed: Range | None = None

    @property
    def meaning(self) -> str:
        """The description of the argument in the docstring of its class, or of a base class."""
        for cls in self.owner.__mro__:
            for parameter in docstring_parser.parse(cls.__doc__ or "").params:
                if parameter.arg_name == self.name:
                    return " ".join((parameter.description or "").split())
        return ""


@dataclass(frozen=True)
class Place:
    """A part of the configuration.

    Arguments:
        fields: the settings and places that do not depend on a choice, by name.
        base: the base class of the alternatives; None if nothing is chosen here.
        default: the name that is chosen by default.
        wired: the names of the arguments that the recipe gives to the chosen class.
        instance: an instance of an alternative; its values are the defaults of the arguments of its class.
        optional: whether `none` can be chosen.
    """

    fields: Mapping[str, Setting | Place] = field(default_factory=dict)
    base: type | None = None
    default: str = NONE
    wired: frozenset[str] = frozenset()
    instance: object = None
    optional: bool = False

    def found(self) -> Mapping[str, type]:
        """Return the classes that can be chosen, by name."""
        return {} if self.base is None else alternatives(self.base, self.wired)

    def choices(self) -> list[str]:
        """Return the names that can be chosen."""
        return [NONE] * self.optional + list(alternatives(self.base, self.wired)) if self.base is not None else []

    def names(self) -> set[str]:
        """Return the names of all fields, of all shared arguments, and of what can be chosen."""
        shared = {key for cls in self.found().values() for key in self.around(cls)}
        return {*self.fields, *self.choices(), *shared}

    def inner(self, name: str) -> Place:
        """Return the place of a field."""
        member = self.fields[name]
        assert isinstance(member, Place)
        return member

    def around(self, cls: type | None) -> dict[str, Setting | Place]:
        """Return the fields if a class is chosen: the constant ones, the shared arguments, and its own under its name."""
        if cls is None:
            return {} if self.base is not None else dict(self.fields)
        found: dict[str, Setting | Place] = dict(members(cls, self.wired))
        if self.instance is not None and type(self.instance) is cls:
            found = {name: _valued(member, getattr(self.instance, name)) for name, member in found.items()}
        shared = {name for name in found if self.base is not cls and name in arguments(self.base or object)}
        beside = {**self.fields, **{name: found[name] for name in found if name in shared}}
        if called(cls) in beside:
            raise TypeError(f"{cls.__name__} is called {called(cls)!r}, which is a key beside it")
        own = Place({name: member for name, member in found.items() if name not in shared})
        return {**beside, **({called(cls): own} if own.fields else {})}

    def settings(self) -> Iterator[Setting]:
        """Yield every setting of the place and of all of its alternatives."""
        found = [] if self.base is None else alternatives(self.base, self.wired).values()
        for members in (self.fields, *map(self.around, found)):
            for member in members.values():
                yield from [member] if isinstance(member, Setting) else member.settings()


Member: TypeAlias = Setting | Place


def fields_of(cls: type, *wired: str) -> Mapping[str, Setting | Place]:
    """Return the arguments of a class that is not chosen by name, except the wired ones. Here any name can be a setting."""
    found = {name: _member(cls, name, each, WIRED) for name, each in arguments(cls).items() if name not in wired}
    return {name: member for name, member in found.items() if member is not None}


def called(cls: type) -> str:
    """Return the name of a class in a configuration: its `name`, or the name of the class in snake case without its suffix."""
    own = vars(cls).get("name")
    return own if isinstance(own, str) else _WORDS.sub("_", _SUFFIXES.sub("", cls.__name__)).lower()


@cache
def alternatives(base: type, wired: frozenset[str] | None = None) -> Mapping[str, type]:
    """Return the classes that can be chosen by name, in alphabetical order.

    Arguments:
        base: their base class.
        wired: the names of the arguments that the recipe gives; None means that any arguments are
            allowed, for classes that are not called.

    Raises:
        TypeError: two of them have the same name.
    """
    for package in PACKAGES:
        importlib.import_module(package)
    found: dict[str, type] = {}
    for cls in sorted({*_subclasses(base)}, key=called):
        if inspect.isabstract(cls) or not _exported(cls):
            continue
        try:
            members(cls, wired or frozenset())
        except Unfit:
            if wired is not None:
                continue
        if called(cls) in found:
            raise TypeError(f"{found[called(cls)].__name__} and {cls.__name__} are both called {called(cls)!r}")
        found[called(cls)] = cls
    return found


@cache
def members(cls: type, wired: frozenset[str]) -> Mapping[str, Member]:
    """Return the arguments of a class that are settings or places, by name.

    Raises:
        Unfit: an argument without a default is no setting, no place and not wired.
    """
    found: dict[str, Member] = {}
    for name, argument in arguments(cls).items():
        if name in wired:
            continue
        if name in WIRED:
            raise Unfit(f"{cls.__name__} needs {name}, which it is not given here")
        member = _member(cls, name, argument, wired)
        if member is not None:
            found[name] = member
        elif argument.default is EMPTY:
            raise Unfit(f"the argument {name} of {cls.__name__} can be no setting")
    return found


def _member(cls: type, name: str, argument: Argument, wired: frozenset[str]) -> Member | None:
    """Return an argument as a setting, or as a place if its type is a class with alternatives; None if it is neither."""
    kinds = [kind for kind in union(argument.kind) if kind is not NoneType]
    if all(map(_is_setting, kinds)) and (len(kinds) == 1 == len(union(argument.kind)) or not any(map(_is_choice, kinds))):
        return Setting(name, cls, argument.kind, _by_name(argument.default), argument.allowed)
    base = get_origin(kinds[0]) or kinds[0]
    if len(kinds) > 1 or not isinstance(base, type) or issubclass(cls, base) or not alternatives(base, wired):
        return None
    default = argument.default
    optional = default is None or NoneType in union(argument.kind)
    if default is EMPTY:
        return Place({}, base, next(iter(alternatives(base, wired))), wired)
    return Place({}, base, _chosen_by(default), wired, default, optional)


def _valued(member: Member, value: Any) -> Member:
    """Return a member with another default."""
    if isinstance(member, Setting):
        return replace(member, default=_by_name(value))
    return replace(member, default=_chosen_by(value), instance=value)


def _by_name(value: Any) -> Any:
    """Return a value as a configuration holds it: the name of a class instead of the class."""
    return called(value) if isinstance(value, type) and value is not EMPTY else value


def _chosen_by(instance: object) -> str:
    return NONE if instance is None else called(type(instance))


def _is_setting(kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is type:
        return True
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return all(each in (str, int, float, bool) for each in inner if each is not Ellipsis)
    return origin is Literal or kind in (str, int, float, bool)


def _is_choice(kind: Any) -> bool:
    """Return whether a type is a few literals or classes, which a configuration holds alone only."""
    return get_origin(kind) in (Literal, type)


def union(kind: Any) -> Collection[Any]:
    """Return the types of a union, or the single type."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _subclasses(base: type) -> Iterator[type]:
    yield base
    children: list[type] = base.__subclasses__()
    for cls in children:
        yield from _subclasses(cls)


def _exported(cls: type) -> bool:
    """Return whether a class is of one of `PACKAGES`, and its module lists it in `__all__`."""
    ours = cls.__module__.startswith(PACKAGES)
    return ours and cls.__name__ in getattr(sys.modules[cls.__module__], "__all__", ())
