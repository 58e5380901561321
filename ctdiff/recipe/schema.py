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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import docstring_parser

from diffusion_core.ranges import Argument, Range, arguments, union

__all__ = [
    "EMPTY",
    "NONE",
    "Place",
    "Setting",
    "Unfit",
    "alternatives",
    "called",
    "fields_of",
    "is_several",
    "meanings",
    "members",
]

PACKAGES = ("diffusion_core", "backbones", "discrete_diffusion", "continuous_diffusion", "ctdiff.data", "ctdiff.training")
"""The packages that are searched for alternatives."""

WIRED = {
    *("process", "network", "denoiser", "event_shape", "evidence_floor", "schedule", "grid", "steps", "t_min", "t_max", "T"),
    *("in_channels", "out_channels", "channels", "image_size", "img_size", "num_classes"),
    *("num_values", "num_states", "data_states", "masked"),
}
"""The names of arguments that the recipe gives. An argument with such a name is not a setting."""

NONE = "none"
"""The name that chooses no class, if an argument may be None."""

EMPTY = inspect.Parameter.empty
"""The default of a setting without a default."""

_SUFFIXES = re.compile(
    "(?<=.)(Rates|Schedule|Survival|Loss|Denoiser|Times|Grid|Scale|Leap|Weight|Head|Input|Factor|Block|Guidance|Mask)$"
)
_WORDS = re.compile("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@cache
def meanings(owner: Callable[..., object]) -> Mapping[str, str]:
    """Return the descriptions of the arguments in the docstring of a class or a function, and of base classes, by name."""
    found: dict[str, str] = {}
    for each in getattr(owner, "__mro__", [owner]):
        for parameter in docstring_parser.parse(each.__doc__ or "").params:
            found.setdefault(parameter.arg_name, " ".join((parameter.description or "").split()))
    return found


class Unfit(TypeError):
    """A class that a configuration cannot choose. The message names the reason, such as an argument."""


@dataclass(frozen=True)
class Setting:
    """One value of the configuration.

    Arguments:
        name: the argument.
        owner: the class or the function that has the argument.
        kind: its type, such as float, `int | None` or `tuple[float, float]`.
        default: its default, or `EMPTY`.
        allowed: its range, None if it has none.
    """

    name: str
    owner: Callable[..., object]
    kind: Any
    default: Any
    allowed: Range | None = None

    @property
    def meaning(self) -> str:
        """The description of the argument in the docstring of its owner, or of a base class."""
        return meanings(self.owner).get(self.name, "")


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
        return [NONE] * self.optional + list(self.found())

    def names(self) -> set[str]:
        """Return the names of all fields, of all shared arguments, and of what can be chosen."""
        return {*self.fields, *self.choices()}.union(*map(self.around, self.found().values()))

    def inner(self, name: str) -> Place:
        """Return the place of a field."""
        member = self.fields[name]
        assert isinstance(member, Place)
        return member

    def around(self, cls: type | None) -> dict[str, Setting | Place]:
        """Return the fields if a class is chosen: the constant ones, the shared arguments, and its own under its name.

        Raises:
            Unfit: the class cannot be chosen here, because of an argument or because of its name.
        """
        if cls is None or self.base is None:
            return dict(self.fields) if self.base is None else {}
        found = members(cls, self.wired, self.instance)
        shared = set() if cls is self.base else found.keys() & arguments(self.base)
        beside = {**self.fields, **{name: member for name, member in found.items() if name in shared}}
        if "." in (key := called(cls)) or key in {"name", *beside}:
            expected = "expected a name without dots that is no key beside it"
            raise Unfit(f"{cls.__name__} is called {key!r} in keys, {expected}: set its class attribute `name`")
        own = {name: member for name, member in found.items() if name not in shared}
        return {**beside, key: Place(own)} if own else beside


def fields_of(target: Callable[..., object], *wired: str, instance: object = None) -> dict[str, Setting | Place]:
    """Return the arguments of a class or a function that are settings or places, by name.

    Any name can be a setting here, also a name of `WIRED`.

    Arguments:
        target: the class or the function.
        wired: the names of the arguments that the recipe gives; they are left out.
        instance: an object; if it is of this class, its values are the defaults.

    Raises:
        Unfit: an argument without a default is no setting, no place and not wired.
    """
    found: dict[str, Setting | Place] = {}
    for name, argument in arguments(target).items():
        if name in wired:
            continue
        default = getattr(instance, name, argument.default) if type(instance) is target else argument.default
        member = _member(target, name, argument._replace(default=default), frozenset(wired))
        if member is not None:
            found[name] = member
        elif argument.default is EMPTY:
            raise Unfit(f"the argument {name} of {target.__name__} can be no setting")
    return found


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
    for cls in sorted(filter(_is_offered, _subclasses(base)), key=called):
        with suppress(Unfit):
            if wired is not None:
                members(cls, wired)
            if called(cls) in found:
                raise TypeError(f"{found[called(cls)].__name__} and {cls.__name__} are both called {called(cls)!r}")
            found[called(cls)] = cls
    return found


def _subclasses(base: type) -> set[type]:
    return {base}.union(*map(_subclasses, base.__subclasses__()))


def _is_offered(cls: type) -> bool:
    """Return whether a class is concrete and of one of `PACKAGES`, and its module lists it in `__all__`."""
    ours = f"{cls.__module__}.".startswith(tuple(f"{package}." for package in PACKAGES))
    return ours and not inspect.isabstract(cls) and cls.__name__ in getattr(sys.modules[cls.__module__], "__all__", ())


def members(cls: type, wired: frozenset[str], instance: object = None) -> dict[str, Setting | Place]:
    """Return the settings and places of a class that is chosen by name; see `fields_of`.

    Raises:
        Unfit: an argument has a name of `WIRED` but is not wired here, or it has no default and is no setting and no place.
    """
    for name in arguments(cls):
        if name in WIRED - wired:
            raise Unfit(f"{cls.__name__} needs {name}, which it is not given here")
    return fields_of(cls, *wired, instance=instance)


def _member(owner: Callable[..., object], name: str, argument: Argument, wired: frozenset[str]) -> Setting | Place | None:
    """Return an argument as a setting, or as a place if its type is a class with alternatives; None if it is neither."""
    default, kinds = argument.default, union(argument.kind)
    if all(map(_is_plain, kinds)) or get_origin(argument.kind) in (Literal, type):
        kept = called(default) if isinstance(default, type) and default is not EMPTY else default
        return Setting(name, owner, argument.kind, kept, argument.allowed)
    base, *others = (get_origin(kind) or kind for kind in kinds if kind is not NoneType)
    holder = owner if isinstance(owner, type) else object
    if others or not isinstance(base, type) or base is type or issubclass(holder, base):
        return None  # a class that holds its own kind is a wrapper
    if not (found := alternatives(base, wired)):
        return None
    optional = default is None or NoneType in kinds
    chosen = next(iter(found)) if default is EMPTY else NONE if default is None else called(type(default))
    return Place({}, base, chosen, wired, None if default is EMPTY else default, optional)


def _is_plain(kind: Any) -> bool:
    """Return whether a type is None, a text, a number, a boolean, or several of these."""
    plain = (str, int, float, bool, NoneType)
    return kind in plain or (is_several(kind) and {*get_args(kind)} <= {*plain, Ellipsis})


def is_several(kind: Any) -> bool:
    """Return whether a type is a sequence, such as `tuple[int, ...]`."""
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Sequence)
