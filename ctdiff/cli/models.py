"""The verb `models`."""

from __future__ import annotations

from ctdiff.cli.verb import Result, Verb
from ctdiff.evaluation.tables import aligned, number
from ctdiff.models import listed_models

__all__ = ["VERB", "models"]


def models() -> Result:
    """List the models of the package, which need no training.

    Usage: ctdiff models [--FLAG=VALUE ...]

    Each line has the name of a model, its number of parameters, its FID with the standard error, and
    its process. The name can be used in place of the folder of a run, for example in `ctdiff sample
    NAME`. docs/models.md describes the models. For example:

        ctdiff models --json
    """
    found = listed_models()
    if not found:
        return Result("this version of ctdiff has no models", {"models": found})
    rows = [["name", "parameters", "FID", "process"]]
    for each in found:
        fid = "" if each["FID"] is None else f"{number(each['FID'])} +- {number(each['standard_error'])}"
        rows.append([each["name"], f"{each['parameters']:,}", fid, each["process"]])
    return Result(aligned(rows), {"models": found})


VERB = Verb(models)
