"""Loads, changes, checks, saves and compares configurations.

A configuration is an `ml_collections.ConfigDict`. Its keys are read from constructors (`ctdiff.recipe.schema`). A preset
holds only the values that it changes; `load` completes it. Errors are found before anything starts. Their messages name the
key, the value and what is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ctdiff import presets, recipe
from ctdiff.devices import check_device
from ctdiff.files import expanded
from ctdiff.presets import preset_names
from ctdiff.recipe.engine import tree
from ctdiff.recipe.errors import ConfigError, UnknownKey, closest, one_of
from ctdiff.recipe.parts import build_all
from ctdiff.recipe.tree import completed, flatten
from ctdiff.recipe.user_classes import is_user_class, key_of, trust_classes
from ctdiff.recipe.values import Text

__all__ = [
    "FREE_SECTIONS",
    "OVERRIDE",
    "ConfigError",
    "changed",
    "check",
    "complete",
    "differences",
    "flatten",
    "from_json",
    "load",
    "override",
    "override_each",
    "preset_names",
    "to_json",
]

OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)
"""A change on a command line: whether it is negated, the key, and the value."""

FREE_SECTIONS = ("sampler", "saving")
"""Sections that do not change the training: they may differ between a run and its continuation."""


def _elsewhere(key: str) -> bool:
    """Return whether a key is `data.*.path`, `data.*.download` or `training.device`. These keys may differ between machines."""
    return re.fullmatch(r"data\.\w+\.(path|download)|training\.device", key) is not None


def load(name: str, arguments: Sequence[str] = ()) -> ConfigDict:
    """Load the whole configuration of a preset, or of a .py file with a function `get_config()`.

    Arguments:
        name: the name of the preset, or the path of the file.
        arguments: changes, such as "--config.training.steps=500".

    Raises:
        ConfigError: the preset or file does not exist, gives no configuration, or gives one that cannot be used.
    """
    known = preset_names()
    path = presets.FOLDER / f"{name}.py" if name in known else expanded(name)
    if path.suffix != ".py" or not path.is_file():
        expected = f"{one_of(known)}, or the path of a .py file{closest(name, known)}"
        raise ConfigError(f"--config={name}: there is no such file or preset, expected {expected}")
    try:
        given = presets.evaluate(path).to_dict()
    except Exception as error:  # code of the user can raise anything
        raise ConfigError(f"--config={name} cannot be evaluated: {type(error).__name__}: {error}") from error
    trust_classes(given)
    config = complete(_with(given, _typed(arguments)))
    check(config)
    return config


def complete(given: Mapping[str, Any]) -> ConfigDict:
    """Complete a configuration: return one with all keys of everything that is chosen.

    Arguments:
        given: nested values, of a preset for example.

    Raises:
        ConfigError: an unknown key, or a wrong value.
    """
    engine = flatten(given).get("process.engine", "discrete")
    if engine not in (known := [*recipe.engines()]):
        raise ConfigError(f"config.process.engine = {engine!r}, expected {one_of(known)}{closest(engine, known)}")
    return ConfigDict(completed(tree(engine), given))


def changed(config: ConfigDict, changes: Mapping[str, object]) -> ConfigDict:
    """Return a whole configuration with other values.

    Arguments:
        config: the whole configuration.
        changes: values by key, such as {"sampler.name": "ddim"}.

    Raises:
        ConfigError: an unknown key, or a wrong value.
    """
    return complete(_with(config.to_dict(), changes))


def override(
    config: ConfigDict, arguments: Sequence[str], sections: Sequence[str] = (), lenient: bool = False
) -> dict[str, str]:
    """Change a configuration in place.

    Arguments:
        config: the whole configuration.
        arguments: the changes, for example "--config.sampler.steps=10". `--config.key` without a value sets the key to True,
            `--noconfig.key` sets it to False. The values of the changed keys have to have an effect. Other values need not,
            because a run can be older than a rule.
        sections: the sections that may be changed, for a run that is already trained. Empty means that all keys may be
            changed. If `data` is one of the given sections, only its keys `data.*.path` and `data.*.download` may be changed.
        lenient: what to do with changes of keys that do not exist or have no effect. If True, these changes are left out and
            returned; if False, they are an error.

    Returns:
        The changes that were left out: a message for each key.

    Raises:
        ConfigError: a key does not exist or may not be changed, or a value is wrong.
    """
    typed = _typed(arguments)
    for key in typed:
        section = key.split(".")[0]
        if sections and (section not in sections or (section == "data" and not _elsewhere(key))):
            raise ConfigError(f"config.{key} cannot be changed: the run is trained. Expected a key of config.{sections[0]}")
    try:
        new = changed(config, typed)
        check(new, typed)
    except UnknownKey as error:
        if not lenient or error.key not in typed:
            raise
        rest = [argument for argument in arguments if error.key not in _typed([argument])]
        return {error.key: str(error), **override(config, rest, sections, lenient)}
    for section, values in new.items():
        config[section] = values
    return {}


def override_each(
    configs: Iterable[ConfigDict], arguments: Sequence[str], own: Iterable[Sequence[str]], sections: Sequence[str] = ()
) -> None:
    """Change several configurations in place. A change is left out for the configurations that do not have its key.

    Arguments:
        configs: whole configurations.
        arguments: changes of all of them; each has to have an effect on at least one.
        own: further changes of each configuration, all of which have to have an effect.
        sections: as in `override`.

    Raises:
        ConfigError: a change has no effect on any configuration, or cannot be made.
    """
    vain = []
    for config, changes in zip(configs, own, strict=True):
        vain.append(override(config, [*arguments, *changes], sections, lenient=True))
        for key in vain[-1].keys() & _typed(changes).keys():
            raise ConfigError(vain[-1][key])
    for key in vain[0] if vain else ():
        if all(key in each for each in vain):
            # The shortest message says that a choice is missing; the others list all keys.
            raise ConfigError(min((each[key] for each in vain), key=len))


def check(config: ConfigDict, asked: Collection[str] | None = None) -> None:
    """Check that a configuration has all keys, that its parts can be made, and that its values have an effect and fit together.

    The parts are the network, the process, the sampler and all other objects that are made from a configuration.

    Arguments:
        config: the configuration.
        asked: only values of these keys raise an error because they have no effect or do not fit the other settings. None
            means the values of all keys. The other checks are always made.

    Raises:
        ConfigError: a check fails. The message names the key, the value and what is allowed.
    """
    if missing := sorted(flatten(complete(config.to_dict())).keys() - flatten(config).keys()):
        raise ConfigError(f"config.{missing[0]} is missing: a configuration must have all keys, see `complete` and `changed`")
    check_device(config.training.device, here=False)
    for key, end in recipe.engine_of(config).advice(config):  # first: this message is clearer than that of a constructor
        if asked is None or key in asked:
            raise UnknownKey(key, f"config.{key} = {flatten(config)[key]!r}{end}")
    build_all(config)


def _typed(arguments: Sequence[str]) -> dict[str, Text]:
    """Return the changes by key."""
    typed = {}
    for argument in arguments:
        if (match := OVERRIDE.fullmatch(argument)) is None:
            raise ConfigError(f"{argument!r}, expected --config.section.key=value")
        negated, key, value = match.groups()
        typed[key] = Text("false" if negated else "true" if value is None else value)
    return typed


def _with(given: dict[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    """Return the given values with changes, which have dotted keys."""
    for key, value in changes.items():
        *sections, name = key.split(".")
        node = given
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UnknownKey(key, f"config.{key} is not a key: config.{key.rpartition('.')[0]} holds no keys")
        if name == "name" and is_user_class(str(node.get(name))):
            node.pop(key_of(str(node[name])), None)  # the settings of the user's class that is not chosen any more
        node[name] = value
    trust_classes(changes)
    if (engine := str(changes.get("process.engine"))) in recipe.engines():
        _leave_others(given, engine)
    return given


def _leave_others(given: Mapping[str, dict[str, Any]], engine: str) -> None:
    """Remove the keys that other engines have and this one has not, or has with another meaning; typed values stay."""
    for section, key, _ in set[Any]().union(*map(_keys, recipe.engines())) - _keys(engine):
        kept = given.get(section, {})
        if key in kept and not any(isinstance(value, Text) for value in flatten({key: kept[key]}).values()):
            del kept[key]


def _keys(engine: str) -> set[tuple[str, str, type | None]]:
    """Return the keys of an engine, each with its section, and with its class if it is the name of one."""
    places = [(section, tree(engine).inner(section)) for section in tree(engine).fields]
    return {(section, key, place.found().get(key)) for section, place in places for key in place.names()}


def differences(one: ConfigDict, other: ConfigDict, ignore: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return the keys whose values differ, with both values (None if a value is missing).

    Arguments:
        one: a configuration.
        other: another configuration.
        ignore: keys and sections that are not compared. `data.*.path`, `data.*.download` and `training.device` are never
            compared.
    """
    a, b = flatten(one), flatten(other)
    keys = [key for key in sorted({*a, *b}) if not {key, key.split(".")[0]} & {*ignore} and not _elsewhere(key)]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def to_json(config: ConfigDict) -> str:
    """Return the configuration as JSON; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str, source: str = "the configuration") -> ConfigDict:
    """Return the configuration that `to_json` wrote; lists become tuples.

    A missing key gets its default, because the text may be older than the key. The text may also be older than a rule of
    `check`, so only keys and values are checked. A class of the user has to be of a trusted module (`ctdiff.recipe.trust`).

    Raises:
        ConfigError: the text is not JSON, or not a configuration.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ConfigError(f"it holds a {type(content).__name__}, expected the sections of a configuration")
        return complete(content)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not JSON: {error}") from error
