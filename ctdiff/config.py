"""Loads, changes, checks, saves and compares configurations.

A configuration is an `ml_collections.ConfigDict`. Its keys are read from constructors (`ctdiff.recipe.schema`). A preset
holds only the values that it changes; `load` completes it. Errors are found before anything starts. Their messages name the
key, the value and what is allowed.
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
from ctdiff.presets import preset_names
from ctdiff.recipe.engine import tree
from ctdiff.recipe.errors import ConfigError, UnknownKey, closest, one_of
from ctdiff.recipe.parts import build_all
from ctdiff.recipe.tree import completed, flatten
from ctdiff.recipe.user_classes import is_user_class, key_of, trust_classes
from ctdiff.recipe.values import Text

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
"""Sections that do not change the training: they may differ between a run and its continuation."""


def elsewhere(key: str) -> bool:
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
    except Exception as error:  # code of the user can raise anything
        raise ConfigError(f"--config={name} cannot be evaluated: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"--config={name}: get_config() returned a {type(config).__name__}, expected an ml_collections.ConfigDict"
        )
    given = config.to_dict()
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
    process = given.get("process", {})
    engine = process.get("engine", "discrete") if isinstance(process, Mapping) else "discrete"
    if engine not in (known := [*recipe.engines()]):
        raise ConfigError(f"config.process.engine = {engine!r}, expected {one_of(known)}{closest(engine, known)}")
    return ConfigDict(completed(tree(str(engine)), given))


def _switch_engine(given: dict[str, Any], engine: str) -> None:
    """Remove the keys that the other engines have and this one has not, or has with another meaning; typed values stay."""
    own = tree(engine)
    for other in (tree(name) for name in recipe.engines() if name != engine):
        for section in other.fields:
            theirs, ours = other.inner(section), own.inner(section)
            foreign = theirs.names() - ours.names()
            foreign |= {key for key, cls in theirs.found().items() if cls != ours.found().get(key)}
            kept = given.get(section, {})
            for key in [key for key in kept if key in foreign and not _is_typed(kept[key])]:
                del kept[key]


def _is_typed(value: object) -> bool:
    values = flatten(value).values() if isinstance(value, Mapping) else [value]
    return any(isinstance(each, Text) for each in values)


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
            `--noconfig.key` sets it to False.
        sections: the sections that may be changed, for a run that is already trained. Empty means that all sections may be
            changed. Of the section `data`, only the keys `data.*.path` and `data.*.download` may be changed.
        lenient: what to do with changes of keys that do not exist or have no effect. If True, these changes are left out and
            returned; if False, they are an error.

    Returns:
        The changes that were left out: a message for each key.

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
    for key in dict.fromkeys(key for each in vain for key in each):
        if all(key in each for each in vain):
            # The shortest message says that a choice is missing; the others list all keys.
            raise ConfigError(min((each[key] for each in vain), key=len))


def check(config: ConfigDict, asked: Collection[str] | None = None) -> None:
    """Refuse a configuration that is not whole, that cannot be built, or that has values without an effect.

    Arguments:
        config: the configuration.
        asked: the keys to give advice on; None means all.

    Raises:
        ConfigError: the message names the key, the value and what is allowed.
    """
    whole = flatten(complete(config.to_dict()))
    if missing := sorted(whole.keys() - flatten(config).keys()):
        raise ConfigError(f"config.{missing[0]} is missing: the configuration is not whole, see `complete` and `changed`")
    try:
        torch.device(config.training.device)
    except RuntimeError as error:  # the message of torch lists devices that only its developers know
        raise ConfigError(f"config.training.device = {config.training.device!r}, expected {_devices()}") from error
    for key, message in recipe.advice(config):  # first: this message is clearer than that of a constructor
        if asked is None or key in asked:
            raise UnknownKey(key, message)
    build_all(config)


def _typed(arguments: Sequence[str]) -> dict[str, Text]:
    """Return the changes by key."""
    typed = {}
    for argument in arguments:
        match = re.fullmatch(r"--?(no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
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
    if (engine := str(changes.get("process.engine", ""))) in recipe.engines():
        _switch_engine(given, engine)
    return given


def _devices() -> str:
    """Return the devices of this machine in words."""
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return one_of(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *mps])


def check_device(device: str, name: str = "config.training.device") -> None:
    """Refuse a device that this machine cannot compute on.

    `check` accepts such a device, because a run may come from another machine.

    Arguments:
        device: the device.
        name: the name of the argument, for the message.

    Raises:
        ConfigError: the message names the device and the devices of this machine.
    """
    try:
        usable = torch.empty(0, device=device).device.type != "meta"
    except (RuntimeError, AssertionError) as error:  # torch raises AssertionError if it was compiled without a device
        raise ConfigError(f"{name} = {device!r} cannot be used on this machine, expected {_devices()}") from error
    if not usable:
        raise ConfigError(f"{name} = {device!r} computes nothing, expected {_devices()}")


def differences(one: ConfigDict, other: ConfigDict, ignore: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return the keys whose values differ, with both values (None if a value is missing).

    Arguments:
        one: a configuration.
        other: another configuration.
        ignore: keys and sections that are not compared. `data.*.path`, `data.*.download` and `training.device` are never
            compared.
    """
    a, b = flatten(one), flatten(other)
    keys = [key for key in sorted({*a, *b}) if not {key, key.split(".")[0]} & {*ignore} and not elsewhere(key)]
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
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{source} is not a configuration: it holds a {type(content).__name__}")
    try:
        return complete(content)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
