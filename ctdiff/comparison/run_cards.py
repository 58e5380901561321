"""Makes the run cards of a comparison. A run card describes one run, with its bits per dimension and a grid of its samples.

The description is made from the configuration of the run. The bits per dimension and the grid are saved in files. A comparison
that continues after an interruption, or that gets more cells, uses these files again.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from PIL import Image
from torch import Tensor

from ctdiff import config as configuration
from ctdiff import figures, presets, recipe
from ctdiff.comparison.comparison_format import RunCard, TrainingRecord
from ctdiff.comparison.contenders import Contender
from ctdiff.comparison.proven import Statement, of_sampler, proven
from ctdiff.data import Splits
from ctdiff.evaluation.drawing import draw, run_bits_per_dim
from ctdiff.evaluation.report_format import Bound, BoundSettings
from ctdiff.files import write_atomically
from ctdiff.recipe.engine import tree
from ctdiff.records import Parts, as_json, digest, keep_result, kept_result
from ctdiff.runs import Run
from ctdiff.sampling import chosen_labels

__all__ = [
    "BOUND_FORMAT",
    "SHOWN",
    "backbone_in_words",
    "backbone_settings",
    "engine_in_words",
    "keep_picture",
    "kept_bound",
    "kept_picture",
    "run_card",
    "training_command",
]

BOUND_FORMAT = "ctdiff-bound-1"
SHOWN = 64
"""The largest number of samples in a picture."""

_COLUMNS = 8

_BACKBONES = {"unet": "U-Net", "uvit": "U-ViT", "dit": "DiT", "diffit": "DiffiT", "latent_diffit": "DiffiT for latents"}
"""The names of backbones on a run card. Other backbones have the name in the configuration."""


def engine_in_words(config: ConfigDict) -> str:
    """Describe a process: `Markov chain on 256 grey levels, Gaussian target rates, cosine amplitude schedule`."""
    labels = f", {config.model.num_classes} classes" if config.model.num_classes else ""
    schedule = config.process.schedule.name.replace("_", " ")
    return f"{recipe.engine_of(config).described(config)}, {schedule} schedule{labels}"


def backbone_in_words(config: ConfigDict) -> str:
    """Return the name of a network as in papers, or its name in the configuration."""
    name: str = config.model.name
    return _BACKBONES.get(name, name)


@cache
def _presets() -> dict[str, ConfigDict]:
    """Return the presets by name. They are not checked, because a check makes the networks, which takes seconds."""
    given = {name: presets.evaluate(presets.FOLDER / f"{name}.py").to_dict() for name in configuration.preset_names()}
    return {name: configuration.complete(content) for name, content in given.items()}


def _changes(preset: ConfigDict, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from a preset, by key. Choices come before settings."""
    placed = ConfigDict({"data": preset.data.to_dict()})
    recipe.set_absolute_path(placed)  # the configuration of a run has an absolute path too
    given = configuration.flatten(preset) | configuration.flatten(placed)
    changed = [key for key, value in wanted.items() if key not in given or given[key] != value]
    trained = [key for key in changed if key.split(".")[0] not in configuration.FREE_SECTIONS and key != "training.device"]
    return {key: wanted[key] for key in sorted(trained, key=lambda key: key.rpartition(".")[2] not in ("engine", "name"))}


def training_command(config: ConfigDict, workdir: Path) -> str:
    """Return a command that trains a run with a configuration.

    The command has a preset and the settings that differ from it. It is the preset with the fewest different settings, if
    possible of the same engine.

    Arguments:
        config: the configuration.
        workdir: the folder of the run.
    """
    wanted = configuration.flatten(config)
    changes = {name: _changes(preset, wanted) for name, preset in _presets().items()}
    # A preset is written for one engine. Its networks and losses are not useful for another engine.
    name = min(changes, key=lambda preset: ("process.engine" in changes[preset], len(changes[preset])))
    flags = [f"--config.{key}={'none' if value is None else value}" for key, value in changes[name].items()]
    return shlex.join(["ctdiff", "train", f"--config={name}", *flags, f"--workdir={workdir}"])


def backbone_settings(config: ConfigDict) -> dict[str, Any]:
    """Return the name and the arguments of the backbone. They are the settings of `model` that do not depend on the engine."""
    others = tree(config.process.engine).inner("model").fields
    return {key: value for key, value in config.model.to_dict().items() if key not in others}


def run_card(contenders: Sequence[Contender], bound: Bound | None) -> RunCard:
    """Make the card of a run. The card has no samples yet: its field `shown` is None.

    Arguments:
        contenders: one or more contenders. A contender is this run with one of its samplers.
        bound: the bits per dimension; None if they were not measured.
    """
    first, config = contenders[0], contenders[0].run.config
    training = config.training
    return RunCard(
        name=first.name,
        path=str(first.run.folder.path),
        step=first.run.step,
        weights=first.weights,
        process=config.process.engine,
        engine=engine_in_words(config),
        backbone=backbone_in_words(config),
        backbone_settings=digest(backbone_settings(config)),
        parameters=sum(parameter.numel() for parameter in first.run.denoiser.parameters()),
        training=TrainingRecord(first.run.step, training.steps, training.batch_size),
        command=training_command(config, first.run.path),
        samplers={each.sampler: as_json(each.describe()["sampler"]) for each in contenders},
        bits_per_dim=bound,
        proven=_proven(contenders, bound is not None),
    )


def _proven(contenders: Sequence[Contender], bounded: bool) -> dict[str, Statement]:
    """Return the proven properties of each sampler of a run, and of its bits per dimension, as a dictionary."""
    found = {}
    for each in contenders:
        guided = recipe.is_guided(each.run.config)
        found[f"{each.sampler}, guided" if guided else each.sampler] = of_sampler(each.sampler_with(1), guided)
    engine = recipe.engine_of(contenders[0].run.config)
    return {**found, "bits per dimension": proven(engine.package.bits_per_dim)} if bounded else found


def kept_bound(
    folder: Path, run: Run, splits: Splits, key: Mapping[str, Any], settings: BoundSettings, fresh: bool
) -> Bound | None:
    """Return the bits per dimension of a run. They are computed if the folder does not have them.

    Arguments:
        folder: the folder of the results, with one file for each result.
        run: the run.
        splits: the real images of the run.
        key: everything that the result depends on, except `settings` and the settings of the sampler.
        settings: the number of images, the number of draws for each image, and the seed. With 0 images, the function returns
            None.
        fresh: whether to compute the result again if the folder has it.
    """
    if settings.images == 0:
        return None
    sampler = run.config.sampler
    # The times of the bound may come from the sampler's grid, and `evidence_floor` changes the posterior.
    used = {name: value for name, value in sampler.to_dict().items() if name in ("grid", "evidence_floor")}
    what = {**key, "sampler": used, "likelihood": settings}
    path, parts = folder / f"{digest(what)}.json", Parts(folder, what)
    if fresh:
        parts.clear()
    elif (found := kept_result(path, BOUND_FORMAT, what, Bound)) is not None:
        return found
    held_out = splits.test.select(torch.arange(settings.images))
    bits = run_bits_per_dim(run, held_out, splits.train, settings.draws, settings.seed, parts)
    bound = Bound.of(bits)
    folder.mkdir(parents=True, exist_ok=True)
    keep_result(path, BOUND_FORMAT, what, bound)
    parts.clear()
    return bound


def keep_picture(path: Path, images: Tensor, num_values: int) -> None:
    """Write a picture of the first samples in a grid.

    Arguments:
        path: the PNG file.
        images: integers (N, C, H, W), in the order of their seeds.
        num_values: S, the number of values of a pixel.
    """
    write_atomically(path, figures.grid_png(images[:SHOWN], num_values, min(_COLUMNS, len(images))))


def kept_picture(path: Path, run: Run, steps: int, seeds: Sequence[int]) -> bytes:
    """Return the content of a picture file. If the file is missing or damaged, draw the same samples and write it again.

    Arguments:
        path: the PNG file.
        run: the run. Its configuration chooses the sampler.
        steps: the number of sampling steps.
        seeds: the seeds of all samples.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()
    except Exception:  # missing, or damaged in any way: a sample depends only on its seed, so it can be drawn again
        chosen = list(seeds[:SHOWN])
        cond = chosen_labels(run.config, None, len(chosen))
        samples = draw(run, run.sampler(steps), chosen, cond, title=f"picture of {run.path.name}")
        keep_picture(path, samples.images, run.config.data.num_values)
        return path.read_bytes()
    return content
