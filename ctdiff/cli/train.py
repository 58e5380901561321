"""Train a model from a configuration: a preset, or your own file.

The configuration holds all settings of the model, the images and the training. The run is kept in a folder. If the folder has
an unfinished run of this configuration, the training continues. If the run is finished, only its pictures are drawn again.
Every value of the configuration can be changed with --config.section.key=value. --help_config explains all keys. For example:

    ctdiff train --config=mnist --workdir=runs/short --config.training.steps=500
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from ctdiff import config as configuration
from ctdiff import cost, trainer
from ctdiff.cli.verb import CommandLine, Flag, UsageError, Verb, say
from ctdiff.recipe import tables
from ctdiff.runs import RunFolder

__all__ = ["VERB"]


def _flags() -> list[Flag]:
    return [
        Flag(
            "config",
            "What to train: the name of a preset (`ctdiff --help` lists them), or the path of a .py file that has a function "
            "get_config(). Without it, --resume and --workdir are needed, and the run's own configuration is used.",
        ),
        Flag(
            "workdir",
            "The folder of the run: its configuration, checkpoints, pictures and numbers. Without it, runs/NAME, where NAME is "
            "the name of the configuration.",
        ),
        Flag("resume", "Continue the run in the folder. If there is none, stop with an error.", False, bool),
        Flag("fresh", "Delete the run in the folder and train from the beginning.", False, bool),
        Flag(
            "dry_run",
            "Print the whole configuration, and the cost of the network: parameters, operations, time and memory. Nothing is "
            "trained and nothing is written.",
            False,
            bool,
        ),
        Flag(
            "help_config",
            "Print every key of the configuration with its value, the allowed values, its default and its meaning. "
            "--help_config=PART prints a part, such as sampler or model.unet. Nothing is trained. Without it, the "
            "model is trained.",
            bare=True,
        ),
    ]


def _run(line: CommandLine) -> int:
    given, name = line.given, line.given["config"]
    if name is None and not (given["resume"] and given["workdir"]):
        raise UsageError(f"--config is missing, expected one of {', '.join(configuration.preset_names())}, or a .py file")
    folder = Path(given["workdir"] or f"runs/{Path(name or '').stem}")
    if name is not None:
        config = configuration.load(name, line.overrides)
    else:
        configuration.override(config := RunFolder(folder).read_config(), line.overrides)
    if given["help_config"] is not None:
        say(tables.explained(config, given["help_config"].removeprefix("true")))
        return 0
    if given["dry_run"]:
        say(configuration.to_json(config) + "\n" + str(cost.estimate(config, runs=_measured_runs(config))))
        return 0
    outcome = trainer.train(config, folder, resume=given["resume"], fresh=given["fresh"], say=say)
    if outcome.skipped:
        say(f"{outcome.skipped} steps were skipped: their loss or gradient was not finite")
    if outcome.stopped_by is not None:
        say(f"stopped by {outcome.stopped_by.name} after step {outcome.step}, everything is saved in {folder}")
        say(f"continue with: ctdiff train --workdir={folder} --resume")
        return 128 + outcome.stopped_by
    for file, what in (
        ("samples/final.png", "samples"),
        ("samples/process.png", "the reverse process, noise to digits"),
        ("loss.png", "the loss curve"),
        ("metrics.jsonl", "every step's numbers"),
    ):
        say(f"{what + ':':38}{folder / file}")
    return 0


def _measured_runs(config: ConfigDict) -> int:
    """Return how often a dry run times the network: 0 times if this machine does not have the device."""
    try:
        configuration.check_device(config.training.device)
    except configuration.ConfigError:
        return 0
    return 5


VERB = Verb("train", __doc__, _flags, _run)
