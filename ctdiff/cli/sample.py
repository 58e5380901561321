"""Draw images from a trained run.

RUN is the folder of a run, such as runs/mnist. Two files are written: a picture of all images in a grid (.png), and the pixels
and seeds of the images (.npz). The settings of the sampler can be changed with --config.sampler.key=value. For example:

    ctdiff sample runs/mnist --num_samples=16 --steps=50 --config.sampler.grid.name=cosine --gif

A run that was trained with known pixels (config.model.known) completes the images of --given. The picture shows each given
image, with grey unknown pixels, before its completions.
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
            "The training step of the checkpoint to use. Without it, the last checkpoint.",
            kind=int,
            least=0,
        ),
        Flag(
            "given",
            "The images to complete: the path of an image, or test images of the run's data by number, such as test:0-7. Only "
            "for a run that was trained with known pixels. Without it, the first eight test images.",
        ),
        Flag(
            "mask",
            "A picture of the known pixels of the given images: white is known, black is unknown. Without it, they are drawn "
            "as in the training of the run.",
        ),
        Flag("gif", "Also write an animation (.gif) of the sampling process, from noise to images.", False, bool),
        Flag(
            "out",
            "The path of the files, with or without a suffix, or a folder. Without it, RUN/samples. In a folder the name of "
            "the files is SAMPLER_STEPS, followed by the given seeds, classes and settings.",
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
        **{name: given[name] for name in ("given", "mask")},
    )
    for path in paths:
        say(str(path))
    return 0


VERB = Verb("sample", __doc__, _flags, _run, least=1, most=1)
