"""The verb `pull`."""

from __future__ import annotations

from typing import Any

from ctdiff import models
from ctdiff.cli.suggestions import RunName
from ctdiff.cli.verb import Result, Verb, apply

__all__ = ["VERB", "pull"]


def pull(model: RunName, **flags: Any) -> Result:
    """Copy a model from the Hugging Face Hub or from a folder, after checking it.

    Usage: ctdiff pull MODEL [--FLAG=VALUE ...]

    MODEL is hub:user/name, the folder of a model, or a name of `ctdiff models`. The files are compared
    with the hashes in the card, and the model is loaded once. A folder that is no model, or that was
    altered, is refused. No file of the model is executed. For example:

        ctdiff pull hub:user/name --out=models/name

    Arguments:
        model: hub:user/name, or the name or the folder of a model.
        flags: the other flags, for `ctdiff.models.pull_model`.
    """
    target = apply(models.pull_model, flags, model=model)
    return Result(str(target), {"model": str(target)})


VERB = Verb(pull, reads=(models.pull_model,))
