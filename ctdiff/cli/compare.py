"""Compare samplers and runs at equal cost.

Each RUN is the folder of a run; all have to be trained on the same images. Every sampler of every run draws images with the
same numbers of network calls, and these are measured as by `ctdiff evaluate`. The results are a page to open in a browser
(index.html), a table (.csv), a plot (.png) and all numbers (.json). What has been measured is kept: the same command goes on
where it was interrupted, and with more calls or samplers computes only what is new. The settings of the samplers can be
changed with --config.sampler.key=value. For example:

    ctdiff compare runs/mnist runs/mnist_ddpm --calls=8,32 --out=comparison
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from ctdiff import evaluation
from ctdiff.cli.shared_flags import define_device, define_extractor
from ctdiff.cli.verb import CommandLine, Verb, say
from ctdiff.sampling import numbers

__all__ = ["VERB"]


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "samplers",
        None,
        "The samplers to compare, such as ancestral,ddim. NAME+K makes K corrector leaps after each step, as in "
        "tau_leaping+2. Without it, all that each run has.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "calls",
        "4,8,16,32,64",
        "How often the network may be called for an image. Each number is measured with each sampler.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_samples",
        500,
        "How many images to draw for each run, sampler and number of calls.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "metric", "FID", "The metric to print and to plot, such as FID, KID or coverage; all are measured.", flag_values=values
    )
    define_extractor(values, list(evaluation.EXTRACTORS))
    flags.DEFINE_integer(
        "likelihood_images",
        None,
        "How many held-out images the bits per dimension are averaged over; 0 leaves these out. Without it, 200, or all if "
        "there are fewer.",
        lower_bound=0,
        flag_values=values,
    )
    define_device(values)
    flags.DEFINE_string("out", "comparison", "The folder of the results.", flag_values=values)


def _run(line: CommandLine) -> int:
    given = line.given
    content = evaluation.compare_runs(
        line.runs,
        evaluation.build_extractor(given["extractor"], given["device"], given["download"]),
        calls=numbers(given["calls"], "--calls"),
        overrides=line.overrides,
        progress=True,
        **{name: given[name] for name in ("samplers", "num_samples", "metric", "likelihood_images", "device", "out", "fresh")},
    )
    say(evaluation.comparison_table(content, given["metric"]))
    for name in ("comparison.json", "comparison.csv", "comparison.png", "index.html"):
        say(str(Path(given["out"]) / name))
    return 0


VERB = Verb("compare", __doc__, _define_flags, _run, least=1, most=None, goes_on=True)
