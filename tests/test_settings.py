"""Every argument of a constructor that is a setting has a meaning, and every number a range that the constructor holds to."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints
from unittest.mock import MagicMock

import docstring_parser
import pytest

import diffusion_core
from backbones import Backbone, Head, PixelInput
from continuous_diffusion import Distance, ReverseVariance, Weight
from diffusion_core.ranges import Range, range_of
from discrete_diffusion.rates import RateMatrix
from discrete_diffusion.samplers import Corrector, Leap

PACKAGES = ("diffusion_core", "backbones", "discrete_diffusion", "continuous_diffusion")
LEAST = {  # how many classes of each kind there are
    RateMatrix: 5,
    diffusion_core.Schedule: 16,
    diffusion_core.Loss: 11,
    diffusion_core.Sampler: 8,
    Corrector: 1,
    Leap: 3,
    diffusion_core.Denoiser: 16,
    Backbone: 6,
    Head: 3,
    PixelInput: 3,
    diffusion_core.TimeGrid: 6,
    diffusion_core.TimeSampler: 6,
    diffusion_core.GuidanceScale: 3,
    Weight: 2,
    Distance: 3,
    ReverseVariance: 3,
}
NOT_SETTINGS = {"event_shape"}  # the shape of the data

for _package in PACKAGES:
    for _info in pkgutil.walk_packages(importlib.import_module(_package).__path__, f"{_package}."):
        importlib.import_module(_info.name)


def subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def exported(kind: type) -> list[type]:
    """The concrete classes of a kind that a module of ours exports."""
    found = {
        cls
        for cls in subclasses(kind)
        if cls.__module__.split(".")[0] in PACKAGES
        and not inspect.isabstract(cls)
        and cls.__name__ in sys.modules[cls.__module__].__all__
    }
    return sorted(found, key=lambda cls: (cls.__module__, cls.__name__))


CLASSES = [cls for kind in LEAST for cls in exported(kind)]


def forms(hint: Any) -> list[tuple[Any, bool]]:
    """The types that an argument may have, without None: what a number or a text is, and whether there are several of them."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return forms(inner[0])
    if origin in (Union, UnionType):
        return [form for each in inner for form in forms(each)]
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return [(kind, True) for kind, _ in forms(inner[0])]
    return [] if hint is NoneType else [(hint, False)]


@cache
def settings(cls: type) -> dict[str, list[tuple[Any, bool]]]:
    """The arguments that are text, numbers, truth values, or several of these, each with its forms."""
    hints = get_type_hints(cls if is_dataclass(cls) else cls.__init__, include_extras=True)
    found = {name: forms(hints[name]) for name in inspect.signature(cls).parameters if name not in NOT_SETTINGS}
    return {name: each for name, each in found.items() if all(kind in (str, int, float, bool) for kind, _ in each)}


def numbers(cls: type) -> dict[str, list[tuple[Any, bool]]]:
    return {name: each for name, each in settings(cls).items() if each[0][0] in (int, float)}


def meanings(cls: type) -> dict[str, str]:
    """What the docstrings say of the arguments: the class's own, else its parent's."""
    said: dict[str, str] = {}
    for parent in cls.__mro__:
        if parent.__module__.split(".")[0] in PACKAGES and parent.__doc__:
            parsed = docstring_parser.parse(parent.__doc__, docstring_parser.DocstringStyle.GOOGLE)
            said = {**{each.arg_name: each.description or "" for each in parsed.params}, **said}
    return said


def ends(allowed: Range, kind: type) -> tuple[list[Any], list[Any]]:
    """Values just inside a range, and values just outside."""
    inside, outside = [], []
    for closed, opened, away in ((allowed.least, allowed.above, -1), (allowed.most, allowed.below, 1)):
        end = closed if opened is None else opened
        if end is None:
            outside += [away * math.inf] if kind is float else []
        else:
            step = (lambda x, d: int(x) + d) if kind is int else (lambda x, d: math.nextafter(x, d * math.inf))
            inside.append(kind(end) if opened is None else step(end, -away))
            outside.append(step(end, away) if opened is None else kind(end))
    return inside or [kind(0)], [*outside, "2", *([True, 2.5] if kind is int else [math.nan])]


def required(cls: type) -> dict[str, Any]:
    """Something for every argument without a default: a number in its range, and for the rest what answers to any name."""
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.default is not parameter.empty:
            continue
        given[name] = MagicMock()
        if name in numbers(cls):
            kind, several = numbers(cls)[name][0]
            value = ends(range_of(cls, name), kind)[0][0]
            given[name] = (value, value) if several else value
    return given


def outside() -> Iterator[tuple[type, str, Any]]:
    """(class, argument, a value just outside its range), in every form that the argument has."""
    for cls in CLASSES:
        for name, found in numbers(cls).items():
            for kind, several in found:
                inside, bad = ends(range_of(cls, name), kind)
                yield from ((cls, name, (inside[0], value) if several else value) for value in bad)


@pytest.mark.parametrize("kind", LEAST, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_kind_is_found(kind: type) -> None:
    assert len(exported(kind)) >= LEAST[kind]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_setting_has_a_meaning_and_every_number_a_range(cls: type) -> None:
    said = meanings(cls)
    assert [name for name in settings(cls) if not said.get(name)] == []
    for name in numbers(cls):
        allowed = range_of(cls, name)  # a KeyError names the argument that has none
        default = inspect.signature(cls).parameters[name].default
        items = default if isinstance(default, tuple) else (default,)
        assert all(item in allowed for item in items if item not in (None, inspect.Parameter.empty)), name


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_argument_has_a_meaning_that_is_read_alone(cls: type) -> None:
    said = meanings(cls)
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        assert said.get(name), f"{name} has no meaning"
        elsewhere = re.search(r"\b(?:[Aa]s (?:above|before|of|for every))", said[name])
        assert elsewhere is None, f"{name}: {said[name]}"


def test_values_just_outside_are_refused_by_their_names() -> None:
    cases = list(outside())
    assert len(cases) > 400
    wrong = []
    for cls, name, value in cases:
        try:
            cls(**{**required(cls), name: value})
        except ValueError as error:
            if not re.match(rf"{name} = {re.escape(repr(value))}, expected ", str(error)):
                wrong.append(f"{cls.__module__}.{cls.__name__}: {error}")
        else:
            wrong.append(f"{cls.__module__}.{cls.__name__} took {name} = {value!r}")
    assert wrong == []
