"""Plots of metrics with intervals and floors, and the curve of a report over its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctdiff.evaluation.report_format import Report
from ctdiff.figures import save_figure
from ctdiff.metrics.measurement import Measurement

__all__ = ["DISTANCES", "checkpoint_curve", "decades", "draw_floor", "draw_intervals", "not_finite_note", "scale_metric"]

DISTANCES = ("FID", "sFID")
"""Metrics that are positive and differ by orders of magnitude. Their axis is logarithmic."""

_CURVE = ("FID", "KID", "coverage", "bits/dim")


def _finite(value: float) -> float:
    """A number for a plot: NaN, which is not drawn, if it is infinite."""
    return value if math.isfinite(value) else math.nan


def draw_intervals(axes: Any, x: Sequence[float], rows: Sequence[Measurement], **style: Any) -> None:
    """Draw values with their intervals. Values that are not finite are crosses at the top.

    Arguments:
        axes: axes of matplotlib.
        x: the positions on the horizontal axis.
        rows: one measurement for each position.
        style: further arguments of `axes.errorbar`.
    """
    values, low, high = ([_finite(getattr(row, key)) for row in rows] for key in ("value", "low", "high"))
    reach = [[v - end for v, end in zip(values, low, strict=True)], [end - v for v, end in zip(values, high, strict=True)]]
    line = axes.errorbar(x, values, reach, **style)[0]
    if odd := [place for place, value in zip(x, values, strict=True) if math.isnan(value)]:
        axes.plot(odd, [0.97] * len(odd), "x", color=line.get_color(), transform=axes.get_xaxis_transform())


def not_finite_note(rows: Sequence[Measurement]) -> str:
    """Return the end of a title that explains the crosses of `draw_intervals`. It is empty if all values are finite."""
    return "" if all(math.isfinite(row.value) for row in rows) else "; crosses at the top: not finite"


def draw_floor(axes: Any, rows: Sequence[Measurement]) -> None:
    """Draw the floor as a line and its interval as a band. All rows have the same floor."""
    floor = rows[0].floor
    if floor is None or not math.isfinite(floor.value):
        return
    if math.isfinite(floor.high - floor.low):
        axes.axhspan(floor.low, floor.high, color="0.85", zorder=0)
    axes.axhline(floor.value, color="0.55", linewidth=1, zorder=0, label=f"floor: {floor.n_fake} held-out images")


def scale_metric(axes: Any, metric: str, rows: Sequence[Measurement]) -> None:
    """Make the vertical axis logarithmic if the metric is a distance. Intervals that reach 0 are cut off."""
    if metric not in DISTANCES:
        return
    floors = [row.floor for row in rows if row.floor is not None]
    values = [row.value for row in [*rows, *floors] if math.isfinite(row.value)]
    if values and min(values) > 0:
        decades(axes, "y")
        axes.set_ylim(bottom=0.6 * min(values))


def decades(axes: Any, axis: str) -> None:
    """Make an axis, "x" or "y", logarithmic with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{axis}scale": "log"})
    chosen = getattr(axes, f"{axis}axis")
    chosen.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    chosen.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    chosen.set_minor_formatter(NullFormatter())


def checkpoint_curve(path: str | Path, report: Report) -> None:
    """Write a PNG of a report's metrics over its checkpoints.

    Arguments:
        path: the file.
        report: the report.
    """
    from matplotlib.figure import Figure  # without pyplot, which would choose a display

    found = report.checkpoints
    names = [name for name in _CURVE if name in found[0].metrics] or list(found[0].metrics)
    figure = Figure(figsize=(3.6 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        rows = [each.metrics[name] for each in found]
        draw_floor(axes, rows)
        draw_intervals(axes, [each.step for each in found], rows, marker="o", markersize=4, capsize=3, linewidth=1.5)
        scale_metric(axes, name, rows)
        axes.set(title=rows[0].name, xlabel="training step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    sampler, drawn = report.settings.sampler, [each.metrics[name] for each in found for name in names]
    figure.suptitle(f"{report.run}: {sampler['name']}, {sampler['steps']} steps{not_finite_note(drawn)}")
    save_figure(path, figure)
