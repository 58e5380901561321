"""A comparison as one page: pictures, bits per dimension, curves, every number, what is proven, and how to repeat it.

The page is a function of comparison.json and the pictures: it measures nothing, and no number on it is from elsewhere.
This file decides what is said, `comparison.html` how it looks. The template escapes whatever it is given, as runs, paths
and machines may have any names; it makes one file without scripts, which asks the network for nothing.
"""

from __future__ import annotations

import base64
import itertools
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ctdiff import recipe
from ctdiff.evaluation import proven
from ctdiff.evaluation.plots import COLOURS, DISTANCES
from ctdiff.evaluation.tables import BETTER, decimals, milliseconds, shortfall, with_interval
from ctdiff.sampling import numbers

__all__ = ["comparison_page"]

_BETTER = {"low": "less is better", "high": "more is better", "0.5": "near 0.5 is best", "0": "0 is best"}


def _listed(words: Iterable[Any]) -> str:
    """`a, b and c`."""
    *others, last = map(str, words)
    return f"{', '.join(others)} and {last}" if others else last


def _embedded(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether nothing tells two intervals apart; an end that is NaN tells nothing."""
    return not (float(one["low"]) > float(other["high"]) or float(other["low"]) > float(one["high"]))


def _trained(run: Mapping[str, Any]) -> str:
    training = run["training"]
    unfinished = "" if training["steps"] == training["of"] else f", of {training['of']:,}: not finished"
    return f"{training['steps']:,} steps of {training['batch_size']:,} images{unfinished}"


def _alike(runs: list[Mapping[str, Any]]) -> str:
    """What the runs have in common, as far as that is so."""
    if len(runs) < 2 or len({run["backbone_settings"] for run in runs}) > 1:
        return ""
    same_training = f", trained for the same {_trained(runs[0])}" if len({_trained(run) for run in runs}) == 1 else ""
    return f"They have the same backbone with the same settings{same_training}"


def _cells(content: Mapping[str, Any], run: str) -> list[dict[str, Any]]:
    """The cells of a run: the best one is marked, and so are those whose intervals overlap with its."""
    metric = content["settings"]["metric"]
    cells = [{**cell, "row": cell["metrics"][metric]} for cell in content["cells"] if cell["run"] == run]
    best = min(cells, key=lambda cell: shortfall(metric, cell["row"]["value"]), default=None)
    for cell in cells:
        near = best is not None and _overlap(cell["row"], best["row"])
        cell["mark"] = "best" if cell is best else "near" if near else ""
    return cells


def _statements(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each sampler that appears, and one for the bound of each engine."""
    rows: dict[tuple[str, str], proven.Statement] = {}
    for run in content["runs"]:
        engine = recipe.engines()[run["process"]].title
        for name, settings in run["samplers"].items():
            guided = settings["guidance"]["g"] != 1
            rows[engine, f"{name}, guided" if guided else name] = proven.of_sampler(run["process"], name, guided)
        if run["bits_per_dim"] is not None:
            rows[engine, "bits per dimension"] = proven.of_bound(run["process"])
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


def _commands(content: Mapping[str, Any]) -> list[str]:
    settings = content["settings"]
    flags = {
        "samplers": None if settings["samplers"] is None else ",".join(settings["samplers"]),
        "calls": ",".join(map(str, settings["calls"])),
        "num_samples": len(numbers(settings["seeds"])),
        "metric": settings["metric"],
        "extractor": settings["extractor"]["name"],
        "likelihood_images": settings["likelihood"]["images"],
        "device": None if settings["device"] == "cpu" else settings["device"],
    }
    given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    paths = [run["path"] for run in content["runs"]]
    return [
        *(run["command"] for run in content["runs"]),
        shlex.join(["ctdiff", "compare", *paths, *given, *settings["overrides"]]),
    ]


def _facts(content: Mapping[str, Any]) -> dict[str, str]:
    """What the numbers depend on, beside the commands."""
    settings, data = content["settings"], content["data"]
    extractor, reference, bound = settings["extractor"], settings["reference"], settings["likelihood"]
    bits = {"bits per dimension": f"{bound['draws']} times and noises an image, of the first {bound['images']} held-out images"}
    return {
        **{f"weights of {run['name']}, step {run['step']}": f"SHA-256 {run['weights']}" for run in content["runs"]},
        "training images": f"{data['train']['count']:,}, SHA-256 {data['train']['sha256']}",
        "held-out images": f"{data['held_out']['count']:,}, SHA-256 {data['held_out']['sha256']}",
        "features": f"{extractor['name']}-{extractor['hash']}",
        "seeds": f"samples {settings['seeds']}, intervals {reference['seed']}, bits per dimension {bound['seed']}",
        "intervals": f"{reference['replicates']} halves of the samples",
        **(bits if bound["images"] else {}),
        "environment": ", ".join(f"{name} {value}" for name, value in content["environment"].items()),
    }


def comparison_page(content: Mapping[str, Any], curve: bytes, pictures: Mapping[str, bytes]) -> str:
    """A study as an HTML page of one file.

    Arguments:
        content: what comparison.json says.
        curve: comparison.png.
        pictures: a PNG for each run of which samples are shown, by its name.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only a page needs them

    settings, runs, metric = content["settings"], content["runs"], content["settings"]["metric"]
    plotted = list(dict.fromkeys(cell["run"] for cell in content["cells"]))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(plotted)}
    by_name = {cell["cell"]: cell for cell in content["cells"]}
    best = [by_name[run["shown"]["cell"]] for run in runs if run["shown"] is not None]
    intervals = itertools.combinations([cell["metrics"][metric] for cell in best], 2)
    shown = [
        {
            **run,
            "colour": colours.get(run["name"], "transparent"),
            "picture": _embedded(pictures[run["name"]]) if run["shown"] is not None else "",
            "trained": _trained(run),
            "cells": _cells(content, run["name"]),
        }
        for run in runs
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(decimals=decimals, interval=with_interval, milliseconds=milliseconds)
    return environment.get_template("comparison.html").render(
        title=f"{_listed(run['name'] for run in runs)} at equal network calls",
        engines=_listed(f"{run['name']} ({run['engine']})" for run in runs),
        alike=_alike(runs),
        budgets=_listed(settings["calls"]),
        count=len(numbers(settings["seeds"])),
        shape=" \N{MULTIPLICATION SIGN} ".join(map(str, content["data"]["shape"])),
        metric=metric,
        better=_BETTER[BETTER[metric]],
        logarithmic=metric in DISTANCES,
        row=content["cells"][0]["metrics"][metric],
        best=best,
        apart=any(not _overlap(one, other) for one, other in intervals),
        curve=_embedded(curve),
        runs=shown,
        statements=_statements(content),
        commands=_commands(content),
        facts=_facts(content),
        **{key: content[key] for key in ("settings", "data", "skipped")},
    )
