"""Makes a model from a run: rounds the weights, measures the model with the rounded weights, and writes the card.

RUN/push/model    the model without numbers; it is complete when the numbers are known
         parts    finished pieces of the measurements

`RUN/push` is deleted at the end.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, cast

from torch import Tensor

from ctdiff import config as configuration
from ctdiff import figures, hub, recipe
from ctdiff.card import Card, Data, Features, Hashes, Number, Training, card_text
from ctdiff.comparison.nfe import most_steps, nfe_of_steps
from ctdiff.comparison.run_cards import training_command
from ctdiff.completion import check_unconditional
from ctdiff.data.record import DataRecord
from ctdiff.evaluation import run_splits
from ctdiff.files import discard, expanded, locked, write_atomically
from ctdiff.hashes import bytes_hash
from ctdiff.metrics.features import Extractor
from ctdiff.model_folder import CARD, CLASSES, CONFIG, GRID, WEIGHTS, ModelError, ModelFolder, portable
from ctdiff.models.measuring import Measured, Measurer, Setting, architecture_of
from ctdiff.models.pull import check_target, copy_model
from ctdiff.records import environment
from ctdiff.run_folder import RUNS, RunFolder
from ctdiff.runs import Run, load_run
from ctdiff.sampling import chosen_labels, numbers
from ctdiff.training import MetricsFile
from ctdiff.training.checkpoints import encode_weights, read_weights
from diffusion_core.ranges import Count, CountOrZero, Range

__all__ = ["push_run"]

_QUICK_SAMPLES, _QUICK_STEPS = 128, 16
_QUICK_IMAGES, _QUICK_DRAWS = 16, 4  # with fewer images, the standard error is too inexact for an interval of 99.9 %

_GRID, _COLUMNS = 64, 8


@dataclass(frozen=True)
class _Row:
    """Numbers of the card with one setting.

    Arguments:
        setting: the setting.
        quick: whether the setting is quick.
        metrics: the names of the metrics; None means all.
        calls: the budget of network calls, for the goals; None if there is none.
    """

    setting: Setting
    quick: bool = False
    metrics: tuple[str, ...] | None = None
    calls: int | None = None


def push_run(
    path: str | Path,
    target: str | Path,
    extractor: Extractor,
    *,
    name: str | None = None,
    description: str | None = None,
    licence: str | None = None,
    limits: str | None = None,
    goals: str | None = None,
    num_samples: Count = 2000,
    calls: str | None = None,
    likelihood_images: CountOrZero = 200,
    draws: Annotated[int, Range(least=4)] = 8,
    commit: str | None = None,
    core_seconds: float | None = None,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    replicates: int = 50,
    fresh: bool = False,
) -> Card:
    """Make a model from a run, and write it to a folder or to the Hugging Face Hub.

    The averaged weights are rounded to bfloat16, and all numbers of the card are measured with the rounded weights. The folder
    appears when everything is done. If the function is interrupted, the next call continues.

    Arguments:
        path: the folder of the run.
        target: the folder of the model, or `hub:user/name`.
        extractor: the network that computes the features of images.
        name: the name of the model. None means the last part of the target.
        description: one sentence about the model, for the card. None means that the model is not made.
        licence: the licence of the weights. Weights that were trained on the included MNIST digits are under CC BY-SA 3.0.
            None means that the model is not made.
        limits: what the model cannot do, or what was not tested: sentences that are divided by
            semicolons. None means that the card has none.
        goals: values that were wanted, such as FID=5,FID@100=3,bits/dim=1.2. METRIC@CALLS is a metric with a number of
            --calls. None means no goals.
        num_samples: the number of images to draw for the metrics, with the seeds 0, 1, 2 and so on.
        calls: more numbers of network calls (NFE) at which FID is measured, such as 16,100. All metrics are measured with the
            number of steps in the configuration. None means no more numbers.
        likelihood_images: the number of held-out images for the bits per dimension; 0 leaves out the bits per dimension.
        draws: the number of random draws for each held-out image, an even number. A draw is a time and the noise at this time.
        commit: the commit of ctdiff with which the run was trained. None means that it is not known.
        core_seconds: the time of the training, multiplied by the number of processor cores. None means that it is not known.
        overrides: changes of the configuration of the model, for example "--config.sampler.steps=32".
        device: the device that computes, such as cpu, cuda, cuda:1 or mps.
        replicates: how often a random half of the samples is drawn, for the standard errors.
        fresh: replace an existing model.

    Returns:
        The card.

    Raises:
        RunError, CheckpointError: the run cannot be used, or the target exists.
        FolderError: the model cannot be uploaded, or another push of the same run is not finished.
        ConfigError: an override cannot be used, or this machine does not have the device.
        ValueError: another argument cannot be used, or the network of the run completes images.

    Warns:
        UserWarning: a metric is not finite, and is left out.
    """
    name = _checked_name(target, name, fresh)
    for flag, value in (("description", description), ("licence", licence)):
        if not value:
            raise ValueError(f"{flag} = {value!r}, expected a text, which is written on the card (--{flag}=...)")
    run = load_run(path, device=device)
    check_unconditional(run.config, run.path, "push")
    configuration.override(run.config, overrides, sections=("sampler", "data"))
    splits, work = run_splits(run.config, None, run.folder), run.path / "push"
    training = _training(run, name, commit, core_seconds)
    with locked(work, "push"):
        bare = Card(
            name=name,
            description=description or "",
            licence=licence or "",
            data=Data(run.config.data.name, DataRecord.of(splits)),
            architecture=architecture_of(run),
            training=training,
            files=_write_files(run, work / "model"),
            features=Features(extractor.name, extractor.hash, replicates),
            environment=environment(),
            limits=[text.strip() for text in (limits or "").split(";") if text.strip()],
            numbers=[],
        )
        staged = _write_card(work / "model", bare)

        rounded = load_run(staged.path, device=device)
        rounded.config.data = run.config.data  # its paths are those of this machine
        measurer = Measurer(rounded, splits, extractor, replicates, work / "parts")
        bits = Setting(likelihood_images, 0, draws=draws) if likelihood_images else None
        plan = list(_plan(rounded, num_samples, calls, bits))
        card = replace(bare, numbers=_numbers(measurer, plan, _goals(goals)))
        write_atomically(staged.path / GRID, _picture(measurer, plan[0].setting))
        staged = _write_card(staged.path, card)
        if hub.is_on_hub(target):
            hub.upload(staged.path, str(target))
        else:
            copy_model(staged, expanded(target))
        discard(work)
        return card


def _checked_name(target: str | Path, name: str | None, fresh: bool) -> str:
    """Return the name of the model. Raise an error if the target cannot be written."""
    if hub.is_on_hub(target):
        if not fresh:
            hub.check_new(str(target), CARD)
        return name or hub.hub_name(str(target)).partition("/")[2]
    check_target(expanded(target), fresh)
    return name or expanded(target).absolute().name


def _write_files(run: Run, folder: Path) -> Hashes:
    """Write the configuration, the rounded weights and the names of the classes. Return their hashes."""
    contents = {CONFIG: configuration.to_json(portable(run.config)).encode(), WEIGHTS: _rounded(run)}
    if names := run.class_names:
        contents[CLASSES] = (json.dumps(list(names), ensure_ascii=False, indent=1) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CARD, CLASSES):  # of an earlier call; without a card, the folder is no model while its files change
        (folder / name).unlink(missing_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    hashes = {name: bytes_hash(content) for name, content in contents.items()}
    return Hashes(hashes[CONFIG], hashes[WEIGHTS], hashes.get(CLASSES))


def _write_card(folder: Path, card: Card) -> ModelFolder:
    write_atomically(folder / CARD, card_text(card).encode())
    return ModelFolder(folder)


def _rounded(run: Run) -> bytes:
    """Return the weights of a run as a file. Parameters are rounded to bfloat16, buffers are not."""
    parameters = {name for name, _ in recipe.build_network(run.config).named_parameters(remove_duplicate=False)}
    tensors = read_weights(run.weights)
    short = {name: value.bfloat16() for name, value in tensors.items() if name in parameters and value.is_floating_point()}
    return encode_weights({**tensors, **short})


def _training(run: Run, name: str, commit: str | None, core_seconds: float | None) -> Training:
    """Return how a run was trained. Its time is the sum of the recorded times of all steps.

    The command trains in another folder than `runs/NAME`, which has the samples of the model.

    Raises:
        ModelError: it is no run, but a model.
    """
    if not isinstance(run.folder, RunFolder):
        raise ModelError(f"{run.folder.path} is a model, expected a run: `ctdiff pull` copies models")
    batch_size = run.config.training.batch_size
    records = MetricsFile.read(run.folder.metrics)
    rates = [record["images_per_second"] for record in records if record.get("images_per_second")]
    return Training(
        command=training_command(portable(run.config), RUNS / f"{name}-again"),
        steps=run.step,
        batch_size=batch_size,
        images_seen=run.step * batch_size,
        commit=commit,
        seconds=round(sum(batch_size / rate for rate in rates), 3) if len(rates) == run.step else None,
        core_seconds=core_seconds,
    )


def _plan(run: Run, num_samples: int, calls: str | None, bits: Setting | None) -> Iterator[_Row]:
    """Yield what is measured. Quick settings are never larger than the others."""
    own = run.config.sampler.steps
    yield _Row(Setting(num_samples, 0, steps=own))
    seen = {own}
    for budget in sorted(set(numbers(calls, "calls"))) if calls else ():
        with run.named():
            steps = most_steps(budget, nfe_of_steps(run.sampler, **chosen_labels(run.config, None, 1)))
        if steps is None:
            raise ValueError(f"calls = {budget}, expected more: the sampler cannot make a step with so few network calls")
        if steps not in seen:
            seen.add(steps)
            yield _Row(Setting(num_samples, 0, steps=steps), metrics=("FID",), calls=budget)
    if bits is not None:
        yield _Row(bits)
    yield _Row(Setting(min(_QUICK_SAMPLES, num_samples), 0, steps=min(_QUICK_STEPS, own)), quick=True)
    if bits is not None:
        yield _Row(Setting(min(_QUICK_IMAGES, bits.n), 0, draws=_QUICK_DRAWS), quick=True)


def _goals(text: str | None) -> dict[tuple[str, int | None], float]:
    """Parse `FID=5,FID@100=3`.

    Raises:
        ValueError: the text has another form.
    """
    found = {}
    for part in filter(None, map(str.strip, (text or "").split(","))):
        match = re.fullmatch(r"([\w/.-]+?)(?:@(\d+))?=([\d.]+(?:e-?\d+)?)", part)
        if match is None:
            raise ValueError(f"goals = {text!r}: {part!r}, expected METRIC=NUMBER or METRIC@CALLS=NUMBER, divided by commas")
        found[match[1], None if match[2] is None else int(match[2])] = float(match[3])
    return found


def _numbers(measurer: Measurer, plan: Sequence[_Row], goals: dict[tuple[str, int | None], float]) -> list[Number]:
    """Measure the numbers of the card.

    Raises:
        ValueError: there is no FID for `calls`, or a goal belongs to no number.
    """
    rows: list[Number] = []
    left = dict(goals)
    for planned in plan:
        found = measurer.measure(planned.setting)
        chosen = planned.metrics or [*found.metrics]
        if missing := [name for name in chosen if name not in found.metrics]:
            raise ValueError(f"calls = {planned.calls}, expected none: there is no {missing[0]}, {measurer.evaluator.refused}")
        for metric in chosen:
            goal = None if planned.quick else left.pop((metric, planned.calls), None)
            row = _number(metric, found, planned, measurer.run.config.sampler.name, goal)
            rows += [] if row is None else [row]
    if left:
        metric, budget = next(iter(left))
        known = ", ".join(dict.fromkeys(row.metric for row in rows))
        raise ValueError(f"goals: there is no number {metric}{'' if budget is None else f'@{budget}'}, expected one of {known}")
    return rows


def _picture(measurer: Measurer, setting: Setting) -> bytes:
    """Return the picture of the first samples of a setting."""
    config, images = measurer.run.config, cast(Tensor, measurer.measure(setting).images)
    columns = min(config.model.num_classes or _COLUMNS, len(images))  # a column for each class
    count = max(1, min(_GRID, len(images)) // columns) * columns
    return figures.grid_png(images[:count], config.data.num_values, columns)


def _number(metric: str, found: Measured, planned: _Row, sampler: str, goal: float | None) -> Number | None:
    """Return a row of the card; None if the value is not finite."""
    row, setting = found.metrics[metric], planned.setting
    if not (math.isfinite(row.value) and math.isfinite(row.standard_error)):
        warnings.warn(f"{metric} = {row.value} is left out: it or its standard error is not finite", stacklevel=4)
        return None
    return Number(
        metric=metric,
        value=row.value,
        standard_error=row.standard_error,
        n=setting.n,
        first_seed=setting.first_seed,
        quick=planned.quick,
        sampler=None if setting.steps is None else sampler,
        steps=setting.steps,
        network_calls=found.network_calls,
        draws=setting.draws,
        floor=None if row.floor is None else row.floor.value,
        goal=goal,
    )
