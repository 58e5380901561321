"""The verb `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctdiff import comparison, evaluation
from ctdiff.cli.suggestions import Folder, RunName
from ctdiff.cli.verb import Result, Verb, apply

__all__ = ["VERB", "compare"]


def compare(run: RunName, *others: RunName, out: Folder = "comparison", **flags: Any) -> Result:
    """Compare samplers and runs at equal cost.

    Usage: ctdiff compare RUN [RUN ...] [--FLAG=VALUE ...]

    Each RUN is the folder of a run, or a name of `ctdiff models`. All runs have to be trained on the
    same images. Every sampler of every run draws images with the same numbers of network calls. The
    images are measured as by `ctdiff evaluate`. The results are a page to open in a browser
    (index.html), a table (.csv), a plot (.png) and all numbers (.json). Finished measurements are kept.
    If the command is interrupted, the same command continues. With more calls or samplers it computes
    only the new measurements. The settings of the samplers can be changed with
    --config.sampler.key=value. For example:

        ctdiff compare runs/mnist runs/mnist_ddpm --calls=8,32 --out=comparison

    Arguments:
        run: the folder of a run or the name of a model.
        others: other runs and models.
        out: the folder of the results.
        flags: the other flags, for `build_extractor` and `compare_runs`.
    """
    extractor = apply(evaluation.build_extractor, flags)
    content = apply(comparison.compare_runs, flags, paths=[run, *others], extractor=extractor, out=out)
    table = comparison.comparison_table(content, content.settings.metric)
    files = [str(Path(out) / name) for name in ("comparison.json", "comparison.csv", "comparison.png", "index.html")]
    return Result("\n".join([table, *files]), content)


VERB = Verb(compare, reads=(evaluation.build_extractor, comparison.compare_runs))
