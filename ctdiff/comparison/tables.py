"""A comparison as text: the table that `ctdiff compare` prints, and comparison.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from ctdiff.comparison.comparison_format import Cell, Comparison
from ctdiff.evaluation.tables import aligned, distance_from_best, floor_value, milliseconds, with_interval
from ctdiff.metrics.measurement import Measurement
from ctdiff.records import as_json

__all__ = ["best_cell", "comparison_csv", "comparison_table"]


def comparison_table(comparison: Comparison, metric: str) -> str:
    """Return the text that `ctdiff compare` prints, with a line for each cell.

    Arguments:
        comparison: the comparison.
        metric: the short name of a metric, such as FID.
    """
    rows = [["run", "sampler", "calls", "steps", metric, "floor", "ms/sample"]]
    for cell in comparison.cells:
        row = cell.metrics[metric]
        cost = [str(cell.network_calls), str(cell.steps)]
        taken = milliseconds(cell.seconds_per_sample)
        rows.append([cell.run, cell.sampler, *cost, with_interval(row), floor_value(row), taken])
    skipped = [f"{cell.run}, {cell.sampler}: {cell.calls} calls are too few for one step" for cell in comparison.skipped]
    return "\n".join([aligned(rows), *skipped])


def _numbers(row: Measurement | None) -> list[object]:
    """Return value, interval and floor. Missing numbers are empty."""
    if row is None:
        return [""] * 4
    return [as_json(row.value), as_json(row.low), as_json(row.high), "" if row.floor is None else as_json(row.floor.value)]


def comparison_csv(comparison: Comparison) -> str:
    """Return a comparison as CSV. Each line has the cost of a cell, and each metric with its interval and floor."""
    table, names = io.StringIO(), list(dict.fromkeys(name for cell in comparison.cells for name in cell.metrics))
    keys = ["run", "sampler", "calls", "steps", "network_calls", "seconds_per_sample"]
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(keys + [f"{name}{end}" for name in names for end in ("", " low", " high", " floor")])
    for cell in comparison.cells:
        measured = [value for name in names for value in _numbers(cell.metrics.get(name))]
        writer.writerow([getattr(cell, key) for key in keys] + measured)
    return table.getvalue()


def best_cell(cells: Iterable[Cell], metric: str) -> Cell | None:
    """Return the cell with the best value of a metric. None if there are no cells."""
    return min(cells, key=lambda cell: distance_from_best(metric, cell.metrics[metric].value), default=None)
