"""The report of a run: every metric of its samples beside floor and noise, and all that is needed to repeat the numbers.

    evaluate_run("runs/mnist", mnist_cnn())  ->  runs/mnist/evaluation.json
    repeat("runs/mnist/evaluation.json")     ->  what is different: nothing, on the same machine

The file has four blocks. `settings`, `data` and `environment` say what was done, `checkpoints` and `noise` what came of it.
Whatever is asked for is resolved first, names into hashes, defaults into values, and the numbers are made from the
resolved settings alone: so what the file says is what was done, and a repetition takes the same path.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ctdiff import config as configuration
from ctdiff.data import Splits, data_record
from ctdiff.evaluation.drawing import draw, run_bits_per_dim
from ctdiff.evaluation.features import Extractor
from ctdiff.evaluation.judges import Judge, build_extractor, run_splits
from ctdiff.evaluation.measurement import Measurement, likelihood
from ctdiff.evaluation.plots import checkpoint_curve
from ctdiff.evaluation.records import Parts, environment, file_hash, read_json, to_json, unequal
from ctdiff.runs import Run, RunError, RunFolder, load_run
from ctdiff.sampling import chosen_labels, chosen_seeds, class_numbers, numbers, spans
from ctdiff.training.checkpoints import complete_checkpoints, write_atomically

__all__ = ["FORMAT", "evaluate_run", "evaluation_file", "likelihood_settings", "repeat", "weights_file"]

FORMAT = "ctdiff-evaluation-1"
_NUM_SAMPLES = 2000
_LIKELIHOOD_IMAGES = 400
_NOT_COMPARED = ("seconds_per_sample",)


def weights_file(run: Run, ema: bool = True) -> Path:
    """The file that a run's weights were read from."""
    return run.checkpoint / f"{'ema' if ema else 'model'}.safetensors"


def evaluation_file(path: str | Path, out: str | Path | None = None) -> Path:
    """Where a report goes: `RUN/evaluation.json`, or a given .json file.

    Raises:
        ValueError: the given file has another suffix.
    """
    target = (Path(path) / "evaluation.json" if out is None else Path(out)).expanduser()
    if target.suffix != ".json":
        raise ValueError(f"out = {str(target)!r}, expected a file that ends in .json")
    return target


def _steps(path: str | Path, wanted: str | Sequence[int], newest: int) -> list[int]:
    """The steps of the checkpoints that are asked for.

    Raises:
        RunError: one is not there.
    """
    if wanted == "last":
        return [newest]
    there = [step for step, _ in complete_checkpoints(RunFolder(Path(path)).checkpoints)]
    if wanted == "all":
        return there
    steps = sorted(set(numbers(wanted, "checkpoints") if isinstance(wanted, str) else wanted))
    if missing := [step for step in steps if step not in there]:
        raise RunError(f"{path} has no checkpoint {missing[0]}; there are {there}")
    return steps


def _seeds(run: Run, num_samples: int | None, seeds: Sequence[int] | None, fewest: int) -> list[int]:
    chosen = chosen_seeds(run, _NUM_SAMPLES if num_samples is None and seeds is None else num_samples, seeds)
    if len(chosen) < fewest:
        raise ValueError(f"num_samples = {len(chosen)}, expected at least {fewest}")
    if len(set(chosen)) < len(chosen):
        twice = next(seed for seed in chosen if chosen.count(seed) > 1)
        raise ValueError(f"seed {twice} is given twice, expected different ones: one seed is one sample")
    return chosen


def likelihood_settings(splits: Splits, images: int | None, draws: int, usual: int) -> dict[str, int]:
    """Of how many held-out images bits per dimension are, with how many draws each, and the seed of those.

    Arguments:
        splits: the real images.
        images: how many are asked for; None is `usual`, or all if there are fewer.
        draws: times and noises of each.
        usual: how many, unless told.

    Raises:
        ValueError: there are not as many images, or draws are no even number of at least 4.
    """
    there = len(splits.test)
    if images is not None and not 0 <= images <= there:
        raise ValueError(f"likelihood_images = {images}, expected 0 .. {there}: there are {there} held-out images")
    if draws < 4 or draws % 2:
        raise ValueError(f"draws = {draws}, expected an even number of at least 4")
    return {"images": min(usual, there) if images is None else images, "draws": draws, "seed": 0}


def evaluate_run(
    path: str | Path,
    extractor: Extractor,
    *,
    checkpoints: str | Sequence[int] = "last",
    num_samples: int | None = None,
    seeds: Sequence[int] | None = None,
    labels: Sequence[int | str] | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    ema: bool = True,
    device: str = "cpu",
    overrides: Sequence[str] = (),
    likelihood_images: int | None = None,
    draws: int = 8,
    replicates: int = 50,
    out: str | Path | None = None,
    fresh: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Sample from a run, measure the samples beside floor and noise, bound its likelihood, and write it all to a file.

    If the extractor cannot read the images, what needs none is measured: bits per dimension, copies and neighbours in pixels.
    If the file is there, of the same settings on the same machine, nothing is done. What an interruption left is used.
    Several checkpoints make a picture too, with the name of the file.

    Arguments:
        path: the run's folder.
        extractor: what features are made with.
        checkpoints: their steps, or "all", or "last".
        num_samples: how many samples; None is as many as seeds, or 2000.
        seeds: one a sample, all different; None is 0, 1, 2, ...
        labels: classes by number or by name, repeated in turn, for a conditional network; the real images are then those of
            these classes.
        steps: reverse steps; None is the configuration's number.
        sampler: the sampler's name; None is the configuration's.
        ema: averaged weights rather than the last ones.
        device: where to compute.
        overrides: flags such as "--config.sampler.grid.name=cosine".
        likelihood_images: how many held-out images bits per dimension are of; None is 400, or all if there are fewer.
        draws: times and noises of each of them.
        replicates: how many halves of the samples an interval is made of.
        out: the .json file; None is RUN/evaluation.json.
        fresh: measure anew what has been measured.
        progress: show progress bars.

    Returns:
        What the file says.

    Raises:
        RunError, CheckpointError, ConfigError, ValueError: the run or an argument cannot be used.
    """
    target = evaluation_file(path, out)
    run = load_run(path, None, ema, device)
    asked = [f"--config.sampler.{key}={value}" for key, value in {"name": sampler, "steps": steps}.items() if value is not None]
    configuration.override(run.config, [*overrides, *asked], sections=("sampler", "data"))  # a choice with its settings
    classes = class_numbers(run, labels)
    chosen_labels(run, classes, 1)
    loaded = [load_run(path, step, ema, device) for step in _steps(path, checkpoints, run.step)]
    splits = run_splits(run.config, classes, RunFolder(run.path))
    judge = Judge.of(run.config, splits, extractor, needed=False, replicates=replicates)
    settings = {
        "checkpoints": [{"step": each.step, "weights": file_hash(weights_file(each, ema))} for each in loaded],
        "ema": ema,
        "device": device,
        "sampler": run.config.sampler.to_dict(),
        "seeds": spans(_seeds(run, num_samples, seeds, 2 * judge.reference.neighbour + 2)),
        "labels": classes,
        "extractor": {**extractor.describe(), "refused": judge.refused},
        "reference": {"neighbour": judge.reference.neighbour, "replicates": replicates, "seed": judge.reference.seed},
        "likelihood": likelihood_settings(splits, likelihood_images, draws, _LIKELIHOOD_IMAGES),
    }
    heading = {"format": FORMAT, "run": str(path), "settings": settings, "data": data_record(splits)}
    heading = json.loads(to_json({**heading, "environment": environment()}))
    if not fresh and target.exists():
        found = read_json(target, FORMAT)
        if all(found.get(key) == heading[key] for key in ("settings", "data", "environment")):
            return found
    target.parent.mkdir(parents=True, exist_ok=True)
    content = _measured(run.path, heading, judge, splits, target.with_suffix(".parts"), progress)
    write_atomically(target, to_json(content).encode())
    if len(loaded) > 1:
        checkpoint_curve(target.with_suffix(".png"), content)
    return content


def _resolved(path: Path, settings: dict[str, Any], step: int, weights: str) -> Run:
    """A checkpoint with the sampler of the settings.

    Raises:
        RunError: it holds other weights.
    """
    run = load_run(path, step, settings["ema"], settings["device"])
    if (found := file_hash(weights_file(run, settings["ema"]))) != weights:
        raise RunError(f"{weights_file(run, settings['ema'])} has the SHA-256 {found}, expected {weights}: it was trained anew")
    content = {**run.config.to_dict(), "sampler": settings["sampler"]}
    return replace(run, config=configuration.from_json(to_json(content), f"{path} with the sampler of the evaluation"))


def _rows(rows: dict[str, Measurement]) -> dict[str, Any]:
    return {name: row.as_dict() for name, row in rows.items()}


def _measured(
    path: Path, heading: dict[str, Any], judge: Judge, splits: Splits, folder: Path, progress: bool
) -> dict[str, Any]:
    """The whole content of a report; pieces of the work are kept in the folder until all is done."""
    settings, checkpoints, kept = heading["settings"], [], []
    seeds, bound = numbers(settings["seeds"], "seeds"), settings["likelihood"]
    for each in settings["checkpoints"]:
        run = _resolved(path, settings, each["step"], each["weights"])
        what = {**{key: heading[key] for key in ("settings", "data", "environment")}, "step": run.step}
        what["settings"] = {**settings, "checkpoints": [each], "extractor": None, "reference": None}
        parts = Parts(folder, what)
        kept.append(parts)
        cond = chosen_labels(run, settings["labels"], len(seeds))
        drawn = draw(run, run.sampler(), seeds, cond, parts, f"{len(seeds)} samples of step {run.step}", progress)
        found: dict[str, Any] = {
            "step": run.step,
            "network_calls": drawn.network_calls,
            "seconds_per_sample": drawn.seconds / len(seeds),
            "metrics": _rows(judge.measure(drawn.images, cond.get("y"))),
        }
        if bound["images"]:
            held_out = splits.test.select(torch.arange(bound["images"]))
            bits = run_bits_per_dim(run, held_out, splits.train, bound["draws"], bound["seed"], parts, progress)
            found["metrics"]["bits/dim"] = likelihood(bits).as_dict()
            found["bits_per_dim"] = bits.summary()
        checkpoints.append(found)
    noise = _rows(judge.noise(len(seeds), cond.get("y")))
    if bound["images"]:
        guess = math.log2(splits.train.num_values)
        noise["bits/dim"] = Measurement("bits/dim", guess, guess, guess, bound["images"], 0).as_dict()
    for parts in kept:
        parts.clear()
    content: dict[str, Any] = json.loads(to_json({**heading, "checkpoints": checkpoints, "noise": noise}))
    return content


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads as numbers were made with: sums of floats depend on how they are divided."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def repeat(
    file: str | Path,
    extractor: Extractor | None = None,
    run: str | Path | None = None,
    progress: bool = False,
) -> list[tuple[str, Any, Any]]:
    """Draw and measure again everything that a report says, with its settings and its number of threads.

    Arguments:
        file: the report.
        extractor: the one that it was made with; None makes it by its name.
        run: the run's folder, if it has moved; None is where it was, or the folder of the file.
        progress: show progress bars.

    Returns:
        The names of the numbers that are not the same in every bit, with the file's value and today's. Times are not compared.

    Raises:
        RunError, ValueError: the run, the images or the extractor are not those of the report.

    Warns:
        UserWarning: the machine or the software is another.
    """
    file = Path(file).expanduser()
    old = read_json(file, FORMAT)
    settings = old["settings"]
    if run is None:
        run = old["run"] if RunFolder(Path(old["run"])).config.exists() else file.parent
    with _threads(old["environment"]["threads"]):
        for name, then, now in unequal(old["environment"], environment(), ignore=("python",)):
            warnings.warn(f"{name} was {then}, is now {now}: numbers may differ", stacklevel=2)
        if extractor is None:
            extractor = build_extractor(settings["extractor"]["name"], settings["device"])
        if extractor.label != (expected := f"{settings['extractor']['name']}-{settings['extractor']['hash']}"):
            raise ValueError(f"the extractor is {extractor.label}, expected {expected}")
        config = RunFolder(Path(run)).read_config()
        splits = run_splits(config, settings["labels"])
        if changed := unequal(old["data"], data_record(splits)):
            raise ValueError(f"the real images are others: {changed[0][0]} was {changed[0][1]}, is now {changed[0][2]}")
        judge = Judge.of(config, splits, extractor, needed=False, **settings["reference"])
        heading = {key: old[key] for key in ("format", "run", "settings", "data")} | {"environment": environment()}
        new = _measured(Path(run), heading, judge, splits, file.with_suffix(".repeat"), progress)
    then, now = ({key: content[key] for key in ("checkpoints", "noise")} for content in (old, new))
    return unequal(then, now, ignore=_NOT_COMPARED)
