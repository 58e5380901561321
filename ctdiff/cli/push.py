"""The verb `push`."""

from __future__ import annotations

from typing import Any

from ctdiff import evaluation, models
from ctdiff.cli.suggestions import Folder
from ctdiff.cli.verb import Result, Verb, apply

__all__ = ["VERB", "push"]


def push(run: Folder, target: Folder, **flags: Any) -> Result:
    """Share a run as a model with a card.

    Usage: ctdiff push RUN TARGET [--FLAG=VALUE ...]

    RUN is the folder of a run. TARGET is a new folder, or hub:user/name for the Hugging Face Hub. The
    averaged weights are rounded to bfloat16. Then all numbers of the card are measured, as by `ctdiff
    evaluate`. TARGET appears when everything is done. If the command is interrupted, the same command
    continues. The settings of the sampler can be changed with --config.sampler.key=value. For example:

        ctdiff push runs/mnist models/mine --description="Digits." --licence="CC BY-SA 3.0"

    Arguments:
        run: the folder of a run.
        target: the folder of the model, or hub:user/name.
        flags: the other flags, for `build_extractor` and `ctdiff.models.push_run`.
    """
    extractor = apply(evaluation.build_extractor, flags)
    card = apply(models.push_run, flags, path=run, target=target, extractor=extractor)
    return Result(str(target), {"target": str(target), "card": card})


VERB = Verb(push, reads=(evaluation.build_extractor, models.push_run))
