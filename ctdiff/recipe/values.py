"""Reads a value of a configuration from text, and checks its type and range."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from numbers import Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import numpy as np

from ctdiff.recipe.errors import ConfigError, closest, one_of
from ctdiff.recipe.schema import NONE, Setting, alternatives, is_several
from diffusion_core.ranges import Range, fits, union

__all__ = ["Text", "checked", "described", "flatten", "names"]

_BOOLEANS = {"true": True, "t": True, "yes": True, "1": True, "false": False, "f": False, "no": False, "0": False}


class Text(str):
    """A value as it was typed. The type of its setting says how it is read."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values by dotted key: {"model.unet.widths": (64, 128), ...}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        section = isinstance(value, Mapping) or hasattr(value, "to_dict")
        flat |= flatten(value, f"{prefix}{key}.") if section else {prefix + key: value}
    return flat


def checked(key: str, value: object, setting: Setting) -> Any:
    """Return a checked value of a setting. A `Text` is read. A list, or one number in place of several, becomes a tuple.

    Raises:
        ConfigError: the value has a wrong type, or is out of range.
    """
    value = _read(value, setting) if isinstance(value, Text) else value
    value = tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else _plain(value)
    if any(map(is_several, union(setting.kind))) and not isinstance(value, bool) and isinstance(value, Real):
        value = (value,)
    if choices := names(setting):
        allowed = any(type(value) is type(choice) and value == choice for choice in choices)
    else:
        allowed = isinstance(value, (str, bool, Real, tuple, NoneType)) and fits(value, setting.kind, setting.allowed)
    if not allowed:
        raise ConfigError(f"config.{key} = {value!r}, expected {described(setting)}{closest(value, choices)}")
    return value


def _plain(value: object) -> object:
    """Return a number of numpy as a number of Python."""
    return value.item() if isinstance(value, np.generic) else value


def names(setting: Setting) -> list[Any]:
    """Return the values of a setting that allows only a few: names of classes, or literals."""
    kind = setting.kind
    if get_origin(kind) is type:
        return list(alternatives(get_args(kind)[0]))
    return list(get_args(kind)) if get_origin(kind) is Literal else []


def described(setting: Setting) -> str:
    """Return the allowed values of a setting in words: `a number above 0, or none`."""
    if choices := names(setting):
        return one_of(choices)
    words = [_words(kind, setting.allowed) for kind in union(setting.kind) if kind is not NoneType]
    return ", or ".join([*dict.fromkeys(words), *[NONE] * (NoneType in union(setting.kind))])


def _words(kind: Any, allowed: Range | None) -> str:
    """Return a type that is no union in words, with its range."""
    within = "" if allowed in (None, Range()) else f" {allowed}"
    if not is_several(kind):
        return {bool: "True or False", str: "a text", int: f"an integer{within}", float: f"a number{within}"}[kind]
    item, *others = get_args(kind)
    count = "" if get_origin(kind) is not tuple or Ellipsis in others else f"{1 + len(others)} "
    return f"{count}{'integers' if item is int else 'numbers'}{f', each{within}' if within else ''}"


def _read(text: str, setting: Setting) -> Any:
    """Return the value of a text, or the text itself if it is no value of the type of the setting."""
    kinds = union(setting.kind)
    if NoneType in kinds and text.lower() == NONE:
        return None
    if bool in kinds:
        return _BOOLEANS.get(text.lower(), str(text))
    if str in kinds or any(isinstance(name, str) for name in names(setting)):
        return str(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return str(text)
