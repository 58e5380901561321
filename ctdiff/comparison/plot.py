"""The plot of a comparison: one metric over network calls and over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctdiff.comparison.comparison_format import Comparison
from ctdiff.evaluation.plots import decades, draw_floor, draw_intervals, not_finite_note, scale_metric
from ctdiff.figures import save_figure

__all__ = ["COLOURS", "comparison_plot"]

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")
"""The colours of runs."""

_STYLES: tuple[tuple[Any, str], ...] = (
    ("-", "o"),
    ("--", "s"),
    ((0, (1, 1.2)), "^"),
    ("-.", "D"),
    ((0, (6, 2, 1, 2, 1, 2)), "v"),
    ((0, (3, 4)), "P"),
)
"""The lines and markers of samplers."""


def comparison_plot(path: str | Path, comparison: Comparison, metric: str) -> None:
    """Write a PNG of one metric over network calls and over time. Each run has a colour, each sampler a line style.

    Arguments:
        path: the file.
        comparison: the comparison.
        metric: the short name of the metric, such as FID.
    """
    from matplotlib.figure import Figure  # without pyplot, which would choose a display

    rows = [cell.metrics[metric] for cell in comparison.cells]
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes in (left, right):
        draw_floor(axes, rows)
    _draw_series(left, right, comparison, metric)
    scale_metric(left, metric, rows)
    left.set_xscale("log", base=2)
    calls = comparison.settings.calls
    left.set_xticks(calls, [str(each) for each in calls])
    left.set_xticks([], minor=True)
    decades(right, "x")
    left.set(xlabel="network calls a sample", ylabel=rows[0].name)
    threads = comparison.environment.threads
    right.set(xlabel=f"ms a sample, {threads} thread{'s' if threads > 1 else ''}")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    title = f"{rows[0].name} of {rows[0].n_fake} samples; bars and band: 95 % for chance in the samples"
    figure.suptitle(title + not_finite_note(rows))
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=9)
    save_figure(path, figure)


def _draw_series(left: Any, right: Any, comparison: Comparison, metric: str) -> None:
    """Draw a line for each sampler of each run, over network calls on the left and over time on the right."""
    cells = comparison.cells
    runs, samplers = (list(dict.fromkeys(getattr(cell, key) for cell in cells)) for key in ("run", "sampler"))
    series = list(dict.fromkeys((cell.run, cell.sampler) for cell in cells))
    for place, (run, sampler) in enumerate(series):
        chosen = [cell for cell in cells if (cell.run, cell.sampler) == (run, sampler)]
        line, marker = _STYLES[samplers.index(sampler) % len(_STYLES)]
        style = {"color": COLOURS[runs.index(run) % len(COLOURS)], "linestyle": line, "marker": marker}
        shift = 2.0 ** (0.05 * (place - (len(series) - 1) / 2))  # points at equal calls would hide each other
        calls = [cell.network_calls * shift for cell in chosen]
        times = [1000 * cell.seconds_per_sample for cell in chosen]
        label, measured = f"{run}, {sampler}".replace("$", r"\$"), [cell.metrics[metric] for cell in chosen]
        for axes, x in ((left, calls), (right, times)):
            draw_intervals(axes, x, measured, label=label, markersize=5, capsize=2.5, linewidth=1.6, **style)
