"""Flags that several verbs have: what is drawn and how, and what images are compared with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from absl import flags

from ctdiff import build
from ctdiff.cli.verb import UsageError
from ctdiff.sampling import numbers

__all__ = ["define_device", "define_extractor", "define_sampling", "given_labels", "given_numbers"]


def define_device(values: flags.FlagValues) -> None:
    """The flag `--device`."""
    flags.DEFINE_string("device", "cpu", "Where to compute, such as cpu, cuda, cuda:1 or mps.", flag_values=values)


def define_sampling(values: flags.FlagValues, num_samples: str) -> None:
    """The flags of what is drawn, and how.

    Arguments:
        values: where the flags are defined.
        num_samples: how many samples there are where neither `--num_samples` nor `--seeds` is given.
    """
    flags.DEFINE_integer(
        "num_samples",
        None,
        f"How many images to draw. Without it, one for each of --seeds, or {num_samples} if these are not given either.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "seeds",
        None,
        "The random seeds, one for each image, such as 0-63 or 1,5,7. A seed always gives the same image, whatever else is "
        "drawn with it. Without it, 0, 1, 2 and so on.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "sampler",
        None,
        f"The method that turns noise into images. Of a Markov chain: {', '.join(build.SAMPLERS)}. Of Gaussian diffusion: "
        f"{', '.join(build.GAUSSIAN_SAMPLERS)}. Without it, the sampler of the run's configuration.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "steps",
        None,
        "How many steps the sampler takes from noise to image: more take longer and usually look better. Without it, as many "
        "as the run's configuration says.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "labels",
        None,
        "The classes to draw, in turn, such as 0-9, or by name, such as cat,dog. Only for a run that was trained with classes. "
        "Without it, all classes in turn.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "label", None, "Draw this class alone, by number or by name. Without it, --labels says which.", flag_values=values
    )
    flags.DEFINE_bool(
        "ema",
        True,
        "Use the moving average of the weights, which usually draws better images; --noema uses the weights of the last step.",
        flag_values=values,
    )
    define_device(values)


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


def define_extractor(values: flags.FlagValues, extractors: list[str]) -> None:
    """The flags of the network that images are compared through.

    Arguments:
        values: where the flags are defined.
        extractors: the names of the networks.
    """
    flags.DEFINE_enum(
        "extractor",
        "mnist-cnn",
        extractors,
        "The network that images are compared through. mnist-cnn: digits, and other grey images of 28 x 28. inception: "
        "images of any size, for FID as papers report it; it needs pip install 'ctdiff[evaluation]'.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "download", False, "Download the weights of Inception if this machine does not have them.", flag_values=values
    )
    flags.DEFINE_bool("fresh", False, "Measure everything again, also what has been measured before.", flag_values=values)
