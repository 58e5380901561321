"""The verb `verify`."""

from __future__ import annotations

from typing import Any

from ctdiff import models
from ctdiff.cli.suggestions import RunName
from ctdiff.cli.verb import Result, Verb, apply

__all__ = ["VERB", "verify"]


def verify(model: RunName, **flags: Any) -> Result:
    """Compute the numbers of a model again, and compare them with its card.

    Usage: ctdiff verify MODEL [--FLAG=VALUE ...]

    MODEL is a name of `ctdiff models`, the folder of a model, or hub:user/name. The hashes of the files
    and the parts of the network must be equal to the card. Each measured number is computed twice: with
    the seeds of the card, and with fresh seeds. docs/models.md explains how large the differences may
    be. If a number differs, the exit status is 1. If the command is interrupted, the same command
    continues. For example:

        ctdiff verify models/mine --quick

    Arguments:
        model: the name or the folder of a model.
        flags: the other flags, for `ctdiff.models.verify_model`.
    """
    found = apply(models.verify_model, flags, model=model, extractor=None)
    return Result(models.verification_table(found), found, 0 if found.passed else 1)


VERB = Verb(verify, reads=(models.verify_model,))
