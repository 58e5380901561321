"""Configurations: found by name or path, overridden from the command line, checked, saved, compared.

A configuration is an `ml_collections.ConfigDict`. Its keys are read from constructors (`ctdiff.recipe.schema`). A preset
says what it changes; `load` completes it. Everything wrong is found before anything starts, and is told with the key, the
value and what is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict

from ctdiff import presets, recipe
from ctdiff.recipe import ConfigError, Text, UnknownKey, closest, flatten, one_of

__all__ = [
    "FREE_SECTIONS",
    "ConfigError",
    "changed",
    "check",
    "check_device",
    "complete",
    "differences",
    "elsewhere",
    "flatten",
    "from_json",
    "load",
    "override",
    "override_each",
    "preset_names",
    "to_json",
]

FREE_SECTIONS = ("sampler", "saving")
"""Sections that do not change what is trained: they may differ between a run and its continuation."""


def elsewhere(key: str) -> bool:
    """Whether a key says where the images lie or where to compute, which is not part of what a run is."""
    return re.fullmatch(r"data\.\w+\.(path|download)|training\.device", key) is not None


def preset_names() -> list[str]:
    """The presets that `load` finds by name."""
    return presets.names()


def load(name: str, arguments: Sequence[str] = ()) -> ConfigDict:
    """The whole configuration of a preset's name, or of a path to a .py file with a `get_config()`.

    Arguments:
        name: the name or the path.
        arguments: changes, such as "--config.training.steps=500".

    Raises:
        ConfigError: there is no such preset or file, it gives no configuration, or one that cannot be used.
    """
    if name.endswith(".py") or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f"--config={name}: there is no such file")
    elif name in (known := preset_names()):
        path = presets.FOLDER / f"{name}.py"
    else:
        raise ConfigError(f"--config={name}: expected {one_of(known)}, or the path of a .py file{closest(name, known)}")
    try:
        config = presets.evaluate(path)
    except Exception as error:  # the file is the user's: whatever it raises is the answer
        raise ConfigError(f"--config={name} cannot be evaluated: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"--config={name}: get_config() returned a {type(config).__name__}, expected an ml_collections.ConfigDict"
        )
    given = config.to_dict()
    recipe.trust_classes(given)
    config = complete(_with(given, _typed(arguments)))
    check(config)
    return config


def complete(given: Mapping[str, Any]) -> ConfigDict:
    """The whole configuration of what a preset, a run or a user says: all keys of all that is chosen.

    Raises:
        ConfigError: a key that there is not, or a wrong value.
    """
    process = given.get("process", {})
    engine = process.get("engine", "discrete") if isinstance(process, Mapping) else "discrete"
    if engine not in (known := [*recipe.engines()]):
        raise ConfigError(f"config.process.engine = {engine!r}, expected {one_of(known)}{closest(engine, known)}")
    return ConfigDict(recipe.completed(recipe.tree(str(engine)), _of_engine(str(engine), given)))


def _of_engine(engine: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, without the keys that only other engines have: a preset of one engine may be trained with another.

    What was typed stays, and is refused.
    """
    own, kept = recipe.tree(engine), dict(given)
    for other in (recipe.tree(name) for name in recipe.engines() if name != engine):
        for section in other.fields:
            if isinstance(values := kept.get(section), Mapping):
                foreign = {*other.inner(section).names()} - {*own.inner(section).names()}
                kept[section] = {key: value for key, value in values.items() if key not in foreign or _is_typed(value)}
    return kept


def _is_typed(value: object) -> bool:
    values = flatten(value).values() if isinstance(value, Mapping) else [value]
    return any(isinstance(each, Text) for each in values)


def changed(config: ConfigDict, changes: Mapping[str, object]) -> ConfigDict:
    """The whole configuration with other values.

    Arguments:
        config: the whole configuration.
        changes: values by key, such as {"sampler.name": "ddim"}.

    Raises:
        ConfigError: a key that there is not, or a wrong value.
    """
    return complete(_with(config.to_dict(), changes))


def override(
    config: ConfigDict, arguments: Sequence[str], sections: Sequence[str] = (), lenient: bool = False
) -> dict[str, str]:
    """Change a configuration in place.

    Arguments:
        config: the whole configuration.
        arguments: the changes, such as "--config.sampler.steps=10"; `--config.key` is True, `--noconfig.key` is False.
        sections: those that may be changed, of a run that is trained already; empty means all. Of the section `data`
            only where the images lie.
        lenient: leave out changes of keys that there are not, or that cannot act.

    Returns:
        What was left out, by key, with what to say about each.

    Raises:
        ConfigError: a key does not exist or may not be changed, or a value is wrong.
    """
    typed, vain = _typed(arguments), {}
    for key in typed:
        section = key.split(".")[0]
        if sections and (section not in sections or (section == "data" and not elsewhere(key))):
            raise ConfigError(f"config.{key} cannot be changed: the run is trained. Expected a key of config.{sections[0]}")
    while True:
        try:
            new = changed(config, typed)
            check(new, typed if sections else None)
            break
        except UnknownKey as error:
            if not lenient or error.key not in typed:
                raise
            vain[error.key] = str(error)
            del typed[error.key]
    for section, values in new.items():
        config[section] = values
    return vain


def override_each(
    configs: Iterable[ConfigDict], arguments: Sequence[str], own: Iterable[Sequence[str]], sections: Sequence[str] = ()
) -> None:
    """Change several configurations in place, each where it has the key: what is of one need not be of the others.

    Arguments:
        configs: whole configurations.
        arguments: changes of all of them; each has to act on at least one.
        own: further changes of each one, which have to act.
        sections: as of `override`.

    Raises:
        ConfigError: a change acts on none, or cannot be made.
    """
    vain = []
    for config, changes in zip(configs, own, strict=True):
        vain.append(override(config, [*arguments, *changes], sections, lenient=True))
        for key in vain[-1].keys() & _typed(changes).keys():
            raise ConfigError(vain[-1][key])
    for key in dict.fromkeys(key for each in vain for key in each):
        if all(key in each for each in vain):
            # Where only a choice is missing, the message says so, and is short; others list the keys that there are.
            raise ConfigError(min((each[key] for each in vain), key=len))


def check(config: ConfigDict, asked: Collection[str] | None = None) -> None:
    """Refuse a configuration that is not whole, that cannot be built, or that cannot be meant.

    Arguments:
        config: the configuration.
        asked: the keys that advice is given on; None is all.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    whole = flatten(complete(config.to_dict()))
    if missing := sorted(whole.keys() - flatten(config).keys()):
        raise ConfigError(f"config.{missing[0]} is missing: the configuration is not whole, see `complete` and `changed`")
    try:
        torch.device(config.training.device)
    except RuntimeError as error:  # torch's message goes on about devices of its developers
        raise ConfigError(f"config.training.device = {config.training.device!r}, expected {_devices()}") from error
    for key, message in recipe.advice(config):  # first: it says more than a constructor can
        if asked is None or key in asked:
            raise UnknownKey(key, message)
    recipe.build_all(config)


def _typed(arguments: Sequence[str]) -> dict[str, Text]:
    """The changes by key."""
    typed = {}
    for argument in arguments:
        match = re.fullmatch(r"--?(no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            raise ConfigError(f"{argument!r}, expected --config.section.key=value")
        negated, key, value = match.groups()
        typed[key] = Text("false" if negated else "true" if value is None else value)
    return typed


def _with(given: dict[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    """What was given, with other values by dotted key."""
    for key, value in changes.items():
        *sections, name = key.split(".")
        node = given
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UnknownKey(key, f"config.{key} is not a key: config.{key.rpartition('.')[0]} holds no keys")
        node[name] = value
    recipe.trust_classes(changes)
    return given


def _devices() -> str:
    """The devices of this machine, as a choice."""
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return one_of(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *mps])


def check_device(device: str, name: str = "config.training.device") -> None:
    """Refuse a device that this machine cannot compute on.

    `check` does not: a run that was trained elsewhere is a run.

    Arguments:
        device: the device.
        name: what the error calls it.

    Raises:
        ConfigError: naming the device and those that there are.
    """
    try:
        usable = torch.empty(0, device=device).device.type != "meta"
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled for a device
        raise ConfigError(f"{name} = {device!r} cannot be used on this machine, expected {_devices()}") from error
    if not usable:
        raise ConfigError(f"{name} = {device!r} computes nothing, expected {_devices()}")


def differences(one: ConfigDict, other: ConfigDict, ignore: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ, with both values, None where there is none; keys and sections can be ignored."""
    a, b = flatten(one), flatten(other)
    keys = [key for key in sorted({*a, *b}) if not {key, key.split(".")[0]} & {*ignore} and not elsewhere(key)]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def to_json(config: ConfigDict) -> str:
    """The configuration as JSON; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str, source: str = "the configuration") -> ConfigDict:
    """The configuration that `to_json` wrote; lists become tuples.

    What the text lacks has its default: it may be older than a setting. It may be older than a rule of `check` too, so only
    its keys and values are checked. A class of a user's own has to be of a trusted module (`ctdiff.recipe.trust`).

    Raises:
        ConfigError: not JSON, or not a configuration.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{source} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{source} is not a configuration: it holds a {type(content).__name__}")
    try:
        return complete(content)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
