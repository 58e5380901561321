"""Compare samplers and runs at equal cost.

Each RUN is the folder of a run. All runs have to be trained on the same images. Every sampler of every run draws images with
the same numbers of network calls. The images are measured as by `ctdiff evaluate`. The results are a page to open in a browser
(index.html), a table (.csv), a plot (.png) and all numbers (.json). Finished measurements are kept. If the command is
interrupted, the same command continues. With more calls or samplers it computes only the new measurements. The settings of the
samplers can be changed with --config.sampler.key=value. For example:

    ctdiff compare runs/mnist runs/mnist_ddpm --calls=8,32 --out=comparison
"""

from __future__ import annotations

from pathlib import Path

from ctdiff import comparison, evaluation
from ctdiff.cli.shared_flags import DEVICE, EXTRACTOR, likelihood_flag
from ctdiff.cli.verb import CommandLine, Flag, Verb, say
from ctdiff.sampling import numbers

__all__ = ["VERB"]


def _flags() -> list[Flag]:
    return [
        Flag(
            "samplers",
            "The samplers to compare, such as ancestral,ddim. NAME+K makes K corrector steps after each step, as in "
            "tau_leaping+2. Without it, all samplers of each run.",
            kind=list,
        ),
        Flag(
            "calls",
            "The numbers of network calls per image. Each number is measured with each sampler.",
            "4,8,16,32,64",
        ),
        Flag("num_samples", "The number of images to draw for each run, sampler and number of calls.", 500, int, 1),
        Flag("metric", "The metric to print and to plot, such as FID, KID or coverage. All metrics are measured.", "FID"),
        *EXTRACTOR,
        likelihood_flag(200),
        DEVICE,
        Flag("out", "The folder of the results.", "comparison"),
    ]


def _run(line: CommandLine) -> int:
    given = line.given
    content = comparison.compare_runs(
        line.runs,
        evaluation.build_extractor(given["extractor"], given["device"], given["download"]),
        calls=numbers(given["calls"], "--calls"),
        overrides=line.overrides,
        progress=True,
        **{name: given[name] for name in ("samplers", "num_samples", "metric", "likelihood_images", "device", "out", "fresh")},
    )
    say(comparison.comparison_table(content, given["metric"]))
    for name in ("comparison.json", "comparison.csv", "comparison.png", "index.html"):
        say(str(Path(given["out"]) / name))
    return 0


VERB = Verb("compare", __doc__, _flags, _run, least=1, most=None, goes_on=True)
