"""Chooses the real images, the network that computes features, and the metrics for the samples of a run.

Some metrics use the classes that the network predicts. They are measured only if these classes are the classes of the data:

    mnist-cnn    if the data are digits (`embedded_mnist`, `mnist`)
    inception    never, because its classes are objects in photographs; the Inception score is always measured
    any other    if it has as many classes as the data
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
from ctdiff.metrics.digits import mnist_cnn
from ctdiff.metrics.features import Extractor
from ctdiff.metrics.inception_v3 import inception
from ctdiff.metrics.measurement import Measurement
from ctdiff.metrics.reference import Reference, uniform_noise
from ctdiff.model_source import ModelSource
from ctdiff.recipe.errors import closest, one_of

__all__ = ["EXTRACTORS", "Evaluator", "build_extractor", "run_splits"]

EXTRACTORS: dict[str, Callable[[str, bool], Extractor]] = {
    "mnist-cnn": lambda device, download: mnist_cnn(device),
    "inception": lambda device, download: inception(download=download, device=device),
}
"""The extractors with names on the command line. In Python, any `Extractor` can be used."""

_DIGITS = ("embedded_mnist", "mnist")


def build_extractor(extractor: str = "mnist-cnn", device: str = "cpu", download: bool = False) -> Extractor:
    """Make an extractor by its name.

    Arguments:
        extractor: the network whose features of images are compared. mnist-cnn: for digits and other grey images of 28 x 28.
            inception: for images of any size, and for FID as in papers; it needs pip install 'ctdiff[evaluation]'.
        device: the device that computes, such as cpu, cuda, cuda:1 or mps.
        download: download the weights of Inception if this machine does not have them.

    Raises:
        ValueError: the name is unknown, or a package is missing.
        MissingWeights: the weights are missing.
    """
    if extractor not in EXTRACTORS:
        raise ValueError(f"extractor = {extractor!r}, expected {one_of(EXTRACTORS)}{closest(extractor, EXTRACTORS)}")
    try:
        return EXTRACTORS[extractor](device, download)
    except ImportError as error:
        raise ValueError(f"extractor = {extractor!r} cannot be made: {error}") from error


def run_splits(config: ConfigDict, labels: Sequence[int] | None = None, folder: ModelSource | None = None) -> Splits:
    """Load the real images of a run, or only the images of some classes.

    Arguments:
        config: the run's configuration.
        labels: the classes to select. None selects all images, and so does the label that means no class.
        folder: the folder of the run or model. The images are compared with its record of the images of training. None skips
            this check.

    Raises:
        RunError: the images are not those that the run was trained on.
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
    """Return the number of classes of the extractor, if they are the classes of the data; otherwise 0."""
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
class Evaluator:
    """Measures the samples of a run by comparison with real images.

    Arguments:
        reference: the real images with their features.
        classes: the number of classes of the extractor, if they are the classes of the data; otherwise 0.
        refused: the reason why the extractor cannot process the images; None if it can. If it cannot, only the metrics that
            need no extractor are measured.
    """

    reference: Reference
    classes: int
    refused: str | None = None

    @classmethod
    def of(cls, config: ConfigDict, splits: Splits, extractor: Extractor, needed: bool = True, **settings: Any) -> Evaluator:
        """Make the evaluator for the samples of a run.

        Arguments:
            config: the configuration of the run.
            splits: the real images of the run.
            extractor: the network that computes features.
            needed: whether it is an error if the extractor cannot process the images.
            settings: the arguments `neighbour`, `replicates` and `seed` of `Reference`.

        Raises:
            ValueError: the extractor cannot process the images and is needed, or there are too few images.
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
        """Measure all metrics that can be used for these data, with their floors.

        Arguments:
            images: the samples, integers (N, C, H, W).
            labels: the classes (N,) that the samples were drawn for.
        """
        rows = self.reference.measure(images, labels if labels is not None and int(labels.max()) < self.classes else None)
        extractor = self.reference.extractor
        meaningless = {"IS"} if not self.classes and extractor is not None and not extractor.reference else set()
        if not self.classes:
            meaningless.add("class-KL")
        return {name: row for name, row in rows.items() if name not in meaningless}

    def noise(self, count: int, labels: Tensor | None = None) -> dict[str, Measurement]:
        """Measure images of independent uniform pixels, for comparison with the samples."""
        return self.measure(uniform_noise(self.reference.train, count), labels)
