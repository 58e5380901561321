"""Configurations of the shipped presets, made small enough to train in a test."""

from __future__ import annotations

from functools import cache
from typing import Any

from ml_collections import ConfigDict

from ctdiff import config as configuration
from ctdiff.recipe.values import Text

__all__ = ["LARGE", "SMALL", "flags", "small"]

LARGE = ("mnist_uvit_full", "mnist_dit_full", "cifar10_unet", "cifar10_ddpm", "cifar10_uvit", "cifar10_tauldr")
"""Presets at published sizes, which a test runs for one step on one image; the others are for minutes on a CPU."""

SMALL: dict[str, Any] = {
    "data.fraction": 0.001,
    "data.image_size": (8, 8),
    "data.num_values": 8,
    "process.rates.gaussian_target.scale": 0.2,  # 1 / 5.2, the slowest rate of the Gaussian target over 8 levels
    "model.unet.widths": (8, 8),
    "model.unet.num_heads": 2,
    "model.unet.blocks": (1, 1),
    "model.uvit.depth": 2,
    "model.uvit.hidden_dim": 16,
    "model.uvit.num_heads": 2,
    "model.dit.depth": 1,
    "model.dit.hidden_dim": 16,
    "model.dit.num_heads": 2,
    "model.diffit.widths": (8, 8),
    "model.diffit.blocks": (1, 1),
    "model.diffit.windows": (2, 0),
    "model.diffit.num_heads": 2,
    "model.latent_diffit.depth": 1,
    "model.latent_diffit.hidden_dim": 16,
    "model.latent_diffit.num_heads": 2,
    "model.ssm.depth": 1,
    "model.ssm.hidden_dim": 16,
    "model.ssm.num_heads": 2,
    "training.steps": 4,
    "training.batch_size": 4,
    "training.precision": "float32",  # the same on every machine
    "optimizer.schedule.warmup": 2,
    "sampler.steps": 3,
    "sampler.num_samples": 4,
    "sampler.sub_batch": 4,
    "saving.checkpoint_every": 2,
    "saving.validate_every": 2,
    "saving.validation_images": 6,
    "saving.preview_every": 3,
    "saving.preview_samples": 2,
    "saving.preview_steps": 2,
}


@cache
def _preset(name: str) -> ConfigDict:
    """A preset, loaded once; it must not be changed."""
    return configuration.load(name)


def flags(preset: str = "mnist", **changes: Any) -> list[str]:
    """The small settings that a preset has keys for, as overrides; in the names of changes two underscores stand for a dot."""
    given = {key.replace("__", "."): Text(value) for key, value in changes.items()}
    keys = configuration.flatten(configuration.changed(_preset(preset), given))
    settings = {**{key: value for key, value in SMALL.items() if key in keys}, **given}
    return [f"--config.{key}={value}" for key, value in settings.items()]


def small(preset: str, **changes: Any) -> ConfigDict:
    """A preset with the small settings."""
    return configuration.load(preset, flags(preset, **changes))
