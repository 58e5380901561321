"""The verb `evaluate`."""

from __future__ import annotations

from typing import Any

from ctdiff import evaluation
from ctdiff.cli.sample import chosen_classes
from ctdiff.cli.suggestions import File, RunName
from ctdiff.cli.verb import Result, Verb, apply

__all__ = ["VERB", "evaluate"]


def evaluate(run: RunName | None = None, *, repeat: File | None = None, **flags: Any) -> Result:
    """Measure how good the images of a run are.

    Usage: ctdiff evaluate [RUN] [--FLAG=VALUE ...]

    RUN is the folder of a run, such as runs/mnist, or a name of `ctdiff models`. Images are drawn and
    compared with the real images by FID and other metrics. The same metrics of held-out images and of
    pure noise are given for comparison, and the bits per dimension of the model. The table is printed,
    and all numbers are written to a .json file. If the command is interrupted, the same command
    continues. When it is finished, it prints the table again. The settings of the sampler can be
    changed with --config.sampler.key=value. For example:

        ctdiff evaluate runs/mnist --num_samples=1000

    Arguments:
        run: the folder of a run or the name of a model.
        repeat: a .json file that `ctdiff evaluate` wrote. Its images are drawn and measured again, with the settings in the
            file. Numbers that differ are printed, and then the exit status is 1. RUN may be left out. None means that RUN is
            measured.
        flags: the other flags, for `build_extractor` and `evaluate_run`.
    """
    if repeat is not None:
        return _repeat(repeat, run, **flags)
    if run is None:
        raise ValueError("the folder of a run or the name of a model is missing (see ctdiff evaluate --help)")
    extractor, labels = apply(evaluation.build_extractor, flags), apply(chosen_classes, flags)
    content = apply(evaluation.evaluate_run, flags, path=run, extractor=extractor, labels=labels)
    table, file = evaluation.evaluation_table(content), evaluation.evaluation_file(run, flags.get("out"))
    return Result(f"{table}\n{file}", content)


def _repeat(file: str, run: str | None, **flags: Any) -> Result:
    """Measure a report again. The exit status is 1 if a number differs."""
    if changed := [*flags.pop("overrides", ()), *(f"--{name}" for name in flags)]:
        raise ValueError(f"{changed[0]}: --repeat takes every setting from the file")
    different = evaluation.repeat(file, run=run)
    lines = [f"{name}: {then} in the file, {now} now" for name, then, now in different]
    lines.append(f"{len(different)} numbers differ" if different else "every number is the same, bit for bit")
    content = {"different": [{"name": name, "then": then, "now": now} for name, then, now in different]}
    return Result("\n".join(lines), content, 1 if different else 0)


VERB = Verb(evaluate, reads=(evaluation.build_extractor, chosen_classes, evaluation.evaluate_run))
