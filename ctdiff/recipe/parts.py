"""The objects of a configuration: data, network, training objective, optimiser, sampler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

from backbones import Backbone, KnownChannels
from ctdiff.data import Batches, ImageData, Preparation, Splits
from ctdiff.recipe.engine import build_grid, engine_of, part, tree
from ctdiff.recipe.errors import named
from ctdiff.recipe.schema import fields_of
from ctdiff.recipe.sections import Interval
from ctdiff.recipe.tree import chosen
from ctdiff.training.generators import kept_generators
from ctdiff.training.precision import HalfPrecision, resolved_precision
from diffusion_core import Denoiser, KnownMask, Objective, Process, Sampler, stream_seed
from diffusion_core.ranges import arguments

__all__ = [
    "advice",
    "build_all",
    "build_batches",
    "build_data",
    "build_denoiser",
    "build_known",
    "build_network",
    "build_objective",
    "build_pixels",
    "build_process",
    "build_sampler",
    "event_shape",
    "set_absolute_path",
]

_DATA = 0x64617461  # the random stream of data sources


def _preparation(config: ConfigDict) -> Preparation:
    return Preparation(**{name: config.data[name] for name in fields_of(Preparation)})


def event_shape(config: ConfigDict) -> tuple[int, int, int]:
    """Return the shape of one image (C, H, W)."""
    return (config.data.channels, *_preparation(config).size)


def set_absolute_path(config: ConfigDict) -> None:
    """Make the path of the images absolute, so that a run finds them from any working directory."""
    for source in (value for value in config.data.values() if isinstance(value, ConfigDict) and "path" in value):
        source.path = str(Path(source.path).expanduser().absolute())


def build_data(config: ConfigDict) -> Splits:
    """Load the training and the test images, as states 0 .. S - 1.

    While a source loads, the global generators of Python, numpy and torch are seeded from `training.seed`. Afterwards they have
    their old states again. So a source that draws random numbers gives the same images in training, after a resume and in
    evaluation.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: the data are missing, or do not fit the configuration.
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
    """Make the endless sequence of training batches (x_0, cond), with labels if the network has classes."""
    labels = images.labels if config.model.num_classes else None
    encode = engine_of(config).pixels(config).encode
    return _preparation(config).batches(images.images, labels, config.training.batch_size, config.training.seed, encode)


def build_pixels(config: ConfigDict) -> Any:
    """Make the conversion between pixels 0 .. S - 1 and clean data x_0: an object with `encode` and `decode`."""
    return engine_of(config).pixels(config)


def build_process(config: ConfigDict) -> Process:
    """Make the forward process."""
    return engine_of(config).process(config).to(config.training.device)


def build_network(config: ConfigDict) -> nn.Module:
    """Make the network, initialised from the global random state of torch."""
    half = resolved_precision(config.training.precision, config.training.device) == "bfloat16"

    def backbone(in_channels: int, out_channels: int) -> Backbone:
        event, classes = event_shape(config), config.model.num_classes
        completes = build_known(config) is not None
        channels = {"in_channels": in_channels + event[0] * completes, "out_channels": out_channels}
        made: Backbone = part(config, "model", **channels, img_size=event[1:], num_classes=classes)
        made = HalfPrecision(made) if half else made
        return KnownChannels(made, event) if completes else made

    network = engine_of(config).network(config, backbone)
    # On a CPU, convolutions in float32 are fastest with the channels last; convolutions in bfloat16 are not.
    return network.to(config.training.device).to(memory_format=torch.contiguous_format if half else torch.channels_last)


def build_known(config: ConfigDict) -> KnownMask | None:
    """What draws the known positions of a conditional model; None for a model that completes nothing."""
    known: KnownMask | None = part(config, "model.known")
    return known


def build_denoiser(config: ConfigDict, process: Process, network: Any) -> Denoiser[Any]:
    """Make the denoiser that is trained."""
    return engine_of(config).denoiser(config, process=process, network=network, event_shape=event_shape(config))


def build_objective(config: ConfigDict, denoiser: Denoiser[Any]) -> Objective[Any]:
    """Make the training objective."""
    wires, dropout = engine_of(config).wires(config), config.loss.label_dropout if config.model.num_classes else 0.0
    times = part(config, "loss.times", t_min=config.process.t_min, t_max=config.process.t_max, **wires)
    return Objective(denoiser, part(config, "loss", **wires), times, dropout, known=build_known(config))


def build_sampler(config: ConfigDict, denoiser: Denoiser[Any], steps: int | None = None) -> Sampler[Any]:
    """Make the sampler of a trained denoiser, or the same sampler with another number of steps."""
    engine = engine_of(config)
    denoiser = engine.sampled(config, denoiser)
    if config.sampler.guidance.g != 1:  # g = 1 is the conditional model itself
        denoiser = engine.guided(config, denoiser, part(config, "sampler.guidance"))
    return engine.corrected(config, part(config, "sampler", denoiser=denoiser, grid=build_grid(config, steps)))


def build_all(config: ConfigDict) -> None:
    """Make all parts except the data, with a network on the meta device, to find errors early.

    Raises:
        ConfigError: a part cannot be made. The message names the key, the value and what is expected.
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
    """Yield the keys of values that have no effect or do not fit, each with a message."""
    yield from engine_of(config).advice(config)
    sampler = config.sampler
    grid = chosen(tree(config.process.engine).inner("sampler").inner("grid"), sampler.grid.name, "sampler.grid")
    if sampler.guidance.g != 1 and not config.model.num_classes:
        yield (
            "sampler.guidance.g",
            f"config.sampler.guidance.g = {sampler.guidance.g!r}, expected 1.0: config.model.num_classes = 0, and guidance "
            "needs a network that was trained with labels",
        )
    if sampler.guidance.name != "constant" and sampler.guidance.g == 1:
        yield (
            "sampler.guidance.name",
            f"config.sampler.guidance.name = {sampler.guidance.name!r} has no effect, expected 'constant': "
            "config.sampler.guidance.g = 1.0 is the model without guidance",
        )
    for name in ("t_min", "t_max"):
        if sampler[name] is not None and name not in arguments(grid or object):
            why = f"config.sampler.grid.name = {sampler.grid.name!r} has ends of its own"
            yield f"sampler.{name}", f"config.sampler.{name} = {sampler[name]!r} cannot act, expected none: {why}"
