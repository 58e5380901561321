"""Compare samplers and runs: quality over network calls and over time.

A comparison consists of cells. A cell is one run with one sampler and one budget of network calls. All cells use the same
seeds and the same real images. A cell is written to its own file when it is done, and its first samples to a picture just
before. So an interrupted comparison continues with the next cell, and a comparison with more cells computes only the new
ones.

The cost of a sample is the number of function evaluations (NFE), not the number of steps. A cell makes as many steps as its
budget allows (see `nfe`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ctdiff.comparison.comparison_format import Cell, CellResult, Comparison, ComparisonSettings, RunCard, Shown, Skipped
from ctdiff.comparison.contenders import Contender, common_data, contenders_of
from ctdiff.comparison.nfe import most_steps, nfe_of_steps
from ctdiff.comparison.page import comparison_page
from ctdiff.comparison.plot import comparison_plot
from ctdiff.comparison.run_cards import SHOWN, keep_picture, kept_bound, kept_picture, run_card
from ctdiff.comparison.tables import best_cell, comparison_csv
from ctdiff.evaluation.drawing import draw
from ctdiff.evaluation.evaluator import Evaluator
from ctdiff.evaluation.records import digest, environment, keep_result, kept_result, to_json
from ctdiff.evaluation.report import likelihood_settings
from ctdiff.evaluation.report_format import ExtractorRecord, ReferenceSettings
from ctdiff.files import locked, write_atomically
from ctdiff.metrics.features import Extractor
from ctdiff.sampling import chosen_labels, numbers, spans

__all__ = ["CELL_FORMAT", "compare_runs"]

CELL_FORMAT = "ctdiff-cell-1"
_LIKELIHOOD_IMAGES = 200


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
) -> Comparison:
    """Measure every sampler of every run at the same budgets of network calls.

    A cell is one run with one sampler and one budget of network calls. The function writes `comparison.json`,
    `comparison.csv`, `comparison.png`, the page `index.html`, and two files for each cell. If the file of a cell exists and
    was made with the same weights, settings, images and environment, the cell is not computed again.

    Arguments:
        paths: the runs' folders; all runs were trained on the same images.
        extractor: the network that computes the features of images.
        calls: the budgets: the largest numbers of network calls (NFE) for one sample. There is one cell per run, sampler and
            budget. A cell makes as many steps as its budget allows.
        samplers: names; `NAME+K` makes K corrector moves after each step. If the engine of a run does not have a sampler, the
            run has no cell with it. None means all samplers.
        num_samples: the number of samples in a cell, with the seeds 0, 1, 2, ... The samples of a conditional run have the
            classes 0, 1, 2, ..., and after the last class 0 again.
        overrides: flags that change the configuration, for example "--config.sampler.ddim.eta=0.5". A flag changes only the
            samplers that have the setting named in the flag.
        device: where to compute.
        replicates: the number of random halves of the samples. Each metric is computed on every half, and the spread of the
            results gives the confidence interval.
        metric: the metric that is plotted and that decides which sampler of a run is the best.
        likelihood_images: the number of held-out images for bits per dimension of each run. None means 200, or all if there
            are fewer.
        draws: the number of random pairs of a time and a noise for each of these images.
        out: the folder of the results.
        fresh: whether to compute all cells and bits per dimension again.
        progress: whether to show progress bars.

    Returns:
        The content of comparison.json.

    Raises:
        FolderError, CheckpointError, ConfigError, ValueError: a run or an argument cannot be used, or another comparison uses
            the folder.
    """
    if not calls or min(calls) < 1:
        raise ValueError(f"calls = {list(calls)}, expected positive numbers")
    contenders = contenders_of(paths, samplers, overrides, device)
    splits, data = common_data(contenders)
    evaluator = Evaluator.of(contenders[0].run.config, splits, extractor, replicates=replicates)
    _check(evaluator, num_samples, metric)
    settings = ComparisonSettings(
        seeds=spans(range(num_samples)),
        device=device,
        extractor=ExtractorRecord(**extractor.describe()),
        reference=ReferenceSettings(evaluator.reference.neighbour, replicates, evaluator.reference.seed),
        calls=sorted(set(calls)),
        samplers=None if samplers is None else list(samplers),
        overrides=list(overrides),
        metric=metric,
        likelihood=likelihood_settings(splits, likelihood_images, draws, _LIKELIHOOD_IMAGES),
    )
    folder, here = Path(out).expanduser(), environment()
    made_of = {"data": data, "environment": here, "device": device}
    with locked(folder, "comparison", "--out"):
        what = {**made_of, "seeds": settings.seeds, "extractor": extractor.describe(), "reference": settings.reference}
        cells, skipped = _cells(contenders, settings, what, evaluator, folder / "cells", fresh, progress)
        cards: list[RunCard] = []
        pictures: dict[str, bytes] = {}
        for name in dict.fromkeys(each.name for each in contenders):
            own = [each for each in contenders if each.name == name]
            key = {**made_of, **own[0].trained()}
            bound = kept_bound(folder / "bounds", own[0].run, splits, key, settings.likelihood, fresh, progress)
            card, picture = _shown(run_card(own, bound), own, cells, settings, folder / "cells", progress)
            cards.append(card)
            pictures |= {} if picture is None else {name: picture}
        comparison = Comparison(settings, data, here, cards, cells, skipped)
        _write(folder, comparison, pictures)
    return comparison


def _check(evaluator: Evaluator, num_samples: int, metric: str) -> None:
    """Raise ValueError if there are too few samples or the metric is unknown."""
    if num_samples < (fewest := 2 * evaluator.reference.neighbour + 2):
        raise ValueError(f"num_samples = {num_samples}, expected at least {fewest}")
    if metric not in (known := evaluator.noise(fewest)):
        raise ValueError(f"metric = {metric!r}, expected one of {', '.join(known)}")


def _cells(
    contenders: Sequence[Contender],
    settings: ComparisonSettings,
    shared: Mapping[str, Any],
    evaluator: Evaluator,
    folder: Path,
    fresh: bool,
    progress: bool,
) -> tuple[list[Cell], list[Skipped]]:
    """All cells, from the folder or newly computed, and those whose budget is too small for one step.

    Raises:
        ValueError: all budgets are too small.
    """
    folder.mkdir(exist_ok=True)
    costs = {each: nfe_of_steps(each.sampler_with, **chosen_labels(each.run.config, None, 1)) for each in contenders}
    cells, skipped = [], []
    plan = list(itertools.product(contenders, settings.calls))
    for contender, calls in tqdm(plan, desc="cells", unit="cell", disable=not progress, leave=False):
        what = {**shared, **contender.describe(), "calls": calls}
        name = digest(what)
        path = folder / f"{name}.json"
        if fresh or (result := kept_result(path, CELL_FORMAT, what, CellResult)) is None:
            seeds, picture = numbers(settings.seeds), path.with_suffix(".png")
            result = _run_cell(contender, calls, seeds, evaluator, costs[contender], picture, progress)
            if result is None:
                skipped.append(Skipped(contender.name, contender.sampler, calls, name))
                continue
            keep_result(path, CELL_FORMAT, what, result)
        cells.append(Cell(**vars(result), run=contender.name, sampler=contender.sampler, calls=calls, cell=name))
    if not cells:
        listed = ", ".join(map(str, settings.calls))
        raise ValueError(f"calls = {listed}, expected more: no sampler can make a step with so few network calls")
    return cells, skipped


def _run_cell(
    contender: Contender,
    calls: int,
    seeds: list[int],
    evaluator: Evaluator,
    cost: Callable[[int], int | None],
    picture: Path,
    progress: bool,
) -> CellResult | None:
    """Compute one cell. None if the budget is too small for one step."""
    with contender.run.named():
        steps = most_steps(calls, cost)
    if steps is None:
        return None
    cond = chosen_labels(contender.run.config, None, len(seeds))
    title = f"{contender.name}, {contender.sampler}, {calls} calls"
    samples = draw(contender.run, contender.sampler_with(steps), seeds, cond, title=title, progress=progress)
    keep_picture(picture, samples.images, contender.run.config.data.num_values)  # first: a finished cell has a picture
    metrics = evaluator.measure(samples.images, cond.get("y"))
    return CellResult(steps, samples.nfe, samples.seconds / len(seeds), metrics)


def _shown(
    card: RunCard, own: Sequence[Contender], cells: Sequence[Cell], settings: ComparisonSettings, folder: Path, progress: bool
) -> tuple[RunCard, bytes | None]:
    """The card with the samples to show: those of the best sampler at the run's largest budget, and their picture."""
    measured = [cell for cell in cells if cell.run == card.name]
    most = max((cell.calls for cell in measured), default=0)
    best = best_cell((cell for cell in measured if cell.calls == most), settings.metric)
    if best is None:
        return card, None
    run = next(each.run for each in own if each.sampler == best.sampler)
    seeds = numbers(settings.seeds)
    shown = Shown(best.cell, best.sampler, best.calls, best.network_calls, best.steps, min(SHOWN, len(seeds)))
    return replace(card, shown=shown), kept_picture(folder / f"{best.cell}.png", run, best.steps, seeds, progress)


def _write(folder: Path, comparison: Comparison, pictures: Mapping[str, bytes]) -> None:
    """Write a comparison as JSON, as CSV, as a plot and as a page."""
    curve = folder / "comparison.png"
    write_atomically(folder / "comparison.json", to_json(comparison).encode())
    write_atomically(folder / "comparison.csv", comparison_csv(comparison).encode())
    comparison_plot(curve, comparison, comparison.settings.metric)
    write_atomically(folder / "index.html", comparison_page(comparison, curve.read_bytes(), pictures).encode())
