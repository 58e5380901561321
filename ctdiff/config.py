"""Configurations: found by name or path, overridden from the command line, checked, saved, compared.

A configuration is an `ml_collections.ConfigDict` of eight sections. The keys and types that
exist are those of `configs/defaults.py`; the names that may be chosen are those that
`ctdiff.build` knows. Everything wrong is found before anything starts, and is told with the
key, the value and what was allowed.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from absl import flags
from ml_collections import ConfigDict, config_flags

from ctdiff import build, presets
from ctdiff.ranges import out_of_range

__all__ = [
    "ELSEWHERE",
    "FREE_SECTIONS",
    "ConfigError",
    "check",
    "check_device",
    "differences",
    "flatten",
    "from_json",
    "load",
    "override",
    "preset_names",
    "to_json",
]

FREE_SECTIONS = ("sampler", "saving")
"""Sections that do not change what is trained: they may differ between a run and its continuation."""

_NEWER: dict[str, tuple[str, ...]] = {"data": ("ground", "skip_damaged")}
"""Keys that runs of earlier versions were saved without: there they have their defaults."""

ELSEWHERE = ("data.path", "data.download", "training.device")
"""Keys that say where the images lie and where to compute, which is not part of what a run is."""

_LENGTHS: dict[str, tuple[int, ...]] = {"data.image_size": (1, 2), "optimizer.betas": (2,), "sampler.guidance_interval": (2,)}
"""How many items a tuple may have; others have as many as they please."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key, the value and what is allowed."""


def preset_names() -> list[str]:
    """The presets that `load` finds by name."""
    return presets.names()


def load(name: str) -> ConfigDict:
    """The configuration of a preset's name, or of a path to a .py file with a `get_config()`.

    Raises:
        ConfigError: there is no such preset or file, or it gives no configuration.
    """
    if name.endswith(".py") or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f"--config={name}: there is no such file")
    elif name in (known := preset_names()):
        path = presets.FOLDER / f"{name}.py"
    else:
        raise ConfigError(f"--config={name}: expected {_one_of(known)}, or the path of a .py file{_closest(name, known)}")
    try:
        config = presets.evaluate(path)
    except Exception as error:  # the file is the user's: whatever it raises is the answer
        raise ConfigError(f"--config={name} cannot be evaluated: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"--config={name}: get_config() returned a {type(config).__name__}, expected an ml_collections.ConfigDict"
        )
    check(config)
    return config


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values by dotted key: {"model.unet.widths": (64, 128), ...}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, (ConfigDict, Mapping)):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def override(
    config: ConfigDict, arguments: Sequence[str], sections: Collection[str] = (), refuse_idle: bool = True
) -> dict[str, str]:
    """Apply arguments `--config.section.key=value` to a configuration, and check the result.

    What was wrong before and was not asked for stays: a saved run may be older than a rule.

    Arguments:
        config: the configuration to change.
        arguments: the overrides.
        sections: the sections and keys that may be changed, of a run that is trained already; empty means all.
        refuse_idle: whether an argument that cannot act is refused.

    Returns:
        The arguments that cannot act, by key, with what to say about each.

    Raises:
        ConfigError: a key does not exist or may not be changed, a value is wrong.
    """
    before, flat = ConfigDict(config.to_dict()), flatten(config)
    allowed = [key for key in flat if not sections or key in sections or key.split(".")[0] in sections]
    asked = [match.group(1) for each in arguments if (match := re.match(r"--?(?:no)?config\.([^=]*)", each))]
    for key in asked:
        _check_key(key, allowed)
    argv, values = ["ctdiff", *arguments], flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except flags.IllegalFlagValueError as error:
        match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if match is None or match.group(1) not in flat:
            raise
        kind = type(flat[match.group(1)]).__name__
        raise ConfigError(
            f"config.{match.group(1)} = {match.group(2)!r}, expected {_an(kind)} such as {flat[match.group(1)]}"
        ) from error
    _check_form(config)
    _refuse(_faults(config), _if_formed(_faults, before), asked)
    found = build.idle(config)
    vain = {key: message for key, message in found.items() if key in asked}
    if refuse_idle:
        _refuse(vain if sections else found, _if_formed(build.idle, before), asked)
    return vain


def check(config: ConfigDict, begun: ConfigDict | None = None) -> None:
    """Refuse what cannot be trained, or not as it says.

    That is unknown and missing keys, wrong types, wrong choices, numbers out of range, values that do not fit one another,
    and values that cannot act.

    Arguments:
        config: the configuration.
        begun: that of a run which goes on; what it had, out of range or in vain, it may keep.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    _check_form(config)
    had = {} if begun is None else {**build.idle(begun), **_faults(begun)}
    _refuse({**build.idle(config), **_faults(config)}, had)


def _refuse(wrong: Mapping[str, str], had: Mapping[str, str], asked: Collection[str] = ()) -> None:
    """Raise the first of some messages by key, but for those that were there before and are not asked for."""
    for key, message in wrong.items():
        if key in asked or had.get(key) != message:
            raise ConfigError(message)


def _if_formed(find: Callable[[ConfigDict], dict[str, str]], config: ConfigDict) -> dict[str, str]:
    """What is found in a configuration; nothing where it was none before it was overridden."""
    try:
        _check_form(config)
    except ConfigError:
        return {}
    return find(config)


def _faults(config: ConfigDict) -> dict[str, str]:
    """Numbers out of range, and rates that the schedule does not fit: by key, with what to say about each."""
    faults = out_of_range(flatten(config))
    if not any(key.startswith("process.") for key in faults):
        with suppress(ValueError):  # rates that cannot be made; they say why when they are
            if (message := build.misfit(config)) is not None:
                faults["process.scale"] = message
    return faults


def _check_form(config: ConfigDict) -> None:
    """Refuse what is no configuration: keys, types, lengths and choices, and choices that exclude one another."""
    known, given = flatten(presets.default_config()), flatten(config)
    for key in given:
        _check_key(key, known)
    for key, default in known.items():
        if key not in given:
            raise ConfigError(f"config.{key} is missing; its default is {default!r}")
        _check_type(key, given[key], default)
        if (lengths := _LENGTHS.get(key)) is not None and len(given[key]) not in lengths:
            raise ConfigError(f"config.{key} = {given[key]!r}, expected {' or '.join(map(str, lengths))} numbers")
    for key, choices in build.choices(config).items():
        if given[key] not in choices:
            raise ConfigError(f"config.{key} = {given[key]!r}, expected {_one_of(choices)}{_closest(given[key], choices)}")
    _check_values(given)


def _check_values(given: Mapping[str, Any]) -> None:
    """What depends on more than a type, a table or one bound."""
    if given["data.name"] in build.PATH_SOURCES and not given["data.path"]:
        raise ConfigError(f"config.data.path = '', expected the file or folder of config.data.name = {given['data.name']!r}")
    if given["sampler.guidance"] != 1 and not given["model.num_classes"]:
        raise ConfigError(
            f"config.sampler.guidance = {given['sampler.guidance']!r}, expected 1.0: config.model.num_classes = 0, "
            "and guidance needs a network that was trained with labels"
        )
    if given["process.name"] == build.GAUSSIAN:
        _check_gaussian(given)
    try:
        torch.device(given["training.device"])
    except RuntimeError as error:  # torch's message goes on about devices of its developers
        raise ConfigError(f"config.training.device = {given['training.device']!r}, expected {_devices()}") from error


def _check_gaussian(given: Mapping[str, Any]) -> None:
    """What the losses of the Gaussian engine need."""
    loss, t_min, learned = given["loss.name"], given["process.t_min"], given["model.learned_variance"]
    chain = loss in build.CHAIN_LOSSES
    if chain and t_min != 0:
        raise ConfigError(
            f"config.process.t_min = {t_min!r}, expected 0.0: config.loss.name = {loss!r} is a sum over the steps of a chain, "
            "and the times below 1 / T are its last step"
        )
    if chain and given["process.t_max"] != 1:
        raise ConfigError(
            f"config.process.t_max = {given['process.t_max']!r}, expected 1.0: config.loss.name = {loss!r} is a sum over the "
            "steps of a chain, which begins there"
        )
    if chain and given["process.schedule"] in build.TRAINING_SCHEDULES:
        raise ConfigError(
            f"config.process.schedule = {given['process.schedule']!r}, expected a schedule that ends: config.loss.name = "
            f"{loss!r} is a sum over even steps, and here the first of them is infinitely long in log-SNR"
        )
    if loss == "elbo" and t_min == 0:
        raise ConfigError(
            f"config.process.t_min = {t_min!r}, expected more: config.loss.name = 'elbo' grows without bound towards t = 0"
        )
    if loss == "hybrid" and not learned:
        raise ConfigError(f"config.model.learned_variance = False, expected True: config.loss.name = {loss!r} teaches one")
    if learned and not chain:
        raise ConfigError(
            f"config.model.learned_variance = True, expected False: config.loss.name = {loss!r} teaches no variance, as "
            f"{' and '.join(build.CHAIN_LOSSES)} do"
        )


def _devices() -> str:
    """The devices of this machine, as a choice."""
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return _one_of(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *mps])


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
    """The dotted keys whose values differ, with both values; whole sections can be ignored."""
    a, b = flatten(one), flatten(other)
    keys = [key for key in sorted({*a, *b}) if key.split(".")[0] not in ignore and key not in ignore]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def to_json(config: ConfigDict) -> str:
    """The configuration as JSON; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str, source: str = "the configuration") -> ConfigDict:
    """The configuration that `to_json` wrote; lists become tuples.

    What the text does not have of the free sections, and of the alternatives that it did not choose (other networks, rate
    matrices, schedules, losses), are defaults: it may be older than they are. It may be older than a rule of `check` too, so
    only its form is checked.

    Raises:
        ConfigError: not JSON, or not a configuration.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{source} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{source} is not a configuration: it holds a {type(content).__name__}")
    config = ConfigDict(_completed(_tuples(content), presets.default_config().to_dict()))
    try:
        _check_form(config)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return config


def _completed(content: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """A configuration with defaults where it may be older than they are.

    A section of a section holds the arguments of what is chosen by its name: it is an alternative unless it is chosen.
    """
    completed = dict(content)
    for name, section in known.items():
        if not isinstance(given := content.get(name), dict):
            continue
        chosen = {value for value in given.values() if isinstance(value, str)}
        alternatives = {key: part for key, part in section.items() if isinstance(part, dict) and key not in chosen}
        filled = {
            key: {**part, **given[key]} if isinstance(given.get(key), dict) else given.get(key, part)
            for key, part in alternatives.items()
        }
        newer = section if name in FREE_SECTIONS else {key: section[key] for key in _NEWER.get(name, ())}
        completed[name] = {**newer, **given, **filled}
    return completed


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _check_key(key: str, known: Iterable[str]) -> None:
    if key not in (names := list(known)):
        section = key.rpartition(".")[0]
        siblings = [name for name in names if name.rpartition(".")[0] == section] or sorted({n.split(".")[0] for n in names})
        raise ConfigError(f"config.{key} is not a key; expected {_one_of(siblings)}{_closest(key, names)}")


def _check_type(key: str, value: Any, default: Any) -> None:
    if isinstance(default, tuple):
        kinds = {type(item) for item in default}
        if not isinstance(value, tuple) or not all(_is(item, kind) for item in value for kind in kinds):
            raise ConfigError(f"config.{key} = {value!r}, expected a tuple of {' or '.join(kind.__name__ for kind in kinds)}")
    elif not _is(value, type(default)):
        raise ConfigError(f"config.{key} = {value!r} is of type {type(value).__name__}, expected {type(default).__name__}")


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of a kind; an int will do as a float, a bool will not as a number."""
    return type(value) is kind or (kind is float and type(value) is int)


def _one_of(names: Iterable[Any]) -> str:
    if isinstance(names, range):
        return f"{names[0]} .. {names[-1]}"
    listed = [str(name) for name in names]
    return listed[0] if len(listed) == 1 else f"one of {', '.join(listed)}"


def _closest(name: Any, names: Iterable[Any]) -> str:
    close = difflib.get_close_matches(name, [str(known) for known in names], n=1) if isinstance(name, str) else []
    return f". Did you mean {close[0]}?" if close else ""


def _an(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
