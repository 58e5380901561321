"""Reports as text: what the commands print, and the lines of a table for other programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "BETTER",
    "aligned",
    "comparison_csv",
    "comparison_table",
    "decimals",
    "evaluation_table",
    "milliseconds",
    "number",
    "shortfall",
    "with_interval",
]

BETTER = {
    "FID": "low", "sFID": "low", "KID": "low", "precision": "high", "recall": "high", "density": "high", "coverage": "high",
    "IS": "high", "class-KL": "low", "agreement": "high", "nearer-to-train": "0.5", "copies": "0", "bits/dim": "low",
}  # fmt: skip
"""Which values of a metric are better: low ones, high ones, or those near a number."""

_CURVE = ("FID", "KID", "precision", "recall", "coverage", "bits/dim")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells as lines, in columns; the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def shortfall(metric: str, value: Any) -> float:
    """How far a metric is from where it is best, in an order of its own: less is better, and NaN is the worst."""
    better, x = BETTER[metric], float(value)
    distance = x if better == "low" else -x if better == "high" else abs(x - float(better))
    return math.inf if math.isnan(distance) else distance


def number(value: Any) -> str:
    """About four digits: `3.410`, `46.00`, `440`."""
    x = float(value)
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3f}" if abs(x) < 10 else f"{x:.2f}"


def decimals(value: Any, digits: int) -> str:
    """So many digits after the point: `3.410`; `inf` and `nan`, which reports hold as strings, as they are."""
    return f"{float(value):.{digits}f}"


def milliseconds(seconds: float) -> str:
    """Three digits: `5.12`, `240`, `1,870`."""
    x = float(f"{1000 * seconds:.3g}")
    return f"{x:,.0f}" if x >= 1000 else f"{x:g}"


def with_interval(row: Mapping[str, Any]) -> str:
    """`3.410 [3.020, 3.800]`."""
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"


def _floor(row: Mapping[str, Any]) -> str:
    return "" if row["floor"] is None else number(row["floor"]["value"])


def _checkpoint_table(found: Mapping[str, Any], noise: Mapping[str, Any]) -> str:
    rows = [["metric", "better", "samples", "floor", "noise"]]
    for name, row in found["metrics"].items():
        rows.append([row["name"], BETTER.get(name, ""), with_interval(row), _floor(row), number(noise[name]["value"])])
    return aligned(rows)


def _notes(content: Mapping[str, Any]) -> list[str]:
    found, sampler = content["checkpoints"][-1], content["settings"]["sampler"]
    data, rows = content["data"], found["metrics"]
    guided = f", guidance {sampler['guidance']['g']}" if sampler["guidance"]["g"] != 1 else ""
    counted = next(iter(rows.values()))
    notes = [
        f"{counted['n_fake']} samples of step {found['step']} (seeds {content['settings']['seeds']}), {sampler['name']}, "
        f"{found['network_calls']} network calls a sample{guided}, {milliseconds(found['seconds_per_sample'])} ms each",
        f"against {data['train']['count']} training images; floor: {counted['floor']['n_fake']} held-out images; "
        "brackets: 95 % for chance in the samples",
    ]
    if (refused := content["settings"]["extractor"].get("refused")) is not None:
        notes.append(f"only what needs no extractor was measured: {refused}")
    if counted["floor"]["n_fake"] < counted["n_fake"]:
        notes.append("there are no more held-out images: the floor of as many as samples would be lower in FID and sFID")
    if (bits := found.get("bits_per_dim")) is not None:
        terms = " + ".join(f"{name} {decimals(bits[name], 4)}" for name in ("diffusion", "prior", "reconstruction"))
        notes.append(
            f"bits/dim {decimals(bits['value'], 4)} +- {decimals(bits['standard_error'], 4)} (Monte Carlo, for these images) = "
            f"{terms}, of {bits['num_images']} held-out images; noise: log2 of the number of values"
        )
        share = 100 * float(bits["largest_share"])
        notes.append(
            f"bits/dim of other images: +- {decimals(bits['image_error'], 4)}, as single images scatter by "
            f"{decimals(bits['image_spread'], 4)}; largest weight {decimals(bits['largest_weight'], 1)} times the mean, "
            f"largest share of a draw {decimals(share, 2)} %, effective draws {decimals(bits['effective_draws'], 0)}"
        )
    return notes


def evaluation_table(content: Mapping[str, Any]) -> str:
    """What `ctdiff evaluate` prints of a report; of several checkpoints a line each, and the last in full."""
    blocks = []
    if len(content["checkpoints"]) > 1:
        names = [name for name in _CURVE if name in content["checkpoints"][0]["metrics"]]
        names = names or list(content["checkpoints"][0]["metrics"])
        rows = [["step", *names]]
        for found in content["checkpoints"]:
            rows.append([str(found["step"]), *(with_interval(found["metrics"][name]) for name in names)])
        blocks.append(aligned(rows))
    blocks.append(_checkpoint_table(content["checkpoints"][-1], content["noise"]))
    return "\n\n".join([*blocks, "\n".join(_notes(content))])


def comparison_table(content: Mapping[str, Any], metric: str) -> str:
    """What `ctdiff compare` prints of a study: a line a cell."""
    rows = [["run", "sampler", "calls", "steps", metric, "floor", "ms/sample"]]
    for cell in content["cells"]:
        row = cell["metrics"][metric]
        cost = [str(cell["network_calls"]), str(cell["steps"])]
        taken = milliseconds(cell["seconds_per_sample"])
        rows.append([cell["run"], cell["sampler"], *cost, with_interval(row), _floor(row), taken])
    lines = [aligned(rows)]
    lines += [f"{cell['run']}, {cell['sampler']}: not with {cell['calls']} calls" for cell in content["skipped"]]
    return "\n".join(lines)


def comparison_csv(content: Mapping[str, Any]) -> str:
    """A study with a line for each cell: what it cost, and every metric with its interval and its floor."""
    table = io.StringIO()
    names = list(dict.fromkeys(name for cell in content["cells"] for name in cell["metrics"]))
    keys = ["run", "sampler", "calls", "steps", "network_calls", "seconds_per_sample"]
    writer = csv.writer(table, lineterminator="\n")
    ends = ("value", "low", "high")
    writer.writerow(keys + [f"{name}{end}" for name in names for end in ("", " low", " high", " floor")])
    for cell in content["cells"]:
        rows = [cell["metrics"].get(name) for name in names]
        values = [
            [""] * 4 if row is None else [*(row[end] for end in ends), (row["floor"] or {}).get("value", "")] for row in rows
        ]
        writer.writerow([cell[key] for key in keys] + [value for four in values for value in four])
    return table.getvalue()
