"""Dataclasses with the content of comparison.json. Each field is a key of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ctdiff.comparison.proven import Statement
from ctdiff.data.record import DataRecord
from ctdiff.evaluation.report_format import Bound, BoundSettings, ExtractorRecord, ReferenceSettings
from ctdiff.metrics.measurement import Measurement
from ctdiff.records import Environment

__all__ = ["Cell", "CellResult", "Comparison", "ComparisonSettings", "RunCard", "Shown", "Skipped", "TrainingRecord"]


@dataclass(frozen=True)
class CellResult:
    """The measurements of one sampler of one run within one budget of network calls.

    Arguments:
        steps: the number of sampling steps.
        network_calls: the number of function evaluations (NFE) of a sample, at most the budget.
        seconds_per_sample: the time of a sample.
        metrics: a dictionary from short names of metrics, such as FID, to measurements.
    """

    steps: int
    network_calls: int
    seconds_per_sample: float
    metrics: dict[str, Measurement]


@dataclass(frozen=True)
class Cell(CellResult):
    """A cell of a comparison: the result of one run with one sampler and one budget of network calls.

    Arguments:
        run: the run's name.
        sampler: the sampler's name; `tau_leaping+2` makes two corrector moves after each step.
        calls: the budget, which is the largest number of network calls for a sample.
        cell: the name of the cell's files.
    """

    run: str
    sampler: str
    calls: int
    cell: str


@dataclass(frozen=True)
class Skipped:
    """A cell whose budget is too small for one step. The fields are those of `Cell`."""

    run: str
    sampler: str
    calls: int
    cell: str
    steps: None = None


@dataclass(frozen=True)
class Shown:
    """The samples that the page shows of a run.

    Arguments:
        cell: the name of the cell's files.
        sampler: the sampler's name.
        calls: the budget, which is the largest number of network calls for a sample.
        network_calls: the number of function evaluations (NFE) of a sample.
        steps: the number of sampling steps.
        samples: the number of samples in the picture.
    """

    cell: str
    sampler: str
    calls: int
    network_calls: int
    steps: int
    samples: int


@dataclass(frozen=True)
class TrainingRecord:
    """The training of a run.

    Arguments:
        steps: the number of steps so far.
        of: the number of steps in the configuration.
        batch_size: the number of images in a step.
    """

    steps: int
    of: int
    batch_size: int


@dataclass(frozen=True)
class RunCard:
    """The description of a run.

    Arguments:
        name: the run's name.
        path: the run's folder.
        step: the number of training steps that the weights have had.
        weights: the SHA-256 of the weights.
        process: the name of the engine in the configuration.
        engine: the process in words.
        backbone: the backbone in words.
        backbone_settings: the hash of the backbone's settings.
        parameters: the number of parameters.
        training: the training.
        command: a command that trains a run with the same configuration.
        samplers: a dictionary from the names of the samplers to their settings.
        bits_per_dim: the upper bound on the bits per dimension of held-out images; None if it was not measured.
        shown: the samples that the page shows; None if no cell was measured.
        proven: a dictionary from the name of each sampler, and "bits per dimension", to the proven properties.
    """

    name: str
    path: str
    step: int
    weights: str
    process: str
    engine: str
    backbone: str
    backbone_settings: str
    parameters: int
    training: TrainingRecord
    command: str
    samplers: dict[str, dict[str, Any]]
    bits_per_dim: Bound | None
    shown: Shown | None = None
    proven: dict[str, Statement] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonSettings:
    """The settings of a comparison.

    Arguments:
        seeds: the seeds of the samples, such as 0-499.
        device: the device that computed the samples.
        extractor: the network that computed the features.
        reference: the settings of the metrics.
        calls: the budgets of network calls.
        samplers: the chosen samplers; None means all.
        overrides: the flags that changed settings of samplers.
        metric: the metric of the plot.
        likelihood: the settings of bits per dimension.
    """

    seeds: str
    device: str
    extractor: ExtractorRecord
    reference: ReferenceSettings
    calls: list[int]
    samplers: list[str] | None
    overrides: list[str]
    metric: str
    likelihood: BoundSettings


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs and samplers.

    Arguments:
        settings: the settings of the comparison.
        data: the real images.
        environment: the software and the machine.
        runs: the runs.
        cells: the measurements.
        skipped: the cells whose budget is too small for one step.
    """

    FORMAT: ClassVar[str] = "ctdiff-comparison-1"

    settings: ComparisonSettings
    data: DataRecord
    environment: Environment
    runs: list[RunCard]
    cells: list[Cell]
    skipped: list[Skipped]
