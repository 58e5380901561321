"""Flags that several verbs have: what is drawn and how, and what images are compared with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ctdiff.cli.verb import Flag, UsageError
from ctdiff.evaluation import EXTRACTORS
from ctdiff.recipe import engines, samplers_of
from ctdiff.sampling import numbers

__all__ = ["DEVICE", "EXTRACTOR", "given_labels", "given_numbers", "likelihood_flag", "sampling_flags"]


DEVICE = Flag("device", "Where to compute, such as cpu, cuda, cuda:1 or mps.", "cpu")


def sampling_flags(num_samples: str) -> list[Flag]:
    """The flags of what is drawn, and how.

    Arguments:
        num_samples: how many samples there are where neither `--num_samples` nor `--seeds` is given.
    """
    each = [f"{engine.title}: {', '.join(samplers_of(engine.name))}." for engine in engines().values()]
    return [
        Flag(
            "num_samples",
            f"How many images to draw. Without it, one for each of --seeds, or {num_samples} if these are not given either.",
            kind=int,
            least=1,
        ),
        Flag(
            "seeds",
            "The random seeds, one for each image, such as 0-63 or 1,5,7. A seed always gives the same image, whatever else is "
            "drawn with it. Without it, 0, 1, 2 and so on.",
        ),
        Flag(
            "sampler",
            f"The method that turns noise into images. {' '.join(each)} Without it, the sampler of the run's configuration.",
        ),
        Flag(
            "steps",
            "How many steps the sampler takes from noise to image: more take longer and usually look better. Without it, "
            "as many as the run's configuration says.",
            kind=int,
            least=1,
        ),
        Flag(
            "labels",
            "The classes to draw, in turn, such as 0-9, or by name, such as cat,dog. Only for a run that was trained with "
            "classes. Without it, all classes in turn.",
        ),
        Flag("label", "Draw this class alone, by number or by name. Without it, --labels says which."),
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
        "The network that images are compared through. mnist-cnn: digits, and other grey images of 28 x 28. inception: images "
        "of any size, for FID as papers report it; it needs pip install 'ctdiff[evaluation]'.",
        "mnist-cnn",
        choices=list(EXTRACTORS),
    ),
    Flag("download", "Download the weights of Inception if this machine does not have them.", False, bool),
    Flag("fresh", "Measure everything again, also what has been measured before.", False, bool),
]
"""The flags of the network that images are compared through."""


def likelihood_flag(usual: int) -> Flag:
    """The flag `--likelihood_images`, and how many there are without it."""
    return Flag(
        "likelihood_images",
        "How many held-out images the bits per dimension are averaged over; 0 leaves these out. Without it, "
        f"{usual}, or all if there are fewer.",
        kind=int,
        least=0,
    )


def given_numbers(given: Mapping[str, Any], name: str) -> list[int] | None:
    """The integers of a flag such as `--seeds=0-63`; None if it is not given."""
    return None if given[name] is None else numbers(given[name], f"--{name}")


def given_labels(given: Mapping[str, Any]) -> list[int | str] | None:
    """The classes that `--label` or `--labels` gives, by number or by name; None if neither is given.

    Raises:
        UsageError: both are given.
    """
    if given["label"] is not None and given["labels"] is not None:
        raise UsageError(f"--label={given['label']} and --labels={given['labels']}: give one of them")
    if given["label"] is not None:
        return [int(given["label"]) if given["label"].isdecimal() else given["label"]]
    text = given["labels"]
    if text is None or re.fullmatch(r"[\d\s,-]*", text):
        return None if text is None else [*numbers(text, "--labels")]
    return [int(part) if part.isdecimal() else part for part in map(str.strip, text.split(","))]
