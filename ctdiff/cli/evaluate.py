"""Measure how good the images of a run are.

RUN is the folder of a run, such as runs/mnist. Images are drawn and compared with the real images by FID and other metrics.
The same metrics of held-out images and of pure noise are given for comparison, and the bits per dimension of the model. The
table is printed, and all numbers are written to a .json file. If the command is interrupted, the same command continues. When
it is finished, it prints the table again. The settings of the sampler can be changed with --config.sampler.key=value. For
example:

    ctdiff evaluate runs/mnist --num_samples=1000
"""

from __future__ import annotations

from ctdiff import evaluation
from ctdiff.cli.shared_flags import EXTRACTOR, given_labels, given_numbers, likelihood_flag, sampling_flags
from ctdiff.cli.verb import CommandLine, Flag, UsageError, Verb, say

__all__ = ["VERB"]


def _flags() -> list[Flag]:
    return [
        *sampling_flags(num_samples="2000"),
        Flag("checkpoints", "The checkpoints to measure: last, all, or their training steps, such as 1000,2000.", "last"),
        *EXTRACTOR,
        likelihood_flag(400),
        Flag(
            "draws",
            "The number of random pairs of a time and a noise for each of these images, an even number. More reduce the error.",
            8,
            int,
            4,
        ),
        Flag("out", "The .json file to write. Without it, RUN/evaluation.json."),
        Flag(
            "repeat",
            "A .json file that `ctdiff evaluate` wrote. Its images are drawn and measured again, with the settings in the "
            "file. Numbers that differ are printed, and then the exit status is 1. RUN may be left out. "
            "Without it, RUN is measured.",
        ),
    ]


def _run(line: CommandLine) -> int:
    given = line.given
    if given["repeat"] is not None:
        return _repeat(line)
    VERB.check_runs(line.runs, least=1)
    content = evaluation.evaluate_run(
        line.runs[0],
        evaluation.build_extractor(given["extractor"], given["device"], given["download"]),
        seeds=given_numbers(given, "seeds"),
        labels=given_labels(given),
        overrides=line.overrides,
        progress=True,
        **{
            name: given[name]
            for name in ("num_samples", "steps", "sampler", "ema", "device", "checkpoints", "likelihood_images", "draws", "out")
        },
        fresh=given["fresh"],
    )
    say(evaluation.evaluation_table(content))
    say(str(evaluation.evaluation_file(line.runs[0], given["out"])))
    return 0


def _repeat(line: CommandLine) -> int:
    """Measure a report again. The exit status is 1 if a number differs."""
    changed = [f"--{name}" for name in line.present if name not in ("repeat", "download", "trust")]
    if changed or line.overrides:
        raise UsageError(f"{[*changed, *line.overrides][0]}: --repeat takes every setting from the file")
    different = evaluation.repeat(line.given["repeat"], run=line.runs[0] if line.runs else None, progress=True)
    for name, then, now in different:
        say(f"{name}: {then} in the file, {now} now")
    say(f"{len(different)} numbers differ" if different else "every number is the same, bit for bit")
    return 1 if different else 0


VERB = Verb("evaluate", __doc__, _flags, _run, most=1, goes_on=True)
