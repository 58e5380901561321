"""Completes configurations with defaults, and makes objects from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args, get_origin

from ctdiff.recipe.errors import ConfigError, UnknownKey, closest, named, one_of
from ctdiff.recipe.schema import EMPTY, NONE, Place, Setting, Unfit, alternatives, called, members
from ctdiff.recipe.user_classes import is_user_class, user_class
from ctdiff.recipe.values import Text, checked, flatten
from diffusion_core.ranges import arguments

__all__ = ["chosen", "completed", "flatten", "made", "walk"]


def walk(place: Place, config: Mapping[str, Any] | None = None, path: str = "") -> Iterator[tuple[str, Setting | Place]]:
    """Yield every key below a place with its setting. The key of a choice, such as `loss.name`, comes with its place.

    Arguments:
        place: the place.
        config: the part of a whole configuration at the place. Only chosen classes have keys in it. None means the keys of all
            alternatives.
        path: the key of the place.
    """
    classes: Iterable[type | None] = [None]
    if place.base is not None:
        yield f"{path}.name", place
        classes = place.found().values() if config is None else [chosen(place, config["name"], path)]
    for cls in classes:
        for name, member in place.around(cls).items():
            key = f"{path}.{name}".removeprefix(".")
            if isinstance(member, Place):
                yield from walk(member, None if config is None else config[name], key)
            else:
                yield key, member


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
    choice = given.get("name", place.default)
    fields = place.around(chosen(place, choice, path))
    result: dict[str, Any] = {} if place.base is None else {"name": str(choice)}
    for name, member in fields.items():
        key = f"{path}.{name}".removeprefix(".")
        if isinstance(member, Place):
            result[name] = completed(member, given.get(name, {}), key, whole)
        elif name in given or member.default is not EMPTY:
            result[name] = checked(key, given.get(name, member.default), member)
        elif whole:
            raise ConfigError(f"config.{key} is missing: {member.meaning}")
    for name in given:
        if name not in result:
            _left_over(place, name, given[name], path, {**result, **fields})
    return result


def _left_over(place: Place, name: str, value: object, path: str, beside: Mapping[str, Any]) -> None:
    """Accept an argument of another alternative, unless it was typed. Refuse every other key."""
    key = f"{path}.{name}".removeprefix(".")
    others, leaves = place.found(), flatten({key: value})
    acting = [other for other, cls in others.items() if name in place.around(cls)]
    if not acting and (leaves or name not in others):
        key, known = next(iter(leaves), key), list(dict.fromkeys([*beside, *others]))
        expected = f": {name} has no settings" if name in others else f", expected {one_of(known)}{closest(name, known)}"
        raise UnknownKey(key, f"config.{key} is not a key{expected}")
    if acting and not isinstance(value, Text):  # first: an unknown key has a message of its own
        completed(replace(place, default=acting[0]), {name: value}, path, whole=False)
    for key, text in leaves.items():
        if isinstance(text, Text):
            choice = f"config.{path}.name = {beside['name']!r}, expected {one_of(map(repr, acting))}"
            raise UnknownKey(key, f"config.{key} = {text} cannot act: {choice}")


def chosen(place: Place, name: object, path: str) -> type | None:
    """Return the class of a name at a place; None if the name is `none`.

    Raises:
        ConfigError: the class does not exist, or cannot be chosen here.
    """
    if place.base is None or (place.optional and name == NONE):
        return None
    text, found, choices = name if isinstance(name, str) else "", place.found(), place.choices()
    if is_user_class(text):
        try:
            return user_class(text, place)
        except Unfit as error:
            raise ConfigError(f"config.{path}.name = {name!r}: {error}") from error
    if text not in found:
        raise ConfigError(f"config.{path}.name = {name!r}, expected {one_of(choices)}{closest(name, choices)}")
    return found[text]


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
    given = {**config, **config.get(own, {})}  # arguments of the base class are beside the choice, the others under its name
    values = {name: wire for name, wire in wires.items() if name in arguments(cls)}
    for name, member in members(cls, place.wired).items():
        values[name] = given[name]
        if isinstance(member, Place):
            key = f"{path}.{own}.{name}" if name in config.get(own, {}) else f"{path}.{name}"
            values[name] = made(member, given[name], key, wires)
        elif get_origin(member.kind) is type:
            values[name] = alternatives(get_args(member.kind)[0])[given[name]]
    with named(f"{path}.{own}"):
        return cls(**values)
