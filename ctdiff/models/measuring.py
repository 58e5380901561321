"""Measures a run with settings that fit into a row of a card. The work is done by `ctdiff.evaluation`.

Finished pieces are saved in files until all numbers are done, so that an interrupted measurement continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ctdiff import recipe
from ctdiff.card import Architecture, Number
from ctdiff.comparison.run_cards import backbone_in_words
from ctdiff.data import Splits
from ctdiff.evaluation import Evaluator, Parts, draw, run_bits_per_dim
from ctdiff.hashes import file_hash
from ctdiff.metrics.features import Extractor
from ctdiff.metrics.measurement import Measurement, likelihood
from ctdiff.records import environment
from ctdiff.runs import Run
from ctdiff.sampling import chosen_labels

__all__ = ["BITS", "Measured", "Measurer", "Setting", "architecture_of"]

BITS = "bits/dim"
"""The name of the metric that is measured without samples."""


@dataclass(frozen=True)
class Setting:
    """What is measured: samples, or the bits per dimension of held-out images.

    Arguments:
        n: the number of samples, or of held-out images.
        first_seed: the seed of the first sample; the others have the following seeds. For bits per dimension, the only seed.
        steps: the number of steps of the sampler; None for bits per dimension.
        draws: the number of draws for each held-out image; None for samples.
    """

    n: int
    first_seed: int
    steps: int | None = None
    draws: int | None = None

    @classmethod
    def of(cls, row: Number) -> Setting:
        """Return the setting of a row of a card."""
        return cls(row.n, row.first_seed, row.steps, row.draws)


@dataclass(frozen=True, eq=False)
class Measured:
    """The measurements of a setting.

    Arguments:
        metrics: a dictionary from names of metrics to measurements.
        network_calls: the number of function evaluations (NFE) of a sample; None for bits per dimension.
        images: the samples, uint8 (N, C, H, W); None for bits per dimension.
    """

    metrics: Mapping[str, Measurement]
    network_calls: int | None = None
    images: Tensor | None = None


def architecture_of(run: Run) -> Architecture:
    """Return the parts of the model of a run."""
    config = run.config
    return Architecture(
        process=recipe.engine_of(config).described(config),
        schedule=config.process.schedule.name,
        parameterisation=config.model.parameterisation.name,
        backbone=backbone_in_words(config),
        parameters=sum(parameter.numel() for parameter in run.denoiser.parameters()),
        classes=config.model.num_classes,
        sampler=config.sampler.name,
        steps=config.sampler.steps,
    )


class Measurer:
    """Measures a run. Each setting is measured once.

    Arguments:
        run: the run or model.
        splits: the images of its training.
        extractor: the network that computes the features of images.
        replicates: how often a random half of the samples is drawn, for the standard errors.
        folder: the folder of the finished pieces.
    """

    def __init__(self, run: Run, splits: Splits, extractor: Extractor, replicates: int, folder: Path) -> None:
        self.run, self.splits, self.extractor = run, splits, extractor
        self.replicates, self.folder = replicates, folder
        self._found: dict[Setting, Measured] = {}

    @cached_property
    def evaluator(self) -> Evaluator:
        """What measures samples. The features of all real images are computed on first use."""
        return Evaluator.of(self.run.config, self.splits, self.extractor, needed=False, replicates=self.replicates)

    def measure(self, setting: Setting) -> Measured:
        """Measure a setting, or return the measurements of an earlier call.

        Raises:
            ValueError: there are fewer held-out images than `n`, or too few samples.
        """
        if setting not in self._found:
            self._found[setting] = self._bits(setting) if setting.draws is not None else self._samples(setting)
        return self._found[setting]

    def clear(self) -> None:
        """Delete the finished pieces of all settings that were measured, and no other files."""
        for setting in self._found:
            self._parts(setting).clear()

    def _parts(self, setting: Setting) -> Parts:
        config = self.run.config.to_dict()
        kept = {key: config[key] for key in ("data", "model", "process", "sampler")}
        what = {**kept, "weights": file_hash(self.run.weights), "device": config["training"]["device"], "setting": setting}
        return Parts(self.folder, {**what, "environment": environment()})

    def _samples(self, setting: Setting) -> Measured:
        cond = chosen_labels(self.run.config, None, setting.n)
        seeds = list(range(setting.first_seed, setting.first_seed + setting.n))
        sampler = self.run.sampler(setting.steps)
        title = f"{setting.n} samples, {sampler.grid.steps} steps"
        samples = draw(self.run, sampler, seeds, cond, self._parts(setting), title)
        return Measured(self.evaluator.measure(samples.images, cond.get("y")), samples.nfe, samples.images)

    def _bits(self, setting: Setting) -> Measured:
        if setting.n > (there := len(self.splits.test)):
            raise ValueError(f"{setting.n} held-out images, expected at most {there}")
        held_out = self.splits.test.select(torch.arange(setting.n))
        # Few images for the density of times: each takes 32 network calls, more than a held-out image.
        pilot = self.splits.train.select(torch.arange(min(max(4, setting.n // 4), len(self.splits.train))))
        parts = self._parts(setting)
        bits = run_bits_per_dim(self.run, held_out, pilot, setting.draws or 0, setting.first_seed, parts)
        return Measured({BITS: likelihood(bits)})
