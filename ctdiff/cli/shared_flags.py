"""Flags that several verbs have: flags of sampling, and flags of the network that images are compared with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ctdiff.cli.verb import Flag, UsageError
from ctdiff.evaluation import EXTRACTORS
from ctdiff.recipe import engines, samplers_of
from ctdiff.sampling import numbers

__all__ = ["DEVICE", "EXTRACTOR", "given_labels", "given_numbers", "likelihood_flag", "sampling_flags"]


DEVICE = Flag("device", "The device that computes, such as cpu, cuda, cuda:1 or mps.", "cpu")


def sampling_flags(num_samples: str) -> list[Flag]:
    """Return the flags of sampling.

    Arguments:
        num_samples: words for the number of samples without `--num_samples` and `--seeds`.
    """
    each = [f"{engine.title}: {', '.join(samplers_of(engine.name))}." for engine in engines().values()]
    return [
        Flag(
            "num_samples",
            f"The number of images to draw. Without it, one for each of --seeds, or {num_samples} if there are no --seeds.",
            kind=int,
            least=1,
        ),
        Flag(
            "seeds",
            "The random seeds, one for each image, such as 0-63 or 1,5,7. A seed always gives the same image; other seeds do "
            "not change it. Without it, 0, 1, 2 and so on.",
        ),
        Flag(
            "sampler",
            f"The method that turns noise into images. {' '.join(each)} Without it, the sampler of the run's configuration.",
        ),
        Flag(
            "steps",
            "The number of steps from noise to image. More steps take longer, and the images usually look better. Without it, "
            "the number in the configuration of the run.",
            kind=int,
            least=1,
        ),
        Flag(
            "labels",
            "The classes to draw, by number (0-9) or by name (cat,dog). The first image gets the first class, and so on; after "
            "the last class the list starts again. Only for a run that was trained with classes. Without it, all classes.",
        ),
        Flag("label", "Draw only this class, by number or by name. Without it, the classes of --labels."),
        Flag(
            "ema",
            "Use the moving average of the weights, which usually draws better images; --noema uses the last weights.",
            True,
            bool,
        ),
        DEVICE,
    ]


EXTRACTOR = [
    Flag(
        "extractor",
        "The network whose features of images are compared. mnist-cnn: for digits and other grey images of 28 x 28. inception: "
        "for images of any size, and for FID as in papers; it needs pip install 'ctdiff[evaluation]'.",
        "mnist-cnn",
        choices=list(EXTRACTORS),
    ),
    Flag("download", "Download the weights of Inception if this machine does not have them.", False, bool),
    Flag("fresh", "Measure everything again, including finished measurements.", False, bool),
]
"""The flags of the network whose features of images are compared."""


def likelihood_flag(usual: int) -> Flag:
    """Return the flag `--likelihood_images` with its default."""
    return Flag(
        "likelihood_images",
        "The number of held-out images for the bits per dimension; 0 leaves out the bits per dimension. Without it, "
        f"{usual}, or all if there are fewer.",
        kind=int,
        least=0,
    )


def given_numbers(given: Mapping[str, Any], name: str) -> list[int] | None:
    """Return the integers of a flag such as `--seeds=0-63`; None if it is not given."""
    return None if given[name] is None else numbers(given[name], f"--{name}")


def given_labels(given: Mapping[str, Any]) -> list[int | str] | None:
    """Return the classes of `--label` or `--labels`, by number or by name; None if neither is given.

    Raises:
        UsageError: both flags are given.
    """
    if given["label"] is not None and given["labels"] is not None:
        raise UsageError(f"--label={given['label']} and --labels={given['labels']}: give one of them")
    if given["label"] is not None:
        return [int(given["label"]) if given["label"].isdecimal() else given["label"]]
    text = given["labels"]
    if text is None or re.fullmatch(r"[\d\s,-]*", text):
        return None if text is None else [*numbers(text, "--labels")]
    return [int(part) if part.isdecimal() else part for part in map(str.strip, text.split(","))]
