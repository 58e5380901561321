"""Completes configurations with defaults, and makes objects from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from ctdiff.recipe.errors import ConfigError, UnknownKey, closest, named, one_of
from ctdiff.recipe.schema import EMPTY, NONE, Place, Setting, Unfit, alternatives, called
from ctdiff.recipe.user_classes import is_user_class, user_class
from ctdiff.recipe.values import Text, checked
from diffusion_core.ranges import arguments

__all__ = ["chosen", "completed", "flatten", "made"]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values by dotted key: {"model.unet.widths": (64, 128), ...}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) or hasattr(value, "to_dict"):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def completed(place: Place, given: object, path: str = "", whole: bool = True) -> dict[str, Any]:
    """Return the given values of a place, and defaults for all other keys.

    Arguments of alternatives that are not chosen are checked and left out.

    Arguments:
        place: the place.
        given: a mapping of values; a value from the command line is a `Text`.
        path: the key of the place.
        whole: whether settings without a default must be given.

    Raises:
        ConfigError: an unknown key, a wrong value, or a typed argument of an alternative that is not chosen.
    """
    if not isinstance(given, Mapping):
        key = "name" if place.base is not None else next(iter(place.fields))
        raise ConfigError(f"config.{path} = {given!r}: it is a section, expected one of its keys, such as config.{path}.{key}")
    result: dict[str, Any] = {}
    cls = None
    if place.base is not None:
        name = given.get("name", place.default)
        if not isinstance(name, str):
            raise ConfigError(f"config.{path}.name = {name!r}, expected {one_of(place.choices())}")
        result["name"] = str(name)
        cls = chosen(place, result["name"], path)
    fields = place.around(cls)
    for name, member in fields.items():
        key = f"{path}.{name}" if path else name
        if isinstance(member, Place):
            result[name] = completed(member, given.get(name, {}), key, whole)
        elif name not in given and member.default is EMPTY:
            if whole:
                raise ConfigError(f"config.{key} is missing: {member.meaning}")
        else:
            result[name] = checked(key, given.get(name, member.default), member)
    for name in given:
        if name not in result:
            _left_over(place, name, given[name], path, {**result, **fields})
    return result


def _left_over(place: Place, name: str, value: object, path: str, beside: Mapping[str, Any]) -> None:
    """Accept an argument of another alternative, unless it was typed. Refuse every other key."""
    others = alternatives(place.base, place.wired) if place.base is not None else {}
    prefix = f"{path}." if path else ""
    leaves = flatten({name: value}, prefix)
    acting = [other for other, cls in others.items() if name == other or name in place.around(cls)]
    if not acting:
        known, key = list(dict.fromkeys([*beside, *others])), next(iter(leaves), prefix + name)
        raise UnknownKey(key, f"config.{key} is not a key, expected {one_of(known)}{closest(name, known)}")
    if others.get(name) is not None and name not in place.around(others[name]):
        for key in leaves:
            raise UnknownKey(key, f"config.{key} is not a key: {name} has no settings")
        return
    if not isinstance(value, Text):  # first: an unknown key has a message of its own
        completed(Place(place.fields, place.base, acting[0], place.wired), {name: value}, path, whole=False)
    for key, text in leaves.items():
        if isinstance(text, Text):
            choice = f"config.{path}.name = {beside['name']!r}, expected {one_of(map(repr, acting))}"
            raise UnknownKey(key, f"config.{key} = {text} cannot act: {choice}")


def chosen(place: Place, name: str, path: str) -> type | None:
    """Return the class of a name at a place; None if the name is `none`.

    Raises:
        ConfigError: the class does not exist, or cannot be chosen here.
    """
    if (name == NONE and place.optional) or place.base is None:
        return None
    if is_user_class(name):
        try:
            return user_class(name, place.base, place.wired)
        except Unfit as error:
            raise ConfigError(f"config.{path}.name = {error}") from error
    if (found := alternatives(place.base, place.wired).get(name)) is None:
        choices = place.choices()
        raise ConfigError(f"config.{path}.name = {name!r}, expected {one_of(choices)}{closest(name, choices)}")
    return found


def made(place: Place, config: Mapping[str, Any], path: str, wires: Mapping[str, object]) -> Any:
    """Make the object that a place of a completed configuration describes; None if the name is `none`.

    Arguments:
        place: the place.
        config: the part of the configuration at the place.
        path: the key of the place.
        wires: the arguments that the recipe gives, by name; each class gets those that it has.

    Raises:
        ConfigError: a constructor refused its arguments. The message begins with the key.
    """
    if (cls := chosen(place, config["name"], path)) is None:
        return None
    own = called(cls)
    fields = place.around(cls)
    inner = fields.pop(own, Place())
    members = {name: (fields[name], config[name], f"{path}.{name}") for name in fields if name not in place.fields}
    if isinstance(inner, Place):
        members |= {name: (member, config[own][name], f"{path}.{own}.{name}") for name, member in inner.fields.items()}
    values = {name: _value(*each, wires) for name, each in members.items()}
    taken = {name: wire for name, wire in wires.items() if name in arguments(cls)}
    with named(f"{path}.{own}"):
        return cls(**values, **taken)


def _value(member: Setting | Place, value: Any, path: str, wires: Mapping[str, object]) -> Any:
    if isinstance(member, Place):
        return made(member, value, path, wires)
    if get_origin(member.kind) is type:
        return alternatives(get_args(member.kind)[0])[value]
    return value


def places(place: Place, config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Place, Mapping[str, Any]]]:
    """Yield every place below a place, with its key and its part of the completed configuration."""
    cls = chosen(place, config["name"], path) if place.base is not None else None
    for name, member in place.around(cls).items():
        if isinstance(member, Place):
            key = f"{path}.{name}" if path else name
            yield key, member, config[name]
            yield from places(member, config[name], key)
