"""The objects of a configuration: data, network, training objective, optimiser, sampler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

from backbones import Backbone
from ctdiff.data import Batches, ImageData, Preparation, Splits
from ctdiff.recipe.engine import build_grid, engine_of, part, tree
from ctdiff.recipe.errors import named
from ctdiff.recipe.schema import fields_of
from ctdiff.recipe.sections import Interval
from ctdiff.recipe.tree import chosen
from ctdiff.training.generators import kept_generators
from ctdiff.training.precision import HalfPrecision, resolved_precision
from diffusion_core import Denoiser, Objective, Process, Sampler, stream_seed
from diffusion_core.ranges import arguments

__all__ = [
    "advice",
    "build_all",
    "build_batches",
    "build_data",
    "build_denoiser",
    "build_network",
    "build_objective",
    "build_pixels",
    "build_process",
    "build_sampler",
    "event_shape",
    "set_absolute_path",
]

_DATA = 0x64617461  # a stream of its own beside that of the training


def _preparation(config: ConfigDict) -> Preparation:
    return Preparation(**{name: config.data[name] for name in fields_of(Preparation)})


def event_shape(config: ConfigDict) -> tuple[int, int, int]:
    """The shape of one image (C, H, W)."""
    return (config.data.channels, *_preparation(config).size)


def set_absolute_path(config: ConfigDict) -> None:
    """Where the images lie, from the root on, so that a run finds them wherever it is used."""
    for source in (value for value in config.data.values() if isinstance(value, ConfigDict) and "path" in value):
        source.path = str(Path(source.path).expanduser().absolute())


def build_data(config: ConfigDict) -> Splits:
    """The training and the test images, as states 0 .. S - 1.

    A source that draws from the global generators of Python, numpy or torch finds them seeded from `training.seed`, and
    leaves them where they were: the images are the same when a training begins, when it is resumed and when it is evaluated.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: the data are not there, or not what the configuration says.
    """
    preparation, classes = _preparation(config), config.model.num_classes
    source = part(config, "data", channels=preparation.channels, image_size=preparation.size)
    with kept_generators(stream_seed(config.training.seed, _DATA)):
        splits: Splits = source.load()
    splits = preparation.prepared(splits, config.training.seed)
    if classes and not 0 < splits.num_classes <= classes:
        raise ValueError(f"the images have {splits.num_classes} classes, config.model.num_classes = {classes}")
    return splits


def build_batches(config: ConfigDict, images: ImageData) -> Batches:
    """The endless sequence of training batches as the process takes them, with labels where the network wants them."""
    labels = images.labels if config.model.num_classes else None
    encode = engine_of(config).pixels(config).encode
    return _preparation(config).batches(images.images, labels, config.training.batch_size, config.training.seed, encode)


def build_pixels(config: ConfigDict) -> Any:
    """The way between pixels 0 .. S - 1 and what the process runs on: `encode` and `decode`."""
    return engine_of(config).pixels(config)


def build_process(config: ConfigDict) -> Process:
    """The forward process."""
    return engine_of(config).process(config).to(config.training.device)


def build_network(config: ConfigDict) -> nn.Module:
    """The network, freshly initialised from torch's global random state."""
    half = resolved_precision(config.training.precision, config.training.device) == "bfloat16"

    def backbone(in_channels: int, out_channels: int) -> Backbone:
        size, classes = event_shape(config)[1:], config.model.num_classes
        made: Backbone = part(
            config, "model", in_channels=in_channels, out_channels=out_channels, img_size=size, num_classes=classes
        )
        return HalfPrecision(made) if half else made

    network = engine_of(config).network(config, backbone)
    # Convolutions in float32 on a CPU are fastest with the channels innermost; those in bfloat16 are not.
    return network.to(config.training.device).to(memory_format=torch.contiguous_format if half else torch.channels_last)


def build_denoiser(config: ConfigDict, process: Process, network: Any) -> Denoiser[Any]:
    """The denoiser that is trained."""
    return engine_of(config).denoiser(config, process=process, network=network, event_shape=event_shape(config))


def build_objective(config: ConfigDict, denoiser: Denoiser[Any]) -> Objective[Any]:
    """The training objective."""
    wires, dropout = engine_of(config).wires(config), config.loss.label_dropout if config.model.num_classes else 0.0
    times = part(config, "loss.times", t_min=config.process.t_min, t_max=config.process.t_max, **wires)
    return Objective(denoiser, part(config, "loss", **wires), times, dropout)


def build_sampler(config: ConfigDict, denoiser: Denoiser[Any], steps: int | None = None) -> Sampler[Any]:
    """The sampler of a denoiser as it is trained, or the same with another number of steps."""
    engine = engine_of(config)
    denoiser = engine.sampled(config, denoiser)
    if config.sampler.guidance.g != 1:  # 1 is the conditional model, which is the denoiser as it is
        denoiser = engine.guided(config, denoiser, part(config, "sampler.guidance"))
    return engine.corrected(config, part(config, "sampler", denoiser=denoiser, grid=build_grid(config, steps)))


def build_all(config: ConfigDict) -> None:
    """Make everything but the data, with a network without numbers: what cannot be made is refused here.

    Raises:
        ConfigError: saying which key, which value and what is expected.
    """
    plain = ConfigDict(config.to_dict())
    plain.training.update(precision="float32", device="meta")
    with named("process"):
        Interval(config.process.engine, config.process.t_min, config.process.t_max)
        process = engine_of(config).process(config)
    with named("data"):
        part(config, "data", channels=config.data.channels, image_size=event_shape(config)[1:])
    with named("model"):
        denoiser = build_denoiser(config, process, build_network(plain))
    with named("loss"):
        build_objective(config, denoiser)
    part(config, "optimizer"), part(config, "optimizer.schedule", steps=config.training.steps)
    with named("sampler"):
        for steps in (None, config.saving.preview_steps):
            build_sampler(config, denoiser, steps)


def advice(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Keys whose values can be built but cannot be meant, each with what to say about it."""
    yield from engine_of(config).advice(config)
    sampler = config.sampler
    grid = chosen(tree(config.process.engine).inner("sampler").inner("grid"), sampler.grid.name, "sampler.grid")
    if sampler.guidance.g != 1 and not config.model.num_classes:
        yield (
            "sampler.guidance.g",
            f"config.sampler.guidance.g = {sampler.guidance.g!r}, expected 1.0: config.model.num_classes = 0, and guidance "
            "needs a network that was trained with labels",
        )
    for name in ("t_min", "t_max"):
        if sampler[name] is not None and name not in arguments(grid or object):
            why = f"config.sampler.grid.name = {sampler.grid.name!r} has ends of its own"
            yield f"sampler.{name}", f"config.sampler.{name} = {sampler[name]!r} cannot act, expected none: {why}"
