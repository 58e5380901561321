"""A comparison as one HTML page: pictures, bits per dimension, curves, all numbers, proven properties, and the commands.

The page depends only on comparison.json and the pictures. All its numbers are in the JSON file. This module makes the texts,
and `comparison.html` is the template. The template escapes all values, because runs, paths and machines can have any names. The
page is one file without scripts, and it loads nothing from the network.
"""

from __future__ import annotations

import base64
import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctdiff import recipe
from ctdiff.comparison.comparison_format import Cell, Comparison, RunCard
from ctdiff.comparison.plot import COLOURS
from ctdiff.comparison.tables import best_cell
from ctdiff.evaluation.plots import DISTANCES
from ctdiff.evaluation.tables import BETTER, decimals, milliseconds, with_interval
from ctdiff.metrics.measurement import Measurement
from ctdiff.sampling import numbers

__all__ = ["comparison_page"]

_BETTER = {"low": "less is better", "high": "more is better", "0.5": "near 0.5 is best", "0": "0 is best"}


def _listed(words: Iterable[Any]) -> str:
    """`a, b and c`."""
    *others, last = map(str, words)
    return f"{', '.join(others)} and {last}" if others else last


def _embedded(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"


def overlap(one: Measurement, other: Measurement) -> bool:
    """Return whether two intervals overlap. An interval with an end that is NaN overlaps with all others."""
    return not (one.low > other.high or other.low > one.high)


def _trained(card: RunCard) -> str:
    training = card.training
    unfinished = "" if training.steps == training.of else f", of {training.of:,}: not finished"
    return f"{training.steps:,} steps of {training.batch_size:,} images{unfinished}"


def _alike(cards: Sequence[RunCard]) -> str:
    """Return a sentence about what all runs have in common. It is empty if their backbones differ."""
    if len(cards) < 2 or len({card.backbone_settings for card in cards}) > 1:
        return ""
    same_training = f", trained for the same {_trained(cards[0])}" if len({_trained(card) for card in cards}) == 1 else ""
    return f"They have the same backbone with the same settings{same_training}"


@dataclass(frozen=True)
class _Line:
    """A line of the table of cells: the cell, its metric, and a mark: "best", "near" (overlaps with the best) or empty."""

    cell: Cell
    row: Measurement
    mark: str


def _lines(comparison: Comparison, run: str) -> list[_Line]:
    """The lines of a run."""
    metric, cells = comparison.settings.metric, [cell for cell in comparison.cells if cell.run == run]
    best, lines = best_cell(cells, metric), []
    for cell in cells:
        near = best is not None and overlap(cell.metrics[metric], best.metrics[metric])
        lines.append(_Line(cell, cell.metrics[metric], "best" if cell is best else "near" if near else ""))
    return lines


def _statements(cards: Sequence[RunCard]) -> list[dict[str, Any]]:
    """The proven properties: a row for each sampler, and one for the bound of each engine."""
    titles = {name: engine.title for name, engine in recipe.engines().items()}
    rows = {
        (titles.get(card.process, card.process), name): statement for card in cards for name, statement in card.proven.items()
    }
    return [
        {"engine": engine, "name": name, "text": statement.text, "tests": _by_file(statement.tests)}
        for (engine, name), statement in rows.items()
    ]


def _by_file(tests: Iterable[str]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for test in tests:
        file, _, name = test.partition("::")
        files.setdefault(file, []).append(name)
    return files


def _commands(comparison: Comparison) -> list[str]:
    """The commands that train the runs and make the comparison."""
    settings = comparison.settings
    flags = {
        "samplers": None if settings.samplers is None else ",".join(settings.samplers),
        "calls": ",".join(map(str, settings.calls)),
        "num_samples": len(numbers(settings.seeds)),
        "metric": settings.metric,
        "extractor": settings.extractor.name,
        "likelihood_images": settings.likelihood.images,
        "device": None if settings.device == "cpu" else settings.device,
    }
    given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    paths = [card.path for card in comparison.runs]
    return [
        *(card.command for card in comparison.runs),
        shlex.join(["ctdiff", "compare", *paths, *given, *settings.overrides]),
    ]


def _facts(comparison: Comparison) -> dict[str, str]:
    """Return everything else that the numbers depend on, in words."""
    settings, data = comparison.settings, comparison.data
    extractor, bound = settings.extractor, settings.likelihood
    bits = {
        "bits per dimension": f"{bound.draws} random times and noises an image, of the first {bound.images} held-out images"
    }
    return {
        **{f"weights of {card.name}, step {card.step}": f"SHA-256 {card.weights}" for card in comparison.runs},
        "training images": f"{data.train.count:,}, SHA-256 {data.train.sha256}",
        "held-out images": f"{data.held_out.count:,}, SHA-256 {data.held_out.sha256}",
        "features": f"{extractor.name}-{extractor.hash}",
        "seeds": f"samples {settings.seeds}, intervals {settings.reference.seed}, bits per dimension {bound.seed}",
        "intervals": f"{settings.reference.replicates} halves of the samples",
        **(bits if bound.images else {}),
        "environment": ", ".join(f"{name} {value}" for name, value in vars(comparison.environment).items()),
    }


def _articles(comparison: Comparison, pictures: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Return the values of each run for the template."""
    plotted = list(dict.fromkeys(cell.run for cell in comparison.cells))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(plotted)}
    return [
        {
            **vars(card),
            "colour": colours.get(card.name, "transparent"),
            "picture": _embedded(pictures[card.name]) if card.shown is not None else "",
            "trained": _trained(card),
            "lines": _lines(comparison, card.name),
        }
        for card in comparison.runs
    ]


def comparison_page(comparison: Comparison, curve: bytes, pictures: Mapping[str, bytes]) -> str:
    """Return the HTML page of a comparison, in one file.

    Arguments:
        comparison: the comparison.
        curve: the content of comparison.png.
        pictures: a dictionary from the names of the runs to PNG files. A run without samples to show is not in it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only a page needs them

    settings, cards, metric = comparison.settings, comparison.runs, comparison.settings.metric
    by_name = {cell.cell: cell for cell in comparison.cells}
    best = [by_name[card.shown.cell] for card in cards if card.shown is not None]
    intervals = itertools.combinations([cell.metrics[metric] for cell in best], 2)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(decimals=decimals, interval=with_interval, milliseconds=milliseconds)
    return environment.get_template("comparison.html").render(
        title=f"{_listed(card.name for card in cards)} at equal network calls",
        engines=_listed(f"{card.name} ({card.engine})" for card in cards),
        alike=_alike(cards),
        calls=_listed(settings.calls),
        count=len(numbers(settings.seeds)),
        shape=" \N{MULTIPLICATION SIGN} ".join(map(str, comparison.data.shape)),
        metric=metric,
        better=_BETTER[BETTER[metric]],
        logarithmic=metric in DISTANCES,
        row=comparison.cells[0].metrics[metric],
        best=best,
        apart=any(not overlap(one, other) for one, other in intervals),
        curve=_embedded(curve),
        runs=_articles(comparison, pictures),
        statements=_statements(cards),
        commands=_commands(comparison),
        facts=_facts(comparison),
        settings=settings,
        data=comparison.data,
        skipped=comparison.skipped,
    )
