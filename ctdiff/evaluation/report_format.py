"""The report of a run as dataclasses: the content of evaluation.json, key by key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ctdiff.data import Splits, data_record
from ctdiff.evaluation.records import Environment, from_json
from ctdiff.metrics.measurement import Measurement
from diffusion_core import BitsPerDim

__all__ = [
    "Bound",
    "BoundSettings",
    "CheckpointReport",
    "DataRecord",
    "ExtractorRecord",
    "ImagesRecord",
    "ReferenceSettings",
    "Report",
    "ReportSettings",
    "Weights",
]


@dataclass(frozen=True)
class ImagesRecord:
    """A set of real images.

    Arguments:
        count: the number of images.
        sha256: the hash of pixels and labels.
    """

    count: int
    sha256: str


@dataclass(frozen=True)
class DataRecord:
    """The real images that numbers depend on.

    Arguments:
        shape: channels, height and width.
        num_values: the number of values of a pixel.
        train: the training images.
        held_out: the held-out images.
    """

    shape: list[int]
    num_values: int
    train: ImagesRecord
    held_out: ImagesRecord

    @classmethod
    def of(cls, splits: Splits) -> DataRecord:
        """The record of the given images."""
        return from_json(cls, data_record(splits), "data")


@dataclass(frozen=True)
class ExtractorRecord:
    """The network that made the features.

    Arguments:
        name: its name.
        hash: 8 hexadecimal digits of its weights.
        preprocessing: how images become its input.
        width: the number of features.
        refused: why the extractor cannot read the images; None if it can.
    """

    name: str
    hash: str
    preprocessing: str
    width: int
    refused: str | None = None


@dataclass(frozen=True)
class ReferenceSettings:
    """Settings of `ctdiff.metrics.Reference`.

    Arguments:
        neighbour: k of precision, recall, density and coverage.
        replicates: the number of random halves of the samples. The spread of a metric over the halves gives its interval.
        seed: the seed of the random halves, and of the random order of the real images.
    """

    neighbour: int
    replicates: int
    seed: int


@dataclass(frozen=True)
class BoundSettings:
    """Settings of bits per dimension.

    Arguments:
        images: the number of held-out images, the first ones; 0 means no bits per dimension.
        draws: the number of random pairs of a time and a noise for each image.
        seed: the seed of the random times and noises.
    """

    images: int
    draws: int
    seed: int


@dataclass(frozen=True)
class Bound:
    """Bits per dimension with their terms and errors; the fields are those of `diffusion_core.BitsPerDim`."""

    num_images: int
    value: float
    standard_error: float
    image_spread: float
    image_error: float
    diffusion: float
    prior: float
    reconstruction: float
    largest_weight: float
    largest_share: float
    effective_draws: float

    @classmethod
    def of(cls, bits: BitsPerDim) -> Bound:
        """The summary of a bound."""
        return cls(**bits.summary())


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint.

    Arguments:
        step: the training step.
        weights: the SHA-256 of the file.
    """

    step: int
    weights: str


@dataclass(frozen=True)
class ReportSettings:
    """Everything that was chosen for a report. The numbers are computed from these settings alone.

    Arguments:
        checkpoints: the weights that were measured.
        ema: whether the weights are averaged.
        device: where the samples were computed.
        sampler: the configuration's section `sampler`.
        seeds: the seeds of the samples, such as 0-1999.
        labels: the classes of the samples; the list starts again after its end. None if no classes were given.
        extractor: the network that made the features.
        reference: the settings of the metrics.
        likelihood: the settings of bits per dimension.
    """

    checkpoints: list[Weights]
    ema: bool
    device: str
    sampler: dict[str, Any]
    seeds: str
    labels: list[int] | None
    extractor: ExtractorRecord
    reference: ReferenceSettings
    likelihood: BoundSettings


@dataclass(frozen=True)
class CheckpointReport:
    """The measurements of one checkpoint.

    Arguments:
        step: the training step.
        network_calls: the number of function evaluations (NFE) of a sample.
        seconds_per_sample: the time of a sample.
        metrics: the metrics by short name.
        bits_per_dim: the bound on held-out images; None if it was not measured.
    """

    step: int
    network_calls: int
    seconds_per_sample: float
    metrics: dict[str, Measurement]
    bits_per_dim: Bound | None = None


@dataclass(frozen=True)
class Report:
    """The report of a run.

    Arguments:
        run: the run's folder.
        settings: what was chosen.
        data: the real images.
        environment: the software and the machine.
        checkpoints: the measurements, one entry for each checkpoint.
        noise: the metrics of uniform noise, by short name.
    """

    FORMAT: ClassVar[str] = "ctdiff-evaluation-1"

    run: str
    settings: ReportSettings
    data: DataRecord
    environment: Environment
    checkpoints: list[CheckpointReport]
    noise: dict[str, Measurement]
