"""The verb `sample`."""

from __future__ import annotations

from typing import Any

from ctdiff.cli.suggestions import RunName
from ctdiff.cli.verb import Result, Verb, apply
from ctdiff.sampling import sample_run

__all__ = ["VERB", "chosen_classes", "sample"]


def sample(run: RunName, **flags: Any) -> Result:
    """Draw images from a trained run.

    Usage: ctdiff sample RUN [--FLAG=VALUE ...]

    RUN is the folder of a run, such as runs/mnist, or a name of `ctdiff models`. Two files are written:
    a picture of all images in a grid (.png), and the pixels and seeds of the images (.npz). With
    --format=png, each image is a file for other programs. The settings of the sampler can be changed
    with --config.sampler.key=value. For example:

        ctdiff sample runs/mnist --num_samples=16 --steps=50 --config.sampler.grid.name=cosine --gif

    Some runs are trained to complete images (config.model.known): the network gets some pixels of an
    image, the known ones, and draws the others. Such a run completes the images of --given. The picture
    shows each given image before its completions. In a given image, the unknown pixels are grey.

    Arguments:
        run: the folder of a run or the name of a model.
        flags: the other flags, for `sample_run`.
    """
    drawn = apply(sample_run, flags, path=run, labels=apply(chosen_classes, flags))
    files = [str(path) for path in drawn.files]
    return Result("\n".join(files), {"files": files, "seeds": drawn.seeds, "labels": drawn.labels})


def chosen_classes(label: str | None = None, labels: str | None = None) -> str | list[int | str] | None:
    """Return the classes to draw; None means all classes.

    Arguments:
        label: the only class to draw, by number or by name. None means the classes of --labels.
        labels: the classes to draw, by number (0-9) or by name (cat,dog). The first image gets the first class, the
            second image the second class, and so on. After the last class, the list starts again. Only for a run that was
            trained with classes. None means all classes.

    Raises:
        ValueError: both are given.
    """
    if label is not None and labels is not None:
        raise ValueError(f"--label={label} and --labels={labels}: give one of them")
    return labels if label is None else [int(label) if label.isdecimal() else label]


VERB = Verb(sample, reads=(chosen_classes, sample_run))
