"""The command `ctdiff`: train a configuration, sample from a run, evaluate it, compare samplers.

Parses the command line, calls the functions that do the work, and turns errors of the kinds that
a user can mend into one line and exit status 2. Errors of any other kind keep their trace.
"""

from __future__ import annotations

import re
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from absl import flags
from ml_collections import ConfigDict

from ctdiff import config as configuration
from ctdiff import cost, evaluation
from ctdiff.memory import keep_freed_memory
from ctdiff.runs import RunError, RunFolder
from ctdiff.sampling import numbers, sample_run
from ctdiff.training import CheckpointError
from ctdiff.training.trainer import train

__all__ = ["main"]

_USAGE = """\
ctdiff: discrete and continuous diffusion in continuous time

  ctdiff train --config=NAME [--config.section.key=value ...] [--workdir=runs/NAME] [--resume] [--fresh] [--dry_run]
      Train, continuing an unfinished run in the same folder; of a finished one only draw new samples.
      NAME is one of {presets}, or the path of a .py file.
      --resume    there must be a run to continue; without --config its own configuration is used
      --fresh     delete the run in the folder and train anew
      --dry_run   print the configuration and what it costs, and do nothing

  ctdiff sample RUN [--num_samples=64] [--steps=N] [--sampler=NAME] [--seeds=0-63] [--checkpoint=STEP]
                [--label=N | --labels=0-9] [--gif] [--out=PATH] [--config.sampler.key=value ...]
      Draw samples from a run's averaged weights: PATH.png, a grid, and PATH.npz, the integers.
      One seed, one sample: the same on every day and in every batch.
      --labels    classes in turn, a row of the grid each; --label is one. For a class-conditional run
      --gif       PATH.gif too: the reverse process, noise to images

  ctdiff evaluate RUN [--num_samples=2000] [--seeds=0-1999] [--sampler=NAME] [--steps=N] [--label=N | --labels=0-9]
                  [--checkpoints=last | all | STEP,STEP] [--extractor=mnist-cnn | inception] [--out=PATH.json]
                  [--config.sampler.key=value ...]
      Measure samples from a run's averaged weights, beside held-out images and noise, and its bits per dimension.
      Leaves RUN/evaluation.json. The same command again goes on where it was interrupted, or shows what is there.
      --likelihood_images=400, --draws=8     of bits per dimension: held-out images, and times and noises of each
      --download  fetch the weights of Inception, if they are nowhere
      --fresh     measure anew
  ctdiff evaluate [RUN] --repeat=RUN/evaluation.json
      Draw and measure everything in the file again, and say which numbers differ; exit status 1 if any does.

  ctdiff compare RUN [RUN ...] [--samplers=NAME,NAME,...] [--calls=4,8,16,32,64] [--num_samples=500]
                 [--metric=FID] [--extractor=mnist-cnn | inception] [--out=comparison] [--config.sampler.key=value ...]
      Every sampler of every run, of either engine, at the same numbers of network calls: comparison.json, .csv and .png,
      and index.html, a page with samples of each run, its bits per dimension, the curves, and what is proven of it.
      Finished cells are kept: the same command goes on, and with more calls or samplers computes what is new.
      --likelihood_images=100    of bits per dimension: held-out images; 0 leaves them out
      --samplers  all by default; NAME+K makes K corrector leaps after each step, such as tau_leaping+2
      --fresh     compute every cell anew
"""


_MENDABLE = (flags.Error, ValueError, OSError, RunError, CheckpointError, FloatingPointError)
"""Kinds of errors that a wrong argument, a missing file or a diverged training raise: their message is shown alone.

A mistake of ours can be of such a kind too. Its trace is seen by calling `train` or `sample_run` from Python.
"""


class UsageError(ValueError):
    """A command line that cannot be understood."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "sample": _sample,
        "evaluate": _evaluate,
        "compare": _compare,
    }
    if not arguments or arguments[0] in ("help", "--help", "-h") or set(arguments) & {"--help", "-h", "-help"}:
        _print(_USAGE.format(presets=", ".join(configuration.preset_names())))
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in commands:
        _print(f"ctdiff: {command!r} is not a command, expected one of {', '.join(commands)} (see ctdiff --help)", sys.stderr)
        return 2
    keep_freed_memory()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _print(f"ctdiff: warning: {message}", sys.stderr)
            return commands[command](rest)
    except _MENDABLE as error:
        _print(f"ctdiff: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "; what is finished is kept, the same command goes on" if command in ("evaluate", "compare") else ""
        _print(f"ctdiff: interrupted{kept}", sys.stderr)
        return 128 + signal.SIGINT


def _print(message: str, stream: TextIO | None = None) -> None:
    print(message, file=sys.stdout if stream is None else stream, flush=True)


def _take(arguments: list[str], name: str) -> tuple[str | None, list[str]]:
    """Take `--name=value` or `--name value` out of the arguments; the last one counts."""
    value, rest, i = None, [], 0
    while i < len(arguments):
        key, equals, given = arguments[i].partition("=")
        if key not in (f"--{name}", f"-{name}"):
            rest.append(arguments[i])
        elif equals:
            value = given
        elif i + 1 < len(arguments):
            i += 1
            value = arguments[i]
        else:
            raise UsageError(f"--{name} needs a value")
        i += 1
    return value, rest


def _parse(
    flag_values: flags.FlagValues, arguments: list[str], positional: Sequence[str] = (), most: int | None = None
) -> tuple[list[str], list[str]]:
    """Parse everything but the overrides of the configuration.

    Arguments:
        flag_values: the flags that exist.
        arguments: the command line after the command.
        positional: what the other arguments are called; there must be as many.
        most: how many there may be; None is no more than that.

    Returns:
        The other arguments, and the overrides `--config.key=value`.

    Raises:
        UsageError: an argument too many or too few.
    """
    overrides = [argument for argument in arguments if re.match(r"--?(no)?config\.", argument)]
    _, *others = flag_values(["ctdiff", *(argument for argument in arguments if argument not in overrides)])
    if len(others) < len(positional):
        raise UsageError(f"{positional[len(others)]} is missing (see ctdiff --help)")
    if len(others) > (most := len(positional) if most is None else most):
        raise UsageError(f"unexpected {others[most]!r} (a key is set with --config.section.key=value)")
    return others, overrides


def _train(arguments: list[str]) -> int:
    name, rest = _take(arguments, "config")
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "the run's folder", flag_values=values)
    flags.DEFINE_bool("resume", False, "there must be a run to continue", flag_values=values)
    flags.DEFINE_bool("fresh", False, "delete the folder's run and train anew", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "print the configuration and its cost", flag_values=values)
    _, overrides = _parse(values, rest)
    given = values.flag_values_dict()
    if name is None and not (given["resume"] and given["workdir"]):
        raise UsageError(f"--config is missing, expected one of {', '.join(configuration.preset_names())}, or a .py file")
    folder = Path(given["workdir"] or f"runs/{Path(name or '').stem}")
    config = configuration.load(name) if name is not None else RunFolder(folder).read_config()
    configuration.override(config, overrides)
    if given["dry_run"]:
        _print(configuration.to_json(config) + "\n" + str(cost.estimate(config, runs=_measured_runs(config))))
        return 0
    outcome = train(config, folder, resume=given["resume"], fresh=given["fresh"], say=_print)
    if outcome.skipped:
        _print(f"{outcome.skipped} steps were skipped: their loss or gradient was not finite")
    if outcome.stopped_by is not None:
        _print(f"stopped by {outcome.stopped_by.name} after step {outcome.step}, everything is saved in {folder}")
        _print(f"continue with: ctdiff train --workdir={folder} --resume")
        return 128 + outcome.stopped_by
    for file, what in (
        ("samples/final.png", "samples"),
        ("samples/process.png", "the reverse process, noise to digits"),
        ("loss.png", "the loss curve"),
        ("metrics.jsonl", "every step's numbers"),
    ):
        _print(f"{what + ':':38}{folder / file}")
    return 0


def _measured_runs(config: ConfigDict) -> int:
    """How often a dry run times the network: not at all on a device that this machine does not have."""
    try:
        configuration.check_device(config.training.device)
    except configuration.ConfigError:
        return 0
    return 5


def _define_sampling(values: flags.FlagValues) -> None:
    """The flags of what is drawn, and how."""
    flags.DEFINE_integer("num_samples", None, "how many samples", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("steps", None, "reverse steps", lower_bound=1, flag_values=values)
    flags.DEFINE_string("sampler", None, "the sampler's name", flag_values=values)
    flags.DEFINE_string("seeds", None, "one seed a sample, such as 0-63 or 1,5,7", flag_values=values)
    flags.DEFINE_string("labels", None, "classes, repeated in turn, such as 0-9", flag_values=values)
    flags.DEFINE_integer("label", None, "the class of all samples", lower_bound=0, flag_values=values)
    flags.DEFINE_bool("ema", True, "averaged weights rather than the last ones", flag_values=values)
    flags.DEFINE_string("device", "cpu", "where to compute", flag_values=values)


def _given_numbers(given: Mapping[str, Any], name: str) -> list[int] | None:
    return None if given[name] is None else numbers(given[name], f"--{name}")


def _given_labels(given: Mapping[str, Any]) -> list[int] | None:
    if given["label"] is not None and given["labels"] is not None:
        raise UsageError(f"--label={given['label']} and --labels={given['labels']}: give one of them")
    return _given_numbers(given, "labels") if given["label"] is None else [given["label"]]


def _sample(arguments: list[str]) -> int:
    values = flags.FlagValues()
    _define_sampling(values)
    flags.DEFINE_bool("gif", False, "an animation of the reverse process", flag_values=values)
    flags.DEFINE_integer("checkpoint", None, "the step of a checkpoint", lower_bound=0, flag_values=values)
    flags.DEFINE_string("out", None, "where the pictures go, without suffix", flag_values=values)
    (run,), overrides = _parse(values, arguments, positional=["the folder of a run"])
    given = values.flag_values_dict()
    paths = sample_run(
        run,
        num_samples=given["num_samples"],
        seeds=_given_numbers(given, "seeds"),
        labels=_given_labels(given),
        steps=given["steps"],
        sampler=given["sampler"],
        checkpoint=given["checkpoint"],
        ema=given["ema"],
        device=given["device"],
        out=given["out"],
        overrides=overrides,
        gif=given["gif"],
    )
    for path in paths:
        _print(str(path))
    return 0


def _define_extractor(values: flags.FlagValues) -> None:
    flags.DEFINE_enum("extractor", "mnist-cnn", list(evaluation.EXTRACTORS), "what features are made with", flag_values=values)
    flags.DEFINE_bool("download", False, "fetch the extractor's weights, if they are nowhere", flag_values=values)
    flags.DEFINE_bool("fresh", False, "measure anew", flag_values=values)


def _evaluate(arguments: list[str]) -> int:
    values = flags.FlagValues()
    _define_sampling(values)
    _define_extractor(values)
    flags.DEFINE_string("checkpoints", "last", "their steps, or all, or last", flag_values=values)
    flags.DEFINE_integer("likelihood_images", None, "held-out images of bits per dimension", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("draws", 8, "times and noises of each of them, an even number", lower_bound=4, flag_values=values)
    flags.DEFINE_string("out", None, "where the report goes, a .json file", flag_values=values)
    flags.DEFINE_string("repeat", None, "a report to make again", flag_values=values)
    others, overrides = _parse(values, arguments, most=1)
    given = values.flag_values_dict()
    if given["repeat"] is not None:
        return _repeat(given["repeat"], values, others, overrides)
    if not others:
        raise UsageError("the folder of a run is missing (see ctdiff --help)")
    content = evaluation.evaluate_run(
        others[0],
        evaluation.build_extractor(given["extractor"], given["device"], given["download"]),
        seeds=_given_numbers(given, "seeds"),
        labels=_given_labels(given),
        overrides=overrides,
        progress=True,
        **{
            name: given[name]
            for name in ("num_samples", "steps", "sampler", "ema", "device", "checkpoints", "likelihood_images", "draws", "out")
        },
        fresh=given["fresh"],
    )
    _print(evaluation.evaluation_table(content))
    _print(str(evaluation.evaluation_file(others[0], given["out"])))
    return 0


def _repeat(file: str, values: flags.FlagValues, others: list[str], overrides: list[str]) -> int:
    """Make a report again; exit status 1 where a number is another."""
    changed = [name for name in values if values[name].present and name not in ("repeat", "download")]
    if changed or overrides:
        raise UsageError(f"{[*(f'--{name}' for name in changed), *overrides][0]}: --repeat takes every setting from the file")
    different = evaluation.repeat(file, run=others[0] if others else None, progress=True)
    for name, then, now in different:
        _print(f"{name}: {then} in the file, {now} now")
    _print(f"{len(different)} numbers differ" if different else "every number is the same, bit for bit")
    return 1 if different else 0


def _compare(arguments: list[str]) -> int:
    values = flags.FlagValues()
    _define_extractor(values)
    flags.DEFINE_list("samplers", None, "names, NAME+K with K corrector leaps; all by default", flag_values=values)
    flags.DEFINE_string("calls", "4,8,16,32,64", "network calls a sample", flag_values=values)
    flags.DEFINE_integer("num_samples", 500, "how many samples a cell", lower_bound=1, flag_values=values)
    flags.DEFINE_string("metric", "FID", "what is plotted and printed", flag_values=values)
    flags.DEFINE_integer("likelihood_images", None, "held-out images of bits per dimension", lower_bound=0, flag_values=values)
    flags.DEFINE_string("device", "cpu", "where to compute", flag_values=values)
    flags.DEFINE_string("out", "comparison", "the folder of the results", flag_values=values)
    runs, overrides = _parse(values, arguments, positional=["the folder of a run"], most=len(arguments))
    given = values.flag_values_dict()
    content = evaluation.compare_runs(
        runs,
        evaluation.build_extractor(given["extractor"], given["device"], given["download"]),
        calls=numbers(given["calls"], "--calls"),
        overrides=overrides,
        progress=True,
        **{name: given[name] for name in ("samplers", "num_samples", "metric", "likelihood_images", "device", "out", "fresh")},
    )
    _print(evaluation.comparison_table(content, given["metric"]))
    for name in ("comparison.json", "comparison.csv", "comparison.png", "index.html"):
        _print(str(Path(given["out"]) / name))
    return 0
