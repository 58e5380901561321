"""What a comparison says of a run beside its curves: what it is in words, its bits per dimension, a grid of its samples.

Words come from the configuration, so that they cannot say what was not trained. The bound and the grid are kept in files:
they are made once, and a comparison that was stopped or extended finds them.
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
from ctdiff import figures, recipe
from ctdiff.data import Splits
from ctdiff.evaluation.drawing import draw, run_bits_per_dim
from ctdiff.evaluation.records import Parts, digest, keep_result, kept_result
from ctdiff.runs import Run
from ctdiff.sampling import chosen_labels
from ctdiff.training.checkpoints import write_atomically

__all__ = [
    "BOUND_FORMAT",
    "SHOWN",
    "backbone_settings",
    "engine_in_words",
    "keep_picture",
    "kept_bound",
    "kept_picture",
    "portrait",
    "training_command",
]

BOUND_FORMAT = "ctdiff-bound-1"
SHOWN = 64
"""Samples of a picture, at most."""

_COLUMNS = 8

_BACKBONES = {"unet": "U-Net", "uvit": "U-ViT", "dit": "DiT", "diffit": "DiffiT", "latent_diffit": "DiffiT for latents"}
"""What configurations call networks, in words; others are called what they are called there."""


def engine_in_words(config: ConfigDict) -> str:
    """`Markov chain on 256 grey levels, Gaussian target rates, cosine amplitude schedule`."""
    labels = f", {config.model.num_classes} classes" if config.model.num_classes else ""
    schedule = config.process.schedule.name.replace("_", " ")
    return f"{recipe.engine_of(config).described(config)}, {schedule} schedule{labels}"


@cache
def _presets() -> dict[str, ConfigDict]:
    return {name: configuration.load(name) for name in configuration.preset_names()}


def _changes(preset: ConfigDict, config: ConfigDict) -> dict[str, Any]:
    """What a configuration changes of a preset that is to train such a run, by key, choices first."""
    preset = ConfigDict(preset.to_dict())
    recipe.set_absolute_path(preset)  # as a run's is
    given, wanted = configuration.flatten(preset), configuration.flatten(config)
    changed = [key for key, value in wanted.items() if key not in given or given[key] != value]
    trained = [key for key in changed if key.split(".")[0] not in configuration.FREE_SECTIONS and key != "training.device"]
    return {key: wanted[key] for key in sorted(trained, key=lambda key: key.rpartition(".")[2] not in ("engine", "name"))}


def training_command(run: Run) -> str:
    """The command that trains such a run: the nearest preset of its engine, and what is different."""
    changes = {name: _changes(preset, run.config) for name, preset in _presets().items()}
    # A preset is written for its engine: what it says of networks and losses is nothing to another one.
    name = min(changes, key=lambda preset: ("process.engine" in changes[preset], len(changes[preset])))
    flags = [f"--config.{key}={'none' if value is None else value}" for key, value in changes[name].items()]
    return shlex.join(["ctdiff", "train", f"--config={name}", *flags, f"--workdir={run.path}"])


def backbone_settings(config: ConfigDict) -> dict[str, Any]:
    """The backbone's name and arguments: what of the section `model` belongs to no engine."""
    others = {"num_classes", *recipe.engine_of(config).fields()["model"]}
    return {key: value for key, value in config.model.to_dict().items() if key not in others}


def portrait(run: Run) -> dict[str, Any]:
    """What a run is, as plain numbers and strings."""
    model, training = run.config.model, run.config.training
    return {
        "process": run.config.process.engine,
        "engine": engine_in_words(run.config),
        "backbone": _BACKBONES.get(model.name, model.name),
        "backbone_settings": digest(backbone_settings(run.config)),
        "parameters": sum(parameter.numel() for parameter in run.denoiser.parameters()),
        "training": {"steps": run.step, "of": training.steps, "batch_size": training.batch_size},
        "command": training_command(run),
    }


def kept_bound(
    folder: Path, run: Run, splits: Splits, key: Mapping[str, Any], settings: Mapping[str, int], fresh: bool, progress: bool
) -> dict[str, Any] | None:
    """The run's bits per dimension: those that are in the folder, or new ones, which then are; None of no images.

    Arguments:
        folder: where bounds are kept, a file each.
        run: the run.
        splits: its real images.
        key: all that the bound depends on, beside these settings and those of the sampler.
        settings: `images`, of the held-out ones the first; `draws` of times and noises each; the `seed` of those.
        fresh: measure anew.
        progress: show a progress bar.
    """
    if settings["images"] == 0:
        return None
    sampler = run.config.sampler
    # A chain of T times may be on the sampler's grid, and the floor changes the posterior.
    used = {name: value for name, value in sampler.to_dict().items() if name in ("grid", "evidence_floor")}
    what = {**key, "sampler": used, "likelihood": dict(settings)}
    path, parts = folder / f"{digest(what)}.json", Parts(folder, what)
    if fresh:
        parts.clear()
    elif (found := kept_result(path, BOUND_FORMAT, what)) is not None:
        return found
    held_out = splits.test.select(torch.arange(settings["images"]))
    bits = run_bits_per_dim(run, held_out, splits.train, settings["draws"], settings["seed"], parts, progress)
    folder.mkdir(parents=True, exist_ok=True)
    keep_result(path, BOUND_FORMAT, what, bits.summary())
    parts.clear()
    return bits.summary()


def keep_picture(path: Path, images: Tensor, num_values: int) -> None:
    """Keep the first samples as a grid.

    Arguments:
        path: a PNG.
        images: integers (N, C, H, W), in the order of their seeds.
        num_values: S.
    """
    write_atomically(path, figures.grid_png(images[:SHOWN], num_values, min(_COLUMNS, len(images))))


def kept_picture(path: Path, run: Run, steps: int, seeds: Sequence[int], progress: bool) -> bytes:
    """The picture that was kept, or, where it is missing or damaged, a new one of the same samples, which then is.

    Arguments:
        path: the PNG.
        run: whose samples they are; its configuration names the sampler.
        steps: of the sampler.
        seeds: of all samples.
        progress: show a progress bar.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()
    except Exception:  # missing, or damaged in any way: a sample depends on its seed alone, so it is drawn again
        chosen = list(seeds[:SHOWN])
        cond = chosen_labels(run, None, len(chosen))
        drawn = draw(run, run.sampler(steps), chosen, cond, title=f"picture of {run.path.name}", progress=progress)
        keep_picture(path, drawn.images, run.config.data.num_values)
        return path.read_bytes()
    return content
