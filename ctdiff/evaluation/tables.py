"""Reports as text: the table that `ctdiff evaluate` prints, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tabulate import tabulate

from ctdiff.evaluation.report_format import Bound, CheckpointReport, Report
from ctdiff.metrics.measurement import Measurement

__all__ = [
    "BETTER",
    "aligned",
    "decimals",
    "distance_from_best",
    "evaluation_table",
    "floor_value",
    "milliseconds",
    "number",
    "with_interval",
]

BETTER = {
    "FID": "low", "sFID": "low", "KID": "low", "precision": "high", "recall": "high", "density": "high", "coverage": "high",
    "IS": "high", "class-KL": "low", "agreement": "high", "nearer-to-train": "0.5", "copies": "0", "bits/dim": "low",
}  # fmt: skip
"""Which values of a metric are better: low values, high values, or values near a number."""

_CURVE = ("FID", "KID", "precision", "recall", "coverage", "bits/dim")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of cells as lines of text. All rows have equally many cells. Only the first column is aligned left."""
    columns = ("left", *["right"] * (len(rows[0]) - 1))
    text: str = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=columns)
    return "\n".join(line.rstrip() for line in text.splitlines())


def distance_from_best(metric: str, value: float) -> float:
    """Return a sort key for values of a metric. The best value has the smallest key, and NaN has the largest."""
    better = BETTER[metric]
    distance = value if better == "low" else -value if better == "high" else abs(value - float(better))
    return math.inf if math.isnan(distance) else distance


def number(x: float) -> str:
    """Write a number with about four digits: `3.410`, `46.00`, `440`."""
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3f}" if abs(x) < 10 else f"{x:.2f}"


def decimals(x: float, digits: int) -> str:
    """Write a number with a fixed number of digits after the point: `3.410`. Infinities and NaN are `inf` and `nan`."""
    return f"{x:.{digits}f}"


def milliseconds(seconds: float) -> str:
    """Write a time in seconds as milliseconds with three digits: `5.12`, `240`, `1,870`."""
    x = float(f"{1000 * seconds:.3g}")
    return f"{x:,.0f}" if x >= 1000 else f"{x:g}"


def with_interval(row: Measurement) -> str:
    """Write a measurement with its interval: `3.410 [3.020, 3.800]`."""
    return f"{number(row.value)} [{number(row.low)}, {number(row.high)}]"


def floor_value(row: Measurement) -> str:
    """Write the value of the floor. The text is empty if there is no floor."""
    return "" if row.floor is None else number(row.floor.value)


def _curve_table(checkpoints: Sequence[CheckpointReport]) -> str:
    names = [name for name in _CURVE if name in checkpoints[0].metrics] or list(checkpoints[0].metrics)
    rows = [[str(each.step), *(with_interval(each.metrics[name]) for name in names)] for each in checkpoints]
    return aligned([["step", *names], *rows])


def _checkpoint_table(found: CheckpointReport, noise: dict[str, Measurement]) -> str:
    rows = [["metric", "better", "samples", "floor", "noise"]]
    for name, row in found.metrics.items():
        rows.append([row.name, BETTER.get(name, ""), with_interval(row), floor_value(row), number(noise[name].value)])
    return aligned(rows)


def _notes(report: Report) -> list[str]:
    found, settings, data = report.checkpoints[-1], report.settings, report.data
    sampler, counted = settings.sampler, next(iter(found.metrics.values()))
    strength = sampler["guidance"].get("g", sampler["guidance"]["name"])  # a scale of the user may have no g
    guided = f", guidance {strength}" if strength != 1 else ""
    notes = [
        f"{counted.n_fake} samples of step {found.step} (seeds {settings.seeds}), {sampler['name']}, "
        f"{found.network_calls} network calls a sample{guided}, {milliseconds(found.seconds_per_sample)} ms each"
    ]
    if counted.floor is not None:
        notes.append(
            f"against {data.train.count} training images; floor: {counted.floor.n_fake} held-out images; "
            "brackets: 95 % for chance in the samples"
        )
    if settings.extractor.refused is not None:
        notes.append(f"only metrics without an extractor were measured: {settings.extractor.refused}")
    if counted.floor is not None and counted.floor.n_fake < counted.n_fake:
        notes.append("there are fewer held-out images than samples: with as many, the floors of FID and sFID would be lower")
    return notes if found.bits_per_dim is None else [*notes, *_bound_notes(found.bits_per_dim)]


def _bound_notes(bits: Bound) -> list[str]:
    terms = " + ".join(f"{name} {decimals(getattr(bits, name), 4)}" for name in ("diffusion", "prior", "reconstruction"))
    return [
        f"bits/dim {decimals(bits.value, 4)} +- {decimals(bits.standard_error, 4)} (Monte Carlo, for these images) = "
        f"{terms}, of {bits.num_images} held-out images; noise: log2 of the number of values",
        f"bits/dim of other images: +- {decimals(bits.image_error, 4)}, as single images scatter by "
        f"{decimals(bits.image_spread, 4)}; largest weight {decimals(bits.largest_weight, 1)} times the mean, "
        f"largest share of a draw {decimals(100 * bits.largest_share, 2)} %, "
        f"effective draws {decimals(bits.effective_draws, 0)}",
    ]


def evaluation_table(report: Report) -> str:
    """Return the text that `ctdiff evaluate` prints: a line for each of several checkpoints, and a table of the last one."""
    blocks = [_curve_table(report.checkpoints)] if len(report.checkpoints) > 1 else []
    blocks.append(_checkpoint_table(report.checkpoints[-1], report.noise))
    return "\n\n".join([*blocks, "\n".join(_notes(report))])
