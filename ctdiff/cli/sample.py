"""Draw images from a trained run.

RUN is the folder of a run, such as runs/mnist. Two files are written: a picture with all images in a grid (.png), and the
values of their pixels with their seeds (.npz). The settings of the sampler can be changed with --config.sampler.key=value. For
example:

    ctdiff sample runs/mnist --num_samples=16 --steps=50 --config.sampler.grid.name=cosine --gif
"""

from __future__ import annotations

from ctdiff.cli.shared_flags import given_labels, given_numbers, sampling_flags
from ctdiff.cli.verb import CommandLine, Flag, Verb, say
from ctdiff.sampling import sample_run

__all__ = ["VERB"]


def _flags() -> list[Flag]:
    return [
        *sampling_flags(num_samples="as many as the run's configuration says"),
        Flag(
            "checkpoint",
            "The training step of the checkpoint whose weights are used. Without it, the last checkpoint.",
            kind=int,
            least=0,
        ),
        Flag("gif", "Write an animation too (.gif): how noise becomes images.", False, bool),
        Flag(
            "out",
            "The path of the files, with or without a suffix, or a folder for them. Without it, RUN/samples. In a folder their "
            "name is SAMPLER_STEPS, followed by the seeds, classes and settings that were asked for.",
        ),
    ]


def _run(line: CommandLine) -> int:
    given = line.given
    paths = sample_run(
        line.runs[0],
        seeds=given_numbers(given, "seeds"),
        labels=given_labels(given),
        overrides=line.overrides,
        **{name: given[name] for name in ("num_samples", "steps", "sampler", "checkpoint", "ema", "device", "out", "gif")},
    )
    for path in paths:
        say(str(path))
    return 0


VERB = Verb("sample", __doc__, _flags, _run, least=1, most=1)
