"""Samplers side by side: quality against network calls and time, for runs of either engine.

A study is a table of cells: a run, a sampler, a number of network calls. Each cell is drawn from the same seeds, measured
against the same real images, and written to a file of its own when it is done; so a study that was stopped goes on with
the next cell, and one that is extended computes what is new.

Calls, not steps, are what a sample costs: a cell makes as many steps as its calls pay for (see `budgets`).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from ctdiff import build
from ctdiff import config as configuration
from ctdiff.evaluation.budgets import most_steps, step_costs
from ctdiff.evaluation.drawing import draw
from ctdiff.evaluation.features import Extractor
from ctdiff.evaluation.judges import Judge, run_splits
from ctdiff.evaluation.plots import comparison_plot
from ctdiff.evaluation.records import data_record, digest, environment, file_hash, ranges, read_json, to_json
from ctdiff.evaluation.report import weights_file
from ctdiff.runs import Run, load_run
from ctdiff.sampling import chosen_labels
from ctdiff.training.checkpoints import write_atomically
from diffusion_core import Sampler

__all__ = ["CELL_FORMAT", "STUDY_FORMAT", "compare_runs"]

CELL_FORMAT, STUDY_FORMAT = "ctdiff-cell-1", "ctdiff-comparison-1"


@dataclass(frozen=True, eq=False)
class _Contender:
    """A run and one of its samplers.

    Arguments:
        run: the run; its configuration names the sampler.
        name: what the run is called.
        sampler: what the sampler is called: `tau_leaping+2` has two corrector leaps a step.
        weights: the hash of the run's weights.
    """

    run: Run
    name: str
    sampler: str
    weights: str

    def walker(self, steps: int) -> Sampler:
        """The sampler with a number of steps."""
        return self.run.sampler(steps)

    def describe(self) -> dict[str, Any]:
        """All that a cell of it depends on, but the number of steps."""
        config = self.run.config.to_dict()
        sampler = {key: value for key, value in config["sampler"].items() if key not in ("steps", "num_samples")}
        trained = {key: config[key] for key in ("data", "model", "process")}
        return {"weights": self.weights, "sampler": sampler, "trained": digest(trained)}


def _named(paths: Sequence[str | Path]) -> list[str]:
    """The folders' names, or their whole paths where names are the same."""
    names = [Path(path).name for path in paths]
    chosen = names if len(set(names)) == len(names) else [str(path) for path in paths]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"runs {', '.join(chosen)}: expected different ones")
    return chosen


def _contenders(
    paths: Sequence[str | Path], samplers: Sequence[str] | None, overrides: Sequence[str], device: str
) -> list[_Contender]:
    """Every run with every sampler that it has.

    Raises:
        ValueError: a sampler that no run has, a run that has none of them, or another argument that cannot be used.
    """
    result: list[_Contender] = []
    offered: dict[str, list[str]] = {}
    taken: set[str] = set()
    for path, name in zip(paths, _named(paths), strict=True):
        run = load_run(path, None, True, device)
        configuration.override(run.config, overrides, sections=("sampler",))
        offered[name] = list(build.choices(run.config)["sampler.name"])
        for label in dict.fromkeys(offered[name] if samplers is None else samplers):
            match = re.fullmatch(r"(\w+?)(?:\+(\d+))?", label)
            if match is None:
                raise ValueError(f"sampler = {label!r}, expected a name, or a name and its corrector steps: tau_leaping+2")
            if match[1] not in offered[name] or (match[2] and build.is_gaussian(run.config)):
                continue
            taken.add(label)
            own = replace(run, config=ConfigDict(run.config.to_dict()))
            own.config.sampler.name = match[1]
            if match[2]:
                own.config.sampler.corrector_steps = int(match[2])
            leaps = 0 if build.is_gaussian(own.config) else own.config.sampler.corrector_steps
            called = f"{match[1]}+{leaps}" if leaps else match[1]
            result.append(_Contender(own, name, called, file_hash(weights_file(own))))
    listed = "; ".join(f"{name} has {', '.join(names)}" for name, names in offered.items())
    for label in samplers or ():
        known = [name for names in offered.values() for name in names]
        if label.partition("+")[0] not in known:
            raise ValueError(f"sampler = {label!r}, expected one of {', '.join(dict.fromkeys(known))}")
        if label not in taken:
            raise ValueError(f"no run has the sampler {label}: correctors are of the discrete engine")
    if lacking := [name for name in offered if name not in {each.name for each in result}]:
        raise ValueError(f"{lacking[0]} has none of the samplers {', '.join(samplers or ())}: {listed}")
    return result


def _common_data(contenders: Sequence[_Contender]) -> tuple[Any, dict[str, Any]]:
    """The real images of all runs, and which they are.

    Raises:
        ValueError: they are not the same.
    """
    first = contenders[0]
    splits = run_splits(first.run.config)
    record = data_record(splits)
    for other in contenders:
        if other.name != first.name and data_record(run_splits(other.run.config)) != record:
            changed = configuration.differences(first.run.config, other.run.config)
            keys = [f"{key} = {a!r} and {b!r}" for key, (a, b) in changed.items() if key.startswith("data.")]
            raise ValueError(
                f"{first.name} and {other.name} were trained on different images ({'; '.join(keys) or 'of one name'}), "
                "expected the same: samples are held against one set"
            )
    return splits, record


def _cell(path: Path, what: Mapping[str, Any], fresh: bool) -> dict[str, Any] | None:
    """The result of a cell, if it is there."""
    if fresh or not path.exists():
        return None
    try:
        found = read_json(path, CELL_FORMAT)
    except ValueError:  # damaged: it is made anew
        return None
    return found["result"] if found.get("what") == json.loads(to_json(what)) else None


def _run_cell(
    contender: _Contender, calls: int, seeds: list[int], judge: Judge, cost: Callable[[int], int | None], progress: bool
) -> dict[str, Any]:
    """Draw and measure one cell; without metrics where the budget is too small for a step."""
    steps = most_steps(calls, cost)
    if steps is None:
        return {"steps": None}
    y = chosen_labels(contender.run, None, len(seeds))
    title = f"{contender.name}, {contender.sampler}, {calls} calls"
    drawn = draw(contender.run, contender.walker(steps), seeds, y, title=title, progress=progress)
    return {
        "steps": steps,
        "network_calls": drawn.network_calls,
        "seconds_per_sample": drawn.seconds / len(seeds),
        "metrics": {name: row.as_dict() for name, row in judge.measure(drawn.images, y).items()},
    }


def _plan(contenders: Sequence[_Contender], calls: Sequence[int]) -> Iterator[tuple[_Contender, int]]:
    for contender in contenders:
        for budget in sorted(set(calls)):
            yield contender, budget


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
    out: str | Path = "comparison",
    fresh: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure every sampler of every run at the same numbers of network calls.

    Writes `comparison.json`, `comparison.csv`, `comparison.png` and a file for each cell. Cells that are there,
    of the same weights, settings and machine, are not computed again.

    Arguments:
        paths: the runs' folders; all trained on the same images.
        extractor: what features are made with.
        calls: budgets of network calls a sample; a cell makes as many steps as its budget allows.
        samplers: names, `NAME+K` for K corrector leaps after each step; each run takes those that it has. None is all.
        num_samples: how many samples a cell, with the seeds 0, 1, 2, ...; of conditional runs the classes in turn.
        overrides: flags such as "--config.sampler.grid=cosine", for every run.
        device: where to compute.
        replicates: how many halves of the samples an interval is made of.
        metric: what is plotted.
        out: the folder.
        fresh: compute every cell anew.
        progress: show progress bars.

    Returns:
        What comparison.json says.

    Raises:
        RunError, CheckpointError, ConfigError, ValueError: a run or an argument cannot be used.
    """
    if not calls or min(calls) < 1:
        raise ValueError(f"calls = {list(calls)}, expected positive numbers")
    contenders = _contenders(paths, samplers, overrides, device)
    splits, data = _common_data(contenders)
    judge = Judge.of(contenders[0].run.config, splits, extractor, replicates=replicates)
    if num_samples < (fewest := 2 * judge.reference.neighbour + 2):
        raise ValueError(f"num_samples = {num_samples}, expected at least {fewest}")
    if metric not in (known := judge.noise(fewest)):
        raise ValueError(f"metric = {metric!r}, expected one of {', '.join(known)}")
    seeds = list(range(num_samples))
    shared = {
        "seeds": ranges(seeds),
        "device": device,
        "extractor": extractor.describe(),
        "reference": {"neighbour": judge.reference.neighbour, "replicates": replicates, "seed": judge.reference.seed},
    }
    machine, folder = environment(), Path(out)
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    costs = {each: step_costs(each.walker, chosen_labels(each.run, None, 1)) for each in contenders}
    cells: list[dict[str, Any]] = []
    plan = list(_plan(contenders, calls))
    for contender, budget in tqdm(plan, desc="cells", unit="cell", disable=not progress, leave=False):
        what = {**shared, "data": data, "environment": machine, **contender.describe(), "calls": budget}
        path = folder / "cells" / f"{digest(what)}.json"
        if (result := _cell(path, what, fresh)) is None:
            result = _run_cell(contender, budget, seeds, judge, costs[contender], progress)
            write_atomically(path, to_json({"format": CELL_FORMAT, "what": what, "result": result}).encode())
        cells.append({"run": contender.name, "sampler": contender.sampler, "calls": budget, **result})
    settings = {**shared, "calls": sorted(set(calls)), "overrides": list(overrides)}
    content = {
        "format": STUDY_FORMAT,
        "settings": settings,
        "data": data,
        "environment": machine,
        "runs": _runs(contenders),
        "cells": [cell for cell in cells if cell["steps"] is not None],
        "skipped": [cell for cell in cells if cell["steps"] is None],
    }
    return _written(folder, content, metric)


def _runs(contenders: Sequence[_Contender]) -> list[dict[str, Any]]:
    """Each run with its samplers' settings."""
    runs: dict[str, dict[str, Any]] = {}
    for each in contenders:
        entry = {"name": each.name, "path": str(each.run.path), "step": each.run.step, "weights": each.weights, "samplers": {}}
        runs.setdefault(each.name, entry)["samplers"][each.sampler] = each.describe()["sampler"]
    return list(runs.values())


def _written(folder: Path, content: dict[str, Any], metric: str) -> dict[str, Any]:
    """Write the study as JSON, as a table and as a picture; returns the JSON."""
    if not content["cells"]:
        budgets = ", ".join(map(str, content["settings"]["calls"]))
        raise ValueError(f"calls = {budgets}, expected more: none of the samplers makes a step of so few")
    text = to_json(content)
    write_atomically(folder / "comparison.json", text.encode())
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
    write_atomically(folder / "comparison.csv", table.getvalue().encode())
    written: dict[str, Any] = json.loads(text)
    comparison_plot(folder / "comparison.png", written, metric)
    return written
