"""The report of a run: the metrics of its samples, and everything that is needed to compute the numbers again.

    evaluate_run("runs/mnist", mnist_cnn())  ->  runs/mnist/evaluation.json
    repeat("runs/mnist/evaluation.json")     ->  the numbers that differ: none, on the same machine

Two values are given for comparison with each metric of the samples. The floor is the same metric of real held-out images. The
noise is the same metric of images of independent uniform pixels.

All settings are fixed before the computation: defaults become values, and the weights and the extractor are identified by
hashes. All numbers are computed from these settings, which are saved in the file. So `repeat` can run the same code again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch

from ctdiff import config as configuration
from ctdiff.completion import check_unconditional
from ctdiff.data import Splits
from ctdiff.data.record import DataRecord
from ctdiff.evaluation.drawing import draw, run_bits_per_dim
from ctdiff.evaluation.evaluator import Evaluator, build_extractor, run_splits
from ctdiff.evaluation.plots import checkpoint_curve
from ctdiff.evaluation.report_format import (
    Bound,
    BoundSettings,
    CheckpointReport,
    ExtractorRecord,
    ReferenceSettings,
    Report,
    ReportSettings,
    Weights,
)
from ctdiff.files import expanded, write_atomically
from ctdiff.hashes import file_hash
from ctdiff.metrics.features import Extractor
from ctdiff.metrics.measurement import Measurement, likelihood
from ctdiff.model_folder import is_model
from ctdiff.records import Parts, as_json, environment, read_record, to_json, unequal
from ctdiff.runs import Run, RunError, RunFolder, folder_of, load_run
from ctdiff.sampling import chosen_labels, chosen_seeds, class_numbers, numbers, spans
from diffusion_core.ranges import Count, CountOrZero, Range

__all__ = ["evaluate_run", "evaluation_file", "likelihood_settings", "repeat"]

_NUM_SAMPLES = 2000
_LIKELIHOOD_IMAGES = 400
_NOT_COMPARED = ("seconds_per_sample",)


def evaluation_file(path: str | Path, out: str | Path | None = None) -> Path:
    """Return the path of a report: `RUN/evaluation.json`, or a given .json file. RUN of a model is `runs/NAME`.

    Raises:
        RunError: there is no such run or model.
        ValueError: the given file does not end in .json.
    """
    target = folder_of(path).output / "evaluation.json" if out is None else expanded(out)
    if target.suffix != ".json":
        raise ValueError(f"out = {str(target)!r}, expected a file that ends in .json")
    return target


def _steps(run: Run, wanted: str | Sequence[int]) -> list[int]:
    """Return the steps of the chosen checkpoints.

    Raises:
        RunError: a checkpoint is missing.
    """
    if wanted == "last":
        return [run.step]
    there = run.folder.steps()
    if wanted == "all":
        return there
    steps = sorted(set(numbers(wanted, "checkpoints")))
    if missing := [step for step in steps if step not in there]:
        raise RunError(f"{run.folder.path} has no checkpoint {missing[0]}, expected some of {there}")
    return steps


def _seeds(run: Run, num_samples: int | None, seeds: str | Sequence[int] | None, fewest: int) -> list[int]:
    chosen = chosen_seeds(run, _NUM_SAMPLES if num_samples is None and seeds is None else num_samples, seeds)
    if len(chosen) < fewest:
        raise ValueError(f"num_samples = {len(chosen)}, expected at least {fewest}")
    if len(set(chosen)) < len(chosen):
        twice = next(seed for seed in chosen if chosen.count(seed) > 1)
        raise ValueError(f"seed {twice} is given twice, expected different seeds: equal seeds give equal samples")
    return chosen


def likelihood_settings(splits: Splits, images: int | None, draws: int, usual: int) -> BoundSettings:
    """Return the settings of bits per dimension.

    Arguments:
        splits: the real images.
        images: the number of held-out images. None means `usual`, or all images if there are fewer.
        draws: the number of random draws for each image. A draw is a time and the noise at this time.
        usual: the default number of images.

    Raises:
        ValueError: there are fewer held-out images than `images`, or `draws` is odd or below 4.
    """
    there = len(splits.test)
    if images is not None and not 0 <= images <= there:
        raise ValueError(f"likelihood_images = {images}, expected 0 .. {there}: there are {there} held-out images")
    if draws < 4 or draws % 2:
        raise ValueError(f"draws = {draws}, expected an even number of at least 4")
    return BoundSettings(min(usual, there) if images is None else images, draws, seed=0)


def evaluate_run(
    path: str | Path,
    extractor: Extractor,
    *,
    checkpoints: str | Sequence[int] = "last",
    num_samples: Count | None = None,
    seeds: str | Sequence[int] | None = None,
    labels: str | Sequence[int | str] | None = None,
    steps: Count | None = None,
    sampler: str | None = None,
    ema: bool = True,
    device: str = "cpu",
    overrides: Sequence[str] = (),
    likelihood_images: CountOrZero | None = None,
    draws: Annotated[int, Range(least=4)] = 8,
    replicates: int = 50,
    out: str | Path | None = None,
    fresh: bool = False,
) -> Report:
    """Evaluate a run: draw samples, measure them, compute bits per dimension, and write a report.

    If the extractor cannot process the images, only the metrics that need no extractor are computed: bits per dimension, the
    fraction of samples that are copies of training images, and the fraction of samples whose nearest real image is a
    training image.

    If the report file exists and was made with the same settings, images and environment, its content is returned without
    a new computation. An interrupted evaluation keeps its finished parts in files, and the next call uses these files. If
    there are several checkpoints, a plot is written too (.png).

    Arguments:
        path: the folder of the run, or a model as for `ctdiff.pretrained`.
        extractor: the network that computes the features of images.
        checkpoints: the checkpoints to measure: last, all, or their training steps, such as 1000,2000.
        num_samples: the number of images to draw. None means one for each of the seeds, or 2000 if there are no seeds.
        seeds: the random seeds, one for each image and all different, as integers or as a text such as 0-63 or 1,5,7. A seed
            always gives the same image; other seeds do not change it. None means 0, 1, 2 and so on.
        labels: the classes to draw, as a list of numbers or names or as a text such as 0-9 or cat,dog. The first image gets the
            first class, the second image the second class, and so on. After the last class, the list starts again. The
            images are compared with real images of these classes. Only for a run that was trained with classes. None means all
            classes.
        steps: the number of steps from noise to image. More steps take longer, and the images usually look better. None means
            the number in the configuration of the run.
        sampler: the method that turns noise into images; `ctdiff --help` lists the names. None means the sampler of the run's
            configuration.
        ema: use the moving average of the weights, which usually draws better images, instead of the last weights.
        device: the device that computes, such as cpu, cuda, cuda:1 or mps.
        overrides: flags that change the configuration, for example "--config.sampler.grid.name=cosine".
        likelihood_images: the number of held-out images for the bits per dimension; 0 leaves out the bits per dimension. None
            means 400, or all if there are fewer.
        draws: the number of random draws for each held-out image, an even number. A draw is a time and the noise at this time.
            More draws reduce the error of the bits per dimension.
        replicates: how often a random half of the samples is drawn. Each metric is computed on every such half, and the spread
            of the results gives the confidence interval.
        out: the .json file to write. None means RUN/evaluation.json.
        fresh: evaluate again if the report file exists. Finished parts of an interrupted evaluation are still used.

    Returns:
        The content of the file.

    Raises:
        RunError, CheckpointError: the run or a checkpoint cannot be used, or the images are not those of its training.
        ConfigError: an override cannot be used, or this machine does not have the device.
        ValueError: another argument cannot be used. Or the network of the run completes images: it needs an image of which some
            pixels are known, and an evaluation has no such image.
    """
    target = evaluation_file(path, out)
    run = load_run(path, None, ema, device)
    check_unconditional(run.config, run.path, "evaluate")
    asked = [f"--config.sampler.{key}={value}" for key, value in {"name": sampler, "steps": steps}.items() if value is not None]
    configuration.override(run.config, [*overrides, *asked], sections=("sampler", "data"))  # a choice with its settings
    classes = class_numbers(run, labels)
    chosen_labels(run.config, classes, 1)
    loaded = [load_run(path, step, ema, device) for step in _steps(run, checkpoints)]
    splits = run_splits(run.config, classes, run.folder)
    evaluator = Evaluator.of(run.config, splits, extractor, needed=False, replicates=replicates)
    reference = evaluator.reference
    settings = ReportSettings(
        checkpoints=[Weights(each.step, file_hash(each.weights)) for each in loaded],
        ema=ema,
        device=device,
        sampler=as_json(run.config.sampler.to_dict()),
        seeds=spans(_seeds(run, num_samples, seeds, 2 * reference.neighbour + 2)),
        labels=classes,
        extractor=ExtractorRecord(**extractor.describe(), refused=evaluator.refused),
        reference=ReferenceSettings(reference.neighbour, replicates, reference.seed),
        likelihood=likelihood_settings(splits, likelihood_images, draws, _LIKELIHOOD_IMAGES),
    )
    planned = Report(str(path), settings, DataRecord.of(splits), environment(), checkpoints=[], noise={})
    if not fresh and target.exists():
        found = read_record(target, Report)
        if _conditions(found) == _conditions(planned):
            return found
    target.parent.mkdir(parents=True, exist_ok=True)
    report = _measured(path, planned, evaluator, splits, target.with_suffix(".parts"))
    write_atomically(target, to_json(report).encode())
    if len(loaded) > 1:
        checkpoint_curve(target.with_suffix(".png"), report)
    return report


def _conditions(report: Report) -> dict[str, Any]:
    """Return everything that the numbers of a report depend on, as JSON."""
    return {name: as_json(getattr(report, name)) for name in ("settings", "data", "environment")}


def _resolved(path: str | Path, settings: ReportSettings, checkpoint: Weights) -> Run:
    """Load a checkpoint with the sampler of the settings.

    Raises:
        RunError: the checkpoint has other weights.
    """
    run = load_run(path, checkpoint.step, settings.ema, settings.device)
    if (found := file_hash(run.weights)) != (expected := checkpoint.weights):
        raise RunError(f"{run.weights} has the SHA-256 {found}, expected {expected}: the run was trained again")
    content = {**run.config.to_dict(), "sampler": settings.sampler}
    return replace(run, config=configuration.from_json(to_json(content), f"{path} with the sampler of the evaluation"))


def _measured(path: str | Path, planned: Report, evaluator: Evaluator, splits: Splits, folder: Path) -> Report:
    """Return the report with its measurements. Finished parts of the work are saved in the folder until all is done."""
    settings, checkpoints, kept = planned.settings, [], []
    seeds, bound = numbers(settings.seeds, "seeds"), settings.likelihood
    for each in settings.checkpoints:
        run = _resolved(path, settings, each)
        what = {**_conditions(planned), "step": run.step}
        what["settings"] |= {"checkpoints": [as_json(each)], "extractor": None, "reference": None}
        parts = Parts(folder, what)
        kept.append(parts)
        cond = chosen_labels(run.config, settings.labels, len(seeds))
        samples = draw(run, run.sampler(), seeds, cond, parts, f"{len(seeds)} samples of step {run.step}")
        metrics, bits = evaluator.measure(samples.images, cond.get("y")), None
        if bound.images:
            held_out = splits.test.select(torch.arange(bound.images))
            bits = run_bits_per_dim(run, held_out, splits.train, bound.draws, bound.seed, parts)
            metrics["bits/dim"] = likelihood(bits)
        summary = None if bits is None else Bound.of(bits)
        checkpoints.append(CheckpointReport(run.step, samples.nfe, samples.seconds / len(seeds), metrics, summary))
    noise = evaluator.noise(len(seeds), cond.get("y"))
    if bound.images:
        guess = math.log2(splits.train.num_values)
        noise["bits/dim"] = Measurement("bits/dim", guess, guess, guess, bound.images, 0)
    for parts in kept:
        parts.clear()
    return replace(planned, checkpoints=checkpoints, noise=noise)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Use the given number of threads. The rounding of a sum depends on how it is divided among threads."""
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
) -> list[tuple[str, Any, Any]]:
    """Compute a report again, with its settings and its number of threads, and compare the numbers.

    Arguments:
        file: the report.
        extractor: the extractor of the report. None means that the extractor is made by the name in the report.
        run: the folder of the run, or the model, if it has moved. None means the folder in the report.
            If this folder has no run, it is the folder of the file.

    Returns:
        A list of (name, value in the file, value now) for the numbers that are not equal in every bit. Computing times are not
        compared.

    Raises:
        RunError, ValueError: the run, the images or the extractor differ from those of the report.

    Warns:
        UserWarning: the environment differs.
    """
    file = expanded(file)
    old = read_record(file, Report)
    settings = old.settings
    if run is None:
        run = old.run if is_model(old.run) or RunFolder(Path(old.run)).config.exists() else file.parent
    with _threads(old.environment.threads):
        for name, then, now in unequal(old.environment, environment(), ignore=("python",)):
            warnings.warn(f"{name} was {then}, is now {now}: numbers may differ", stacklevel=2)
        if extractor is None:
            extractor = build_extractor(settings.extractor.name, settings.device)
        if extractor.label != (expected := f"{settings.extractor.name}-{settings.extractor.hash}"):
            raise ValueError(f"the extractor is {extractor.label}, expected {expected}")
        config = folder_of(run).read_config()
        splits = run_splits(config, settings.labels)
        if changed := unequal(old.data, DataRecord.of(splits)):
            raise ValueError(
                f"the real images differ from those of the report: {changed[0][0]} was {changed[0][1]}, is now {changed[0][2]}"
            )
        evaluator = Evaluator.of(config, splits, extractor, needed=False, **vars(settings.reference))
        planned = replace(old, environment=environment())
        new = _measured(run, planned, evaluator, splits, file.with_suffix(".repeat"))
    then, now = ({"checkpoints": each.checkpoints, "noise": each.noise} for each in (old, new))
    return unequal(then, now, ignore=_NOT_COMPARED)
