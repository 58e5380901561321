"""The data of a configuration: images, how they become clean data x_0, and which positions are known."""

from __future__ import annotations

from ml_collections import ConfigDict

from ctdiff.codecs import Codec
from ctdiff.data import Batches, ImageData, Preparation, Splits
from ctdiff.files import expanded
from ctdiff.recipe.engine import engine_of, filled, part
from ctdiff.training.generators import kept_generators
from diffusion_core import KnownMask, stream_seed

__all__ = ["build_batches", "build_data", "build_known", "build_pixels", "event_shape", "set_absolute_path"]

_DATA = 0x64617461  # the random stream of data sources


def event_shape(config: ConfigDict) -> tuple[int, int, int]:
    """Return the shape of one image (C, H, W)."""
    return (config.data.channels, *filled(Preparation, config.data).size)


def set_absolute_path(config: ConfigDict) -> None:
    """Make the path of the images absolute, so that a run finds them from any working directory."""
    for source in (value for value in config.data.values() if isinstance(value, ConfigDict) and "path" in value):
        source.path = str(expanded(source.path).absolute())


def build_data(config: ConfigDict) -> Splits:
    """Load the training and the test images, as states 0 .. S - 1.

    While a source loads, the global generators of Python, numpy and torch are seeded from `training.seed`. Afterwards they have
    their old states again. So a source that draws random numbers gives the same images in training, after a resume and in
    evaluation.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: the data are missing, or do not fit the configuration.
    """
    preparation, classes = filled(Preparation, config.data), config.model.num_classes
    source = part(config, "data", channels=preparation.channels, image_size=preparation.size)
    with kept_generators(stream_seed(config.training.seed, _DATA)):
        splits: Splits = source.load()
    splits = preparation.prepared(splits, config.training.seed)
    if classes and not 0 < splits.num_classes <= classes:
        raise ValueError(f"the images have {splits.num_classes} classes, config.model.num_classes = {classes}")
    return splits


def build_batches(config: ConfigDict, images: ImageData) -> Batches:
    """Make the endless sequence of training batches (x_0, cond), with labels if the network has classes."""
    preparation, training = filled(Preparation, config.data), config.training
    labels = images.labels if config.model.num_classes else None
    return preparation.batches(images.images, labels, training.batch_size, training.seed, build_pixels(config).encode)


def build_pixels(config: ConfigDict) -> Codec:
    """Make the codec: it converts between pixels 0 .. S - 1 and clean data x_0."""
    return engine_of(config).pixels(config)


def build_known(config: ConfigDict) -> KnownMask | None:
    """What draws the known positions of a conditional model; None for a model that completes nothing."""
    known: KnownMask | None = part(config, "model.known")
    return known
