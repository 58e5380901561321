"""Which real images a run is held against, by which network, and what that network may say of them.

A classifier's opinion of frequencies and labels counts where its classes are those of the data:

    mnist-cnn    where the data are digits (`embedded_mnist`, `mnist`)
    inception    nowhere: its classes are photographs of things; the Inception score, which is its own, stays
    any other    where it has as many classes as the data
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor

from ctdiff import recipe
from ctdiff.data import Splits
from ctdiff.evaluation.digits import mnist_cnn
from ctdiff.evaluation.features import Extractor
from ctdiff.evaluation.inception_v3 import inception
from ctdiff.evaluation.measurement import Measurement
from ctdiff.evaluation.reference import Reference, uniform_noise
from ctdiff.runs import RunFolder

__all__ = ["EXTRACTORS", "Judge", "build_extractor", "run_splits"]

EXTRACTORS: dict[str, Callable[[str, bool], Extractor]] = {
    "mnist-cnn": lambda device, download: mnist_cnn(device),
    "inception": lambda device, download: inception(download=download, device=device),
}
"""The extractors that have names on the command line; from Python any will do."""

_DIGITS = ("embedded_mnist", "mnist")


def build_extractor(name: str, device: str = "cpu", download: bool = False) -> Extractor:
    """An extractor by name.

    Arguments:
        name: one of `EXTRACTORS`.
        device: where it computes.
        download: fetch weights that are nowhere.

    Raises:
        ValueError: there is none of this name, or a package is missing.
        MissingWeights: its weights are nowhere.
    """
    if name not in EXTRACTORS:
        raise ValueError(f"extractor = {name!r}, expected one of {', '.join(EXTRACTORS)}")
    try:
        return EXTRACTORS[name](device, download)
    except ImportError as error:
        raise ValueError(f"extractor = {name!r} cannot be made: {error}") from error


def run_splits(config: ConfigDict, labels: Sequence[int] | None = None, folder: RunFolder | None = None) -> Splits:
    """The real images of a run; of the given classes alone, where samples are of those alone.

    Arguments:
        config: the run's configuration.
        labels: the classes; None, or the one that stands for no label, is all.
        folder: the run's folder, whose record of the images they have to agree with.

    Raises:
        RunError: they are not those that the run was trained on.
    """
    splits = recipe.build_data(config)
    if folder is not None:
        folder.check_data(splits)
    if labels is None or max(labels) >= config.model.num_classes:
        return splits
    wanted = torch.tensor(sorted(set(labels)))
    return splits.map(
        lambda part: part if part.labels is None else part.select(torch.isin(part.labels, wanted).nonzero()[:, 0])
    )


def _known_classes(extractor: Extractor, config: ConfigDict, splits: Splits) -> int:
    """How many classes the extractor has, if they are those of the data; 0 if not."""
    logits = extractor.features(splits.train.images[:1], splits.train.num_values).logits
    if logits is None or extractor.reference:
        return 0
    count = logits.shape[1]
    same = (
        config.data.name in _DIGITS
        if extractor.name == "mnist-cnn"
        else count == (config.model.num_classes or splits.num_classes)
    )
    return count if same else 0


@dataclass(frozen=True, eq=False)
class Judge:
    """Real images and an extractor, and how far its classes may be asked.

    Arguments:
        reference: the real images.
        classes: how many classes the extractor has, if they are those of the data; 0 if not.
        refused: why the extractor cannot read the images, so that metrics are those that need none; None if it can.
    """

    reference: Reference
    classes: int
    refused: str | None = None

    @classmethod
    def of(cls, config: ConfigDict, splits: Splits, extractor: Extractor, needed: bool = True, **settings: Any) -> Judge:
        """The judge of a run's samples.

        Arguments:
            config: the run's configuration.
            splits: its real images.
            extractor: what features are made with.
            needed: whether an extractor that cannot read the images is an error.
            settings: `neighbour`, `replicates` and `seed` of `Reference`.

        Raises:
            ValueError: the extractor cannot read the images, or there are too few.
        """
        try:
            extractor.features(splits.train.images[:1], splits.train.num_values)
        except ValueError as error:
            why = f"{extractor.name} cannot read the images of config.data.name = {config.data.name!r}: {error}"
            if needed:
                raise ValueError(why) from error
            return cls(Reference(None, splits.train, splits.test, **settings), 0, why)
        return cls(Reference(extractor, splits.train, splits.test, **settings), _known_classes(extractor, config, splits))

    def measure(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Measurement]:
        """The metrics of samples that mean something here, beside their floors.

        Arguments:
            images: the samples.
            labels: the classes that they were drawn for, (N,).
        """
        rows = self.reference.measure(images, labels if labels is not None and int(labels.max()) < self.classes else None)
        extractor = self.reference.extractor
        meaningless = {"IS"} if not self.classes and extractor is not None and not extractor.reference else set()
        if not self.classes:
            meaningless.add("class-KL")
        return {name: row for name, row in rows.items() if name not in meaningless}

    def noise(self, count: int, labels: Tensor | None = None) -> dict[str, Measurement]:
        """The same of independent uniform pixels."""
        return self.measure(uniform_noise(self.reference.train, count), labels)
