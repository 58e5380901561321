"""Dataclasses with the content of evaluation.json. Each field is a key of the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ctdiff.data.record import DataRecord
from ctdiff.metrics.measurement import Measurement
from ctdiff.records import Environment
from diffusion_core import BitsPerDim

__all__ = [
    "Bound",
    "BoundSettings",
    "CheckpointReport",
    "ExtractorRecord",
    "ReferenceSettings",
    "Report",
    "ReportSettings",
    "Weights",
]


@dataclass(frozen=True)
class ExtractorRecord:
    """The network that computed the features.

    Arguments:
        name: the name of the network.
        hash: 8 hexadecimal digits of the hash of its weights.
        preprocessing: the conversion of images to the input of the network, in words.
        width: the number of features.
        refused: the reason why the network cannot process the images; None if it can.
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
        neighbour: the number k of the nearest neighbour in precision, recall, density and coverage.
        replicates: how often a random half of the samples is drawn. The spread of a metric over these halves gives its
            interval.
        seed: the seed of the random halves, and of the random order of the real images.
    """

    neighbour: int
    replicates: int
    seed: int


@dataclass(frozen=True)
class BoundSettings:
    """Settings of bits per dimension.

    Arguments:
        images: the number of held-out images. The first images are used. With 0, no bits per dimension are computed.
        draws: the number of random draws for each image. A draw is a time and the noise at this time.
        seed: the seed of the random draws.
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
        """Make the summary of a bound."""
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
    """The settings of a report. Together with the data and the environment, they determine all numbers.

    Arguments:
        checkpoints: the weights that were measured.
        ema: whether the weights are averaged.
        device: the device that computed the samples.
        sampler: the configuration's section `sampler`.
        seeds: the seeds of the samples, such as 0-1999.
        labels: the classes of the samples; the list starts again after its end. None if no classes were given.
        extractor: the network that computed the features.
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
        metrics: a dictionary from short names of metrics, such as FID, to measurements.
        bits_per_dim: the upper bound on the bits per dimension of held-out images; None if it was not measured.
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
        settings: the settings of the report.
        data: the real images.
        environment: the software and the machine.
        checkpoints: the measurements, one entry for each checkpoint.
        noise: a dictionary from short names to measurements: the same metrics of images of independent uniform pixels.
    """

    FORMAT: ClassVar[str] = "ctdiff-evaluation-1"

    run: str
    settings: ReportSettings
    data: DataRecord
    environment: Environment
    checkpoints: list[CheckpointReport]
    noise: dict[str, Measurement]
