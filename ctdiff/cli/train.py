"""The verb `train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctdiff import config as configuration
from ctdiff import cost, trainer
from ctdiff.cli.suggestions import Folder, Preset
from ctdiff.cli.verb import Result, Verb, apply
from ctdiff.files import expanded
from ctdiff.recipe import tables
from ctdiff.runs import RUNS, RunFolder

__all__ = ["VERB", "train"]


def train(
    *,
    config: Preset | None = None,
    workdir: Folder | None = None,
    dry_run: bool = False,
    help_config: bool | str | None = None,
    overrides: Sequence[str] = (),
    **flags: Any,
) -> Result:
    """Train a model from a configuration: a preset, or your own file.

    Usage: ctdiff train [--FLAG=VALUE ...]

    The configuration holds all settings of the model, the images and the training. The run is kept in
    a folder. If the folder has an unfinished run of this configuration, the training continues. If the
    run is finished, only its pictures are drawn again. Every value of the configuration can be changed
    with --config.section.key=value. --help_config explains all keys. For example:

        ctdiff train --config=mnist --workdir=runs/short --config.training.steps=500

    Arguments:
        config: what to train: the name of a preset (`ctdiff --help` lists them), or the path of a .py file that has a function
            get_config(). None means the configuration of the run in the folder; it needs --resume and --workdir.
        workdir: the folder of the run, for its configuration, checkpoints, pictures and numbers. None means runs/NAME, where
            NAME is the name of the configuration.
        dry_run: print the whole configuration, and the cost of the network in parameters, operations, time and memory.
            Nothing is trained and nothing is written.
        help_config: print every key of the configuration with its value, the allowed values, its default and its
            meaning. --help_config=PART prints a part, such as sampler or model.unet. Nothing is trained.
            None means that the model is trained.
        overrides: changes of the configuration.
        flags: the other flags, for `ctdiff.trainer.train`.
    """
    if config is None and not (workdir and flags.get("resume")):
        raise ValueError(f"--config is missing, expected one of {', '.join(configuration.preset_names())}, or a .py file")
    folder = expanded(workdir) if workdir else RUNS / Path(config or "").stem
    if config is None:
        configuration.override(whole := RunFolder(folder).read_config(), overrides)
    else:
        whole = configuration.load(config, overrides)
    if help_config is not None:
        found = tables.explanations(whole, str(help_config).removeprefix("true"))
        return Result("\n".join(map(str, found)), {"keys": found})
    if dry_run:
        estimate = cost.estimate(whole, runs=5)
        return Result(f"{configuration.to_json(whole)}\n{estimate}", {"config": whole.to_dict(), "cost": estimate})
    outcome = apply(trainer.train, flags, config=whole, workdir=folder)
    stopped = outcome.stopped_by
    content = {
        "run": str(folder),
        "step": outcome.step,
        "stopped_by": stopped and stopped.name,
        "skipped": outcome.skipped,
        "files": [str(path) for path in outcome.files.values()],
    }
    text = "\n".join(f"{what + ':':38}{path}" for what, path in outcome.files.items())
    return Result(text, content, 128 + stopped if stopped else 0)


VERB = Verb(train, reads=(trainer.train,))
