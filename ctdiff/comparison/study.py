"""Compare samplers and runs: quality over network calls and over time.

A comparison consists of cells. A cell is one run with one sampler and one budget of network calls. All cells use the same
seeds and the same real images. When a cell is done, a picture of its first samples is written, and then a file with its
results. So an interrupted comparison continues with the next cell, and a comparison that gets more cells computes only these.

The cost of a sample is the number of function evaluations (NFE), not the number of steps. A cell makes as many steps as its
budget allows (see `nfe`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from ctdiff.comparison.comparison_format import Cell, CellResult, Comparison, ComparisonSettings, RunCard, Shown, Skipped
from ctdiff.comparison.contenders import Contender, common_data, contenders_of
from ctdiff.comparison.nfe import most_steps, nfe_of_steps
from ctdiff.comparison.page import comparison_page
from ctdiff.comparison.plot import comparison_plot
from ctdiff.comparison.run_cards import SHOWN, keep_picture, kept_bound, kept_picture, run_card
from ctdiff.comparison.tables import best_cell, comparison_csv
from ctdiff.evaluation.drawing import draw
from ctdiff.evaluation.evaluator import Evaluator
from ctdiff.evaluation.report import likelihood_settings
from ctdiff.evaluation.report_format import ExtractorRecord, ReferenceSettings
from ctdiff.files import expanded, locked, write_atomically
from ctdiff.metrics.features import Extractor
from ctdiff.progress import tracked
from ctdiff.records import digest, environment, keep_result, kept_result, to_json
from ctdiff.sampling import chosen_labels, numbers, spans
from diffusion_core.ranges import Count, CountOrZero, Range

__all__ = ["CELL_FORMAT", "compare_runs"]

CELL_FORMAT = "ctdiff-cell-1"
_LIKELIHOOD_IMAGES = 200


def compare_runs(
    paths: Sequence[str | Path],
    extractor: Extractor,
    *,
    calls: str | Sequence[int] = "4,8,16,32,64",
    samplers: Sequence[str] | None = None,
    num_samples: Count = 500,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    replicates: int = 50,
    metric: str = "FID",
    likelihood_images: CountOrZero | None = None,
    draws: Annotated[int, Range(least=4)] = 8,
    out: str | Path = "comparison",
    fresh: bool = False,
) -> Comparison:
    """Measure every sampler of every run at the same budgets of network calls.

    A cell is one run with one sampler and one budget of network calls. The function writes `comparison.json`,
    `comparison.csv`, `comparison.png`, the page `index.html`, and two files for each cell. If the file of a cell exists and
    was made with the same weights, settings, images and environment, the cell is not computed again.

    Arguments:
        paths: the folders of the runs, or models as for `ctdiff.pretrained`. All must have been trained on the same images.
        extractor: the network that computes the features of images.
        calls: the budgets, such as 4,8,16. A budget is the largest number of network calls (NFE) that a sampler may use for one
            image. Each sampler of each run is measured with each budget, and makes as many steps as the budget allows.
        samplers: the samplers to compare, such as ancestral,ddim. NAME+K makes K corrector steps after each step, as in
            tau_leaping+2. A run leaves out the samplers that its engine does not have. None means all samplers of each run.
        num_samples: the number of images to draw for each run, sampler and budget, with the seeds 0, 1, 2 and so on. The images
            of a conditional run have the classes 0, 1, 2 and so on. After the last class, the classes start again at 0.
        overrides: flags that change the configuration, for example "--config.sampler.ddim.eta=0.5". A flag changes only the
            samplers that have the setting named in the flag.
        device: the device that computes, such as cpu, cuda, cuda:1 or mps.
        replicates: how often a random half of the samples is drawn. Each metric is computed on every such half, and the spread
            of the results gives the confidence interval.
        metric: the metric that is plotted and that decides which sampler of a run is the best, such as FID, KID or coverage.
            All metrics are measured.
        likelihood_images: the number of held-out images for the bits per dimension of each run; 0 leaves out the bits per
            dimension. None means 200, or all if there are fewer.
        draws: the number of random draws for each held-out image, an even number. A draw is a time and the noise at this time.
            More draws reduce the error of the bits per dimension.
        out: the folder of the results.
        fresh: measure everything again, including finished measurements.

    Returns:
        The content of comparison.json.

    Raises:
        FolderError, CheckpointError, ConfigError, ValueError: a run or an argument cannot be used, or another comparison uses
            the folder.
    """
    calls = numbers(calls, "calls")
    if not calls or min(calls) < 1:
        raise ValueError(f"calls = {calls}, expected positive numbers")
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
    folder, here = expanded(out), environment()
    made_of = {"data": data, "environment": here, "device": device}
    with locked(folder, "comparison", "--out"):
        what = {**made_of, "seeds": settings.seeds, "extractor": extractor.describe(), "reference": settings.reference}
        cells, skipped = _cells(contenders, settings, what, evaluator, folder / "cells", fresh)
        cards: list[RunCard] = []
        pictures: dict[str, bytes] = {}
        for name in dict.fromkeys(each.name for each in contenders):
            own = [each for each in contenders if each.name == name]
            key = {**made_of, **own[0].trained()}
            bound = kept_bound(folder / "bounds", own[0].run, splits, key, settings.likelihood, fresh)
            card, picture = _shown(run_card(own, bound), own, cells, settings, folder / "cells")
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
) -> tuple[list[Cell], list[Skipped]]:
    """Return all cells, read from the folder or computed, and the cells whose budget is too small for one step.

    Raises:
        ValueError: all budgets are too small.
    """
    folder.mkdir(exist_ok=True)
    costs = {each: nfe_of_steps(each.sampler_with, **chosen_labels(each.run.config, None, 1)) for each in contenders}
    cells, skipped = [], []
    plan = list(itertools.product(contenders, settings.calls))
    for contender, calls in tracked(plan, "cells"):
        what = {**shared, **contender.describe(), "calls": calls}
        name = digest(what)
        path = folder / f"{name}.json"
        if fresh or (result := kept_result(path, CELL_FORMAT, what, CellResult)) is None:
            seeds, picture = numbers(settings.seeds), path.with_suffix(".png")
            result = _run_cell(contender, calls, seeds, evaluator, costs[contender], picture)
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
) -> CellResult | None:
    """Compute one cell. None if the budget is too small for one step."""
    with contender.run.named():
        steps = most_steps(calls, cost)
    if steps is None:
        return None
    cond = chosen_labels(contender.run.config, None, len(seeds))
    title = f"{contender.name}, {contender.sampler}, {calls} calls"
    samples = draw(contender.run, contender.sampler_with(steps), seeds, cond, title=title)
    keep_picture(picture, samples.images, contender.run.config.data.num_values)  # first: a finished cell has a picture
    metrics = evaluator.measure(samples.images, cond.get("y"))
    return CellResult(steps, samples.nfe, samples.seconds / len(seeds), metrics)


def _shown(
    card: RunCard, own: Sequence[Contender], cells: Sequence[Cell], settings: ComparisonSettings, folder: Path
) -> tuple[RunCard, bytes | None]:
    """Return the card with the samples of the best sampler at the largest budget of the run, and their picture."""
    measured = [cell for cell in cells if cell.run == card.name]
    most = max((cell.calls for cell in measured), default=0)
    best = best_cell((cell for cell in measured if cell.calls == most), settings.metric)
    if best is None:
        return card, None
    run = next(each.run for each in own if each.sampler == best.sampler)
    seeds = numbers(settings.seeds)
    shown = Shown(best.cell, best.sampler, best.calls, best.network_calls, best.steps, min(SHOWN, len(seeds)))
    return replace(card, shown=shown), kept_picture(folder / f"{best.cell}.png", run, best.steps, seeds)


def _write(folder: Path, comparison: Comparison, pictures: Mapping[str, bytes]) -> None:
    """Write a comparison as JSON, as CSV, as a plot and as a page."""
    curve = folder / "comparison.png"
    write_atomically(folder / "comparison.json", to_json(comparison).encode())
    write_atomically(folder / "comparison.csv", comparison_csv(comparison).encode())
    comparison_plot(curve, comparison, comparison.settings.metric)
    write_atomically(folder / "index.html", comparison_page(comparison, curve.read_bytes(), pictures).encode())
