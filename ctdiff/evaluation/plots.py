"""Curves of quality: over a run's checkpoints, and over what samples cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["COLOURS", "DISTANCES", "checkpoint_curve", "comparison_plot"]

_DPI = 120
_CURVE = ("FID", "KID", "coverage", "bits/dim")
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")
"""The colour of each run."""
DISTANCES = ("FID", "sFID")
"""Metrics that are positive and spread over decades: their axis is logarithmic."""
_STYLES: tuple[tuple[Any, str], ...] = (
    ("-", "o"),
    ("--", "s"),
    ((0, (1, 1.2)), "^"),
    ("-.", "D"),
    ((0, (6, 2, 1, 2, 1, 2)), "v"),
    ((0, (3, 4)), "P"),
)
"""Line and marker of each sampler."""


_ODD = "crosses at the top: not finite"


def _finite(row: Mapping[str, Any], key: str) -> float:
    """A number of a measurement to draw: NaN, which is not drawn, where it is infinite."""
    value = float(row[key])
    return value if math.isfinite(value) else math.nan


def _draw(axes: Any, x: Sequence[float], rows: Sequence[Mapping[str, Any]], **style: Any) -> None:
    """Values with their intervals; those that have no place on the axis are crosses at its upper end."""
    values, low, high = ([_finite(row, key) for row in rows] for key in ("value", "low", "high"))
    reach = [[v - end for v, end in zip(values, low, strict=True)], [end - v for v, end in zip(values, high, strict=True)]]
    line = axes.errorbar(x, values, reach, **style)[0]
    if odd := [place for place, value in zip(x, values, strict=True) if math.isnan(value)]:
        axes.plot(odd, [0.97] * len(odd), "x", color=line.get_color(), transform=axes.get_xaxis_transform())


def _note(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"; {_ODD}" if any(math.isnan(_finite(row, "value")) for row in rows) else ""


def _band(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """The floor: of all rows, as it is of as many images."""
    floor = rows[0]["floor"]
    if floor is None or math.isnan(_finite(floor, "value")):
        return
    low, value, high = (_finite(floor, key) for key in ("low", "value", "high"))
    if not math.isnan(high - low):
        axes.axhspan(low, high, color="0.85", zorder=0)
    axes.axhline(value, color="0.55", linewidth=1, zorder=0, label=f"floor: {floor['n_fake']} held-out images")


def _scale(axes: Any, metric: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Decades for distances; an interval that reaches 0 or less is cut off at the picture's edge."""
    if metric not in DISTANCES:
        return
    floors = [row["floor"] for row in rows if row["floor"] is not None]
    values = [value for row in [*rows, *floors] if not math.isnan(value := _finite(row, "value"))]
    if values and min(values) > 0:
        _decades(axes, "y")
        axes.set_ylim(bottom=0.6 * min(values))


def _decades(axes: Any, axis: str) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{axis}scale": "log"})
    chosen = getattr(axes, f"{axis}axis")
    chosen.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    chosen.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    chosen.set_minor_formatter(NullFormatter())


def checkpoint_curve(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a PNG of a report's metrics over its checkpoints.

    Arguments:
        path: the file.
        content: what `evaluate_run` gives.
    """
    from matplotlib.figure import Figure  # without pyplot, which would choose a display

    found = content["checkpoints"]
    names = [name for name in _CURVE if name in found[0]["metrics"]] or list(found[0]["metrics"])
    figure = Figure(figsize=(3.6 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        rows = [each["metrics"][name] for each in found]
        _band(axes, rows)
        _draw(axes, [each["step"] for each in found], rows, marker="o", markersize=4, capsize=3, linewidth=1.5)
        _scale(axes, name, rows)
        axes.set(title=rows[0]["name"], xlabel="training step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    sampler = content["settings"]["sampler"]
    drawn = [each["metrics"][name] for each in found for name in names]
    figure.suptitle(f"{content['run']}: {sampler['name']}, {sampler['steps']} steps{_note(drawn)}")
    figure.savefig(path, dpi=_DPI)


def comparison_plot(path: str | Path, content: Mapping[str, Any], metric: str) -> None:
    """Write a PNG of a study: one metric against network calls, and against time; a colour a run, a line a sampler.

    Arguments:
        path: the file.
        content: what `compare_runs` gives.
        metric: its short name, such as FID.
    """
    from matplotlib.figure import Figure

    cells = content["cells"]
    rows = [cell["metrics"][metric] for cell in cells]
    runs, samplers = (list(dict.fromkeys(cell[key] for cell in cells)) for key in ("run", "sampler"))
    series = list(dict.fromkeys((cell["run"], cell["sampler"]) for cell in cells))
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes in (left, right):
        _band(axes, rows)
    for place, (run, sampler) in enumerate(series):
        chosen = [cell for cell in cells if (cell["run"], cell["sampler"]) == (run, sampler)]
        measured = [cell["metrics"][metric] for cell in chosen]
        line, marker = _STYLES[samplers.index(sampler) % len(_STYLES)]
        style = {"color": COLOURS[runs.index(run) % len(COLOURS)], "linestyle": line, "marker": marker}
        aside = 2.0 ** (0.05 * (place - (len(series) - 1) / 2))  # beside one another, where calls are the same
        calls = [cell["network_calls"] * aside for cell in chosen]
        times = [1000 * cell["seconds_per_sample"] for cell in chosen]
        for axes, x in ((left, calls), (right, times)):
            _draw(
                axes,
                x,
                measured,
                label=f"{run}, {sampler}".replace("$", r"\$"),
                markersize=5,
                capsize=2.5,
                linewidth=1.6,
                **style,
            )
    _scale(left, metric, rows)
    left.set_xscale("log", base=2)
    budgets = content["settings"]["calls"]
    left.set_xticks(budgets, [str(budget) for budget in budgets])
    left.set_xticks([], minor=True)
    _decades(right, "x")
    left.set(xlabel="network calls a sample", ylabel=rows[0]["name"])
    threads = content["environment"]["threads"]
    right.set(xlabel=f"ms a sample, {threads} thread{'s' if threads > 1 else ''}")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    figure.suptitle(
        f"{rows[0]['name']} of {rows[0]['n_fake']} samples; bars and band: 95 % for chance in the samples{_note(rows)}"
    )
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=9)
    figure.savefig(path, dpi=_DPI)
