"""The pairs of a run and a sampler that a comparison measures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ctdiff import config as configuration
from ctdiff import recipe
from ctdiff.completion import check_unconditional
from ctdiff.data import Splits
from ctdiff.data.record import DataRecord
from ctdiff.evaluation.evaluator import run_splits
from ctdiff.hashes import file_hash
from ctdiff.recipe.errors import closest, one_of
from ctdiff.records import digest
from ctdiff.runs import Run, load_run
from diffusion_core import Sampler

__all__ = ["Contender", "common_data", "contenders_of"]

_CORRECTOR = "forward_backward"  # for NAME+K, if neither the run nor an override chooses a corrector
_FLAGS = {"name": "--samplers", "steps": "--calls", "num_samples": "--num_samples"}
"""Settings of samplers that flags of the comparison decide."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A run and one of its samplers.

    Arguments:
        run: the run. Its configuration chooses the sampler.
        name: the run's name.
        sampler: the sampler's name; `tau_leaping+2` makes two corrector moves after each step.
        weights: the SHA-256 of the run's weights.
    """

    run: Run
    name: str
    sampler: str
    weights: str

    def sampler_with(self, steps: int) -> Sampler[object]:
        """Make the sampler with a number of steps."""
        return self.run.sampler(steps)

    def trained(self) -> dict[str, str]:
        """Return hashes of the weights of the network and of its configuration."""
        config = self.run.config.to_dict()
        return {"weights": self.weights, "trained": digest({key: config[key] for key in ("data", "model", "process")})}

    def describe(self) -> dict[str, Any]:
        """Return everything that the samples depend on, except their seeds and the number of steps."""
        settings = self.run.config.sampler.to_dict()
        sampler = {key: value for key, value in settings.items() if key not in ("steps", "num_samples")}
        return {**self.trained(), "sampler": sampler}


def contenders_of(
    paths: Sequence[str | Path], samplers: Sequence[str] | None, overrides: Sequence[str], device: str
) -> list[Contender]:
    """Pair each run with those of the chosen samplers that it has.

    Arguments:
        paths: the runs' folders.
        samplers: names; `NAME+K` makes K corrector moves after each step. None means all samplers.
        overrides: flags that change the configuration, for example "--config.sampler.ddim.eta=0.5". A flag changes only the
            samplers that have its setting.
        device: the device that computes.

    Raises:
        ValueError: no run has a chosen sampler, a run has none of the chosen samplers, or a run is given twice.
        ConfigError: an override cannot be used, or changes no sampler.
        RunError, CheckpointError: a run cannot be used.
    """
    _check_overrides(overrides)
    runs = {name: load_run(path, None, True, device) for name, path in _named(paths).items()}
    for name, run in runs.items():
        check_unconditional(run.config, name, "compare")
    if samplers is not None:
        _check_samplers({name: run.config for name, run in runs.items()}, samplers)
    plan = [
        (name, *_with_sampler(run, label))
        for name, run in runs.items()
        for label in (_offered(run.config) if samplers is None else samplers)
        if _has(run.config, label)
    ]
    configuration.override_each([run.config for _, run, _ in plan], overrides, [own for *_, own in plan], ("sampler", "data"))
    weights = {name: file_hash(run.weights) for name, run in runs.items()}
    found: dict[tuple[str, str], Contender] = {}
    for name, run, _ in plan:
        leaps = run.config.sampler.get("corrector", {}).get("corrector_steps", 0)
        called = f"{run.config.sampler.name}+{leaps}" if leaps else str(run.config.sampler.name)
        found.setdefault((name, called), Contender(run, name, called, weights[name]))
    return list(found.values())


def _named(paths: Sequence[str | Path]) -> dict[str, str | Path]:
    """Return a dictionary from names to runs. A name is that of the folder, or its path if two names are equal."""
    if not paths:
        raise ValueError("there are no runs, expected at least one")
    names = [Path(path).name for path in paths]
    chosen = names if len(set(names)) == len(names) else [str(path) for path in paths]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"runs {', '.join(chosen)}: expected different runs")
    return dict(zip(chosen, paths, strict=True))


def _check_overrides(overrides: Sequence[str]) -> None:
    """Raise ConfigError if an override changes a setting that a flag of the comparison decides."""
    for argument in overrides:
        name = argument.lstrip("-").partition("=")[0].removeprefix("config.sampler.")
        if name in _FLAGS:
            raise configuration.ConfigError(f"{argument} has no effect on a comparison, expected {_FLAGS[name]}")


def _parsed(label: str) -> tuple[str, int | None]:
    """Return the name of a sampler and its number of corrector moves. The number is None if the label does not contain it."""
    match = re.fullmatch(r"([\w.:]+)(?:\+(\d+))?", label)
    if match is None:
        raise ValueError(f"sampler = {label!r}, expected a name, or a name and its corrector steps: tau_leaping+2")
    return match[1], None if match[2] is None else int(match[2])


def _offered(config: ConfigDict) -> list[str]:
    """Return the samplers of a run: those of its engine, and the one in its configuration, which may be a user's class."""
    return list(dict.fromkeys([*recipe.samplers_of(config.process.engine), str(config.sampler.name)]))


def _has(config: ConfigDict, label: str) -> bool:
    sampler, leaps = _parsed(label)
    return sampler in _offered(config) and (leaps is None or "corrector" in config.sampler)


def _check_samplers(runs: Mapping[str, ConfigDict], samplers: Sequence[str]) -> None:
    """Raise ValueError if no run has a chosen sampler, or if a run has none of the chosen samplers."""
    offered = {name: _offered(config) for name, config in runs.items()}
    known = list(dict.fromkeys(each for names in offered.values() for each in names))
    for label in samplers:
        if (sampler := _parsed(label)[0]) not in known:
            raise ValueError(f"sampler = {label!r}, expected {one_of(known)}{closest(sampler, known)}")
        if not any(_has(config, label) for config in runs.values()):
            raise ValueError(f"no run has the sampler {label}, expected {sampler}: its engine has no correctors")
    listed = "; ".join(f"{name} has {', '.join(names)}" for name, names in offered.items())
    for name, config in runs.items():
        if not any(_has(config, label) for label in samplers):
            raise ValueError(f"{name} has none of the samplers {', '.join(samplers) or '(none are given)'}: {listed}")


def _with_sampler(run: Run, label: str) -> tuple[Run, list[str]]:
    """Return a copy of the run with its own configuration, and the flags that choose the sampler.

    The flags are not applied here. A sampler's settings are keys only if the sampler is chosen. So the choice and its settings
    must be changed together.
    """
    sampler, leaps = _parsed(label)
    flags, config = [f"--config.sampler.name={sampler}"], ConfigDict(run.config.to_dict())
    if leaps is not None:
        flags.append(f"--config.sampler.corrector.corrector_steps={leaps}")
        if config.sampler.corrector.name == "none":
            config = configuration.changed(config, {"sampler.corrector.name": _CORRECTOR})
    return replace(run, config=config), flags


def common_data(contenders: Sequence[Contender]) -> tuple[Splits, DataRecord]:
    """Return the real images, which are the same for all runs, and a record of them.

    Raises:
        ValueError: two runs were trained on different images.
    """
    first = contenders[0]
    splits = run_splits(first.run.config, None, first.run.folder)
    record = DataRecord.of(splits)
    for other in contenders:
        if other.name != first.name and DataRecord.of(run_splits(other.run.config)) != record:
            one, two = (configuration.flatten({"data": each.run.config.data}) for each in (first, other))
            changed = [key for key in sorted({*one, *two}) if one.get(key) != two.get(key)]
            keys = [f"{key} = {one.get(key)!r} and {two.get(key)!r}" for key in changed]
            raise ValueError(
                f"{first.name} and {other.name} were trained on different images ({'; '.join(keys) or 'with equal settings'}), "
                "expected the same images: all samples are compared with one set of real images"
            )
    return splits, record
