"""Samplers side by side: quality against network calls and time, for runs of either engine.

A study is a table of cells: a run, a sampler, a number of network calls. Each cell is drawn from the same seeds, measured
against the same real images, and written to a file of its own when it is done, its first samples as a picture just before;
so a study that was stopped goes on with the next cell, and one that is extended computes what is new.

Calls, not steps, are what a sample costs: a cell makes as many steps as its calls pay for (see `budgets`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ctdiff.evaluation.budgets import most_steps, step_costs
from ctdiff.evaluation.contenders import Contender, common_data, contenders_of
from ctdiff.evaluation.drawing import draw
from ctdiff.evaluation.features import Extractor
from ctdiff.evaluation.judges import Judge
from ctdiff.evaluation.page import comparison_page
from ctdiff.evaluation.plots import comparison_plot
from ctdiff.evaluation.portraits import SHOWN, keep_picture, kept_bound, kept_picture, portrait
from ctdiff.evaluation.records import digest, environment, keep_result, kept_result, to_json
from ctdiff.evaluation.report import likelihood_settings
from ctdiff.evaluation.tables import comparison_csv, shortfall
from ctdiff.runs import locked
from ctdiff.sampling import chosen_labels, spans
from ctdiff.training.checkpoints import write_atomically

__all__ = ["CELL_FORMAT", "STUDY_FORMAT", "compare_runs"]

CELL_FORMAT, STUDY_FORMAT = "ctdiff-cell-1", "ctdiff-comparison-1"
_LIKELIHOOD_IMAGES = 200


def _run_cell(
    contender: Contender,
    calls: int,
    seeds: list[int],
    judge: Judge,
    cost: Callable[[int], int | None],
    picture: Path,
    progress: bool,
) -> dict[str, Any]:
    """Draw and measure one cell; without metrics and picture where the budget is too small for a step."""
    with contender.run.named():
        steps = most_steps(calls, cost)
    if steps is None:
        return {"steps": None}
    cond = chosen_labels(contender.run, None, len(seeds))
    title = f"{contender.name}, {contender.sampler}, {calls} calls"
    drawn = draw(contender.run, contender.walker(steps), seeds, cond, title=title, progress=progress)
    keep_picture(picture, drawn.images, contender.run.config.data.num_values)  # before the result: a cell that is done has one
    return {
        "steps": steps,
        "network_calls": drawn.network_calls,
        "seconds_per_sample": drawn.seconds / len(seeds),
        "metrics": {name: row.as_dict() for name, row in judge.measure(drawn.images, cond.get("y")).items()},
    }


def compare_runs(
    paths: Sequence[str | Path],
    extractor: Extractor,
    *,
    calls: Sequence[int],
    samplers: Sequence[str] | None = None,
    num_samples: int = 500,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    replicates: int = 50,
    metric: str = "FID",
    likelihood_images: int | None = None,
    draws: int = 8,
    out: str | Path = "comparison",
    fresh: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure every sampler of every run at the same numbers of network calls.

    Writes `comparison.json`, `comparison.csv`, `comparison.png`, all of it as a page, `index.html`, and two files for each
    cell. Cells that are there, of the same weights, settings and machine, are not computed again.

    Arguments:
        paths: the runs' folders; all trained on the same images.
        extractor: what features are made with.
        calls: budgets of network calls a sample; a cell makes as many steps as its budget allows.
        samplers: names, `NAME+K` for K corrector leaps after each step; each run takes those that it has. None is all.
        num_samples: how many samples a cell, with the seeds 0, 1, 2, ...; of conditional runs the classes in turn.
        overrides: flags such as "--config.sampler.ddim.eta=0.5"; each acts on those samplers that have the setting.
        device: where to compute.
        replicates: how many halves of the samples an interval is made of.
        metric: what is plotted, and what the best sampler of a run is the best in.
        likelihood_images: how many held-out images bits per dimension are of, for each run; None is 200, or all there are.
        draws: times and noises of each of them.
        out: the folder.
        fresh: compute every cell, and bits per dimension, anew.
        progress: show progress bars.

    Returns:
        What comparison.json says.

    Raises:
        RunError, CheckpointError, ConfigError, ValueError: a run or an argument cannot be used, or another comparison is at
            work in the folder.
    """
    if not calls or min(calls) < 1:
        raise ValueError(f"calls = {list(calls)}, expected positive numbers")
    contenders = contenders_of(paths, samplers, overrides, device)
    splits, data = common_data(contenders)
    judge = Judge.of(contenders[0].run.config, splits, extractor, replicates=replicates)
    if num_samples < (fewest := 2 * judge.reference.neighbour + 2):
        raise ValueError(f"num_samples = {num_samples}, expected at least {fewest}")
    if metric not in (known := judge.noise(fewest)):
        raise ValueError(f"metric = {metric!r}, expected one of {', '.join(known)}")
    seeds, bound = list(range(num_samples)), likelihood_settings(splits, likelihood_images, draws, _LIKELIHOOD_IMAGES)
    shared: dict[str, Any] = {
        "seeds": spans(seeds),
        "device": device,
        "extractor": extractor.describe(),
        "reference": {"neighbour": judge.reference.neighbour, "replicates": replicates, "seed": judge.reference.seed},
    }
    folder, budgets = Path(out).expanduser(), sorted(set(calls))
    made_of: dict[str, Any] = {"data": data, "environment": environment()}
    asked: dict[str, Any] = {
        "calls": budgets,
        "samplers": samplers and list(samplers),
        "overrides": list(overrides),
        "metric": metric,
    }
    with locked(folder, "comparison", "--out"):
        cells = _cells(contenders, budgets, {**shared, **made_of}, seeds, judge, folder / "cells", fresh, progress)
        if all(cell["steps"] is None for cell in cells):
            listed = ", ".join(map(str, budgets))
            raise ValueError(f"calls = {listed}, expected more: none of the samplers makes a step of so few")
        runs = _runs(contenders)
        for name, entry in runs.items():
            first = next(each for each in contenders if each.name == name)
            key = {**made_of, "device": device, **first.trained()}
            entry["bits_per_dim"] = kept_bound(folder / "bounds", first.run, splits, key, bound, fresh, progress)
        content = {
            "format": STUDY_FORMAT,
            "settings": {**shared, **asked, "likelihood": bound},
            **made_of,
            "runs": list(runs.values()),
            "cells": [cell for cell in cells if cell["steps"] is not None],
            "skipped": [cell for cell in cells if cell["steps"] is None],
        }
        return _written(folder, content, _pictures(contenders, content, seeds, folder / "cells", progress))


def _runs(contenders: Sequence[Contender]) -> dict[str, dict[str, Any]]:
    """Each run by name: what it is, and its samplers' settings."""
    runs: dict[str, dict[str, Any]] = {}
    for each in contenders:
        if each.name not in runs:
            entry = {"name": each.name, "path": str(each.run.path), "step": each.run.step, "weights": each.weights}
            runs[each.name] = {**entry, **portrait(each.run), "samplers": {}}
        runs[each.name]["samplers"][each.sampler] = each.describe()["sampler"]
    return runs


def _cells(
    contenders: Sequence[Contender],
    budgets: Sequence[int],
    shared: dict[str, Any],
    seeds: list[int],
    judge: Judge,
    folder: Path,
    fresh: bool,
    progress: bool,
) -> list[dict[str, Any]]:
    """Every cell: those that are in the folder, and new ones, which then are."""
    folder.mkdir(exist_ok=True)
    costs = {each: step_costs(each.walker, **chosen_labels(each.run, None, 1)) for each in contenders}
    cells: list[dict[str, Any]] = []
    plan = list(itertools.product(contenders, budgets))
    for contender, budget in tqdm(plan, desc="cells", unit="cell", disable=not progress, leave=False):
        what = {**shared, **contender.describe(), "calls": budget}
        name = digest(what)
        path = folder / f"{name}.json"
        if fresh or (result := kept_result(path, CELL_FORMAT, what)) is None:
            picture = path.with_suffix(".png")
            result = _run_cell(contender, budget, seeds, judge, costs[contender], picture, progress)
            keep_result(path, CELL_FORMAT, what, result)
        cells.append({"run": contender.name, "sampler": contender.sampler, "calls": budget, "cell": name, **result})
    return cells


def _pictures(
    contenders: Sequence[Contender], content: dict[str, Any], seeds: list[int], folder: Path, progress: bool
) -> dict[str, bytes]:
    """A PNG for each run: of its sampler that is the best at the largest budget. The content then says which that is."""
    pictures, metric = {}, content["settings"]["metric"]
    for entry in content["runs"]:
        own = [cell for cell in content["cells"] if cell["run"] == entry["name"]]
        last = [cell for cell in own if cell["calls"] == max(each["calls"] for each in own)]
        entry["shown"] = None
        if last:
            best = min(last, key=lambda cell: shortfall(metric, cell["metrics"][metric]["value"]))
            run = next(each.run for each in contenders if (each.name, each.sampler) == (entry["name"], best["sampler"]))
            pictures[entry["name"]] = kept_picture(folder / f"{best['cell']}.png", run, best["steps"], seeds, progress)
            chosen = {key: best[key] for key in ("cell", "sampler", "calls", "network_calls", "steps")}
            entry["shown"] = {**chosen, "samples": min(SHOWN, len(seeds))}
    return pictures


def _written(folder: Path, content: dict[str, Any], pictures: dict[str, bytes]) -> dict[str, Any]:
    """Write the study as JSON, as a table, as a picture and as a page; returns the JSON."""
    text, curve = to_json(content), folder / "comparison.png"
    write_atomically(folder / "comparison.json", text.encode())
    written: dict[str, Any] = json.loads(text)
    write_atomically(folder / "comparison.csv", comparison_csv(written).encode())
    comparison_plot(curve, written, written["settings"]["metric"])
    write_atomically(folder / "index.html", comparison_page(written, curve.read_bytes(), pictures).encode())
    return written
