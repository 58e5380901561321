"""The objects of a configuration: process, network, training objective, sampler."""

from __future__ import annotations

from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

from backbones import Backbone, KnownChannels
from ctdiff.recipe.data import build_known, event_shape
from ctdiff.recipe.engine import engine_of, is_guided, part
from ctdiff.recipe.errors import named
from ctdiff.recipe.user_classes import user_modules
from ctdiff.training.precision import HalfPrecision, resolved_precision
from diffusion_core import Denoiser, Objective, Process, Sampler, TimeGrid
from diffusion_core.times import check_interval

__all__ = [
    "build_all",
    "build_denoiser",
    "build_grid",
    "build_network",
    "build_objective",
    "build_process",
    "build_sampler",
    "build_shapes",
]


def build_process(config: ConfigDict) -> Process:
    """Make the forward process."""
    return engine_of(config).process(config).to(config.training.device)


def build_network(config: ConfigDict) -> nn.Module:
    """Make the network, initialised from the global random state of torch."""
    # On a CPU, convolutions in float32 are fastest with the channels last; convolutions in bfloat16 are not.
    order = torch.contiguous_format if _halved(config) else torch.channels_last
    return _network(config).to(config.training.device).to(memory_format=order)


def build_shapes(config: ConfigDict) -> nn.Module:
    """Make the network on the meta device. Its tensors have shapes but no values, so even a large network is made at once."""
    if user_modules(config.to_dict()):  # the constructor of a class of the user may read the values of tensors
        return _network(config).to("meta")
    with torch.device("meta"):
        return _network(config)


def _halved(config: ConfigDict) -> bool:
    return resolved_precision(config.training.precision, config.training.device) == "bfloat16"


def _network(config: ConfigDict) -> nn.Module:
    def backbone(in_channels: int, out_channels: int) -> Backbone:
        event, classes = event_shape(config), config.model.num_classes
        completes = build_known(config) is not None
        channels = {"in_channels": in_channels + event[0] * completes, "out_channels": out_channels}
        made: Backbone = part(config, "model", **channels, img_size=event[1:], num_classes=classes)
        made = HalfPrecision(made) if _halved(config) else made
        return KnownChannels(made, event) if completes else made

    return engine_of(config).network(config, backbone)


def build_denoiser(config: ConfigDict, process: Process, network: Any) -> Denoiser[Any]:
    """Make the denoiser that is trained."""
    return engine_of(config).denoiser(config, process=process, network=network, event_shape=event_shape(config))


def build_objective(config: ConfigDict, denoiser: Denoiser[Any]) -> Objective[Any]:
    """Make the training objective."""
    wires, dropout = engine_of(config).wires(config), config.loss.label_dropout if config.model.num_classes else 0.0
    times = part(config, "loss.times", t_min=config.process.t_min, t_max=config.process.t_max, **wires)
    return Objective(denoiser, part(config, "loss", **wires), times, dropout, known=build_known(config))


def build_grid(config: ConfigDict, steps: int | None = None) -> TimeGrid:
    """Make the time grid of the sampler, or one with another number of steps."""
    engine, settings = engine_of(config), config.sampler
    given = {"t_min": settings.t_min, "t_max": settings.t_max}
    ends = {name: usual if given[name] is None else given[name] for name, usual in engine.ends(config).items()}
    steps = settings.steps if steps is None else steps
    grid: TimeGrid = part(config, "sampler.grid", steps=steps, **ends, **engine.wires(config))
    return grid


def build_sampler(config: ConfigDict, denoiser: Denoiser[Any], steps: int | None = None) -> Sampler[Any]:
    """Make the sampler of a trained denoiser, or the same sampler with another number of steps."""
    engine = engine_of(config)
    denoiser = engine.sampled(config, denoiser)
    if is_guided(config):
        denoiser = engine.guided(config, denoiser, part(config, "sampler.guidance"))
    return engine.corrected(config, part(config, "sampler", denoiser=denoiser, grid=build_grid(config, steps)))


def build_all(config: ConfigDict) -> None:
    """Make all parts except the data, with a network on the meta device, to find errors early.

    Raises:
        ConfigError: a part cannot be made. The message names the key, the value and what is expected.
    """
    with named("process"):
        check_interval(config.process.t_min, config.process.t_max)
        process = engine_of(config).process(config)
    with named("data"):
        part(config, "data", channels=config.data.channels, image_size=event_shape(config)[1:])
    with named("model"):
        denoiser = build_denoiser(config, process, build_shapes(config))
    with named("loss"):
        build_objective(config, denoiser)
    part(config, "optimizer"), part(config, "optimizer.schedule", steps=config.training.steps)
    with named("sampler"):
        for steps in (None, config.saving.preview_steps):
            build_sampler(config, denoiser, steps)
