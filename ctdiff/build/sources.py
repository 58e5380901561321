"""Data: sources, and batches as a process takes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

import continuous_diffusion as continuous
from ctdiff import data
from ctdiff.build.arguments import made
from ctdiff.build.processes import States, build_pixels
from ctdiff.build.shapes import image_size
from ctdiff.training import Batch, BatchSequence
from ctdiff.training.generators import kept_generators
from diffusion_core import stream_seed

__all__ = ["PATH_SOURCES", "SOURCES", "EncodedBatches", "build_batches", "build_data", "data_path"]

_DATA = 0x64617461  # a stream of its own beside that of the training

PATH_SOURCES = ("idx", "array", "folder")
"""Sources that are nothing without `data.path`; the others have a place of their own."""

_CACHES = ("mnist", "fashion_mnist", "cifar10")
"""Sources that are downloaded to a folder: `data` where none is given."""

SOURCES: dict[str, type[data.Source]] = {
    "embedded_mnist": data.EmbeddedMNIST,
    "mnist": data.MNIST,
    "fashion_mnist": data.FashionMNIST,
    "cifar10": data.CIFAR10,
    "idx": data.IDX,
    "array": data.Array,
    "folder": data.Folder,
}


def data_path(config: ConfigDict) -> str:
    """`config.data.path` from the root on, so that a run finds its images wherever it is used; "" where there is none."""
    path, name = config.data.path, config.data.name
    if not path and name not in _CACHES:
        return ""
    return str(Path(path or "data").expanduser().absolute())


def build_data(config: ConfigDict) -> data.Splits:
    """The training and the test images, as states 0 .. S-1.

    A source that draws from the global generators of Python, numpy or torch finds them seeded from `training.seed`, and
    leaves them where they were: the images are the same when a training begins, when it is resumed and when it is evaluated.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: the data are not there, or not what the configuration says.
    """
    settings, size = config.data, image_size(config.data)
    source = made(SOURCES[settings.name], {**settings, "path": data_path(config), "image_size": size})
    with kept_generators(stream_seed(config.training.seed, _DATA)):
        splits = source.load()
    if splits.train.shape[0] != settings.channels:
        raise ValueError(f"the images have {splits.train.shape[0]} channels, config.data.channels = {settings.channels}")
    train = data.fraction(splits.train, settings.fraction, config.training.seed)
    states = data.quantise if settings.quantise else data.as_states
    splits = data.Splits(train, splits.test).map(lambda part: states(data.resized(part, size), settings.num_values))
    low, high = (int(value) for value in splits.train.images.aminmax())
    if low == high:
        raise ValueError(
            f"every pixel of the training images is {low} of config.data.num_values = {settings.num_values} values, expected "
            "at least two: images that hold 0 .. num_values - 1 already are taken as they are by config.data.quantise = False"
        )
    if config.model.num_classes and not 0 < splits.num_classes <= config.model.num_classes:
        raise ValueError(f"the images have {splits.num_classes} classes, config.model.num_classes = {config.model.num_classes}")
    return splits


@dataclass(frozen=True)
class EncodedBatches:
    """Batches as the process takes them: pixels encoded, labels only where the network wants them.

    Arguments:
        batches: pixels (B, C, H, W) and labels.
        pixels: the encoding.
        labelled: whether conditions are passed on.
    """

    batches: BatchSequence
    pixels: States | continuous.PixelScale
    labelled: bool

    def __getitem__(self, step: int) -> Batch:
        x_0, cond = self.batches[step]
        return self.pixels.encode(x_0), cond if self.labelled else {}


def build_batches(config: ConfigDict, images: data.ImageData) -> EncodedBatches:
    """The endless sequence of training batches."""
    rotation = data.Rotation(config.data.rotation) if config.data.rotation else None
    flip = data.Flip() if config.data.flip else None
    batches = data.Batches(images.images, images.labels, config.training.batch_size, config.training.seed, rotation, flip)
    return EncodedBatches(batches, build_pixels(config), config.model.num_classes > 0)
