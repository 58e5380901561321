"""Compares a set of samples with real images: all metrics, each with its floor.

    reference = Reference(mnist_cnn(), splits.train, splits.test)
    rows = reference.measure(samples)          # {"FID": Measurement(...), "KID": ..., ...}

Samples are compared with the training images, because the model was trained to imitate them. The floor is the same metric of
held-out images, as many as there are samples. If the value of a model is equal to its floor, the metric shows no difference
between the samples and the data. A distance below its floor means that the samples are too close to the training images.

`measure` computes each metric once with all samples. For the confidence interval, it computes each metric with many random
halves of the samples. In a distributed job, each process computes the `features` of its samples, and one process measures
`Features.cat` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctdiff.data import ImageData
from ctdiff.metrics.classes import ClassTotals, agreement, histogram_divergence, inception_score
from ctdiff.metrics.distances import KernelReference, frechet_distance
from ctdiff.metrics.features import Extractor, Features
from ctdiff.metrics.measurement import Measurement, measured
from ctdiff.metrics.memorisation import nearer_to_train, nearest, share_at_equal_sizes
from ctdiff.metrics.moments import Moments, Statistics
from ctdiff.metrics.neighbours import NeighbourDistances

__all__ = ["PIXEL_METRICS", "Reference", "uniform_noise"]

PIXEL_METRICS = ("nearer-to-train", "copies")
"""The metrics that need no extractor."""

_MOST_NEIGHBOURS = (
    10_000  # the largest number of images of each kind in the neighbour metrics, whose memory grows with its square
)


def uniform_noise(like: ImageData, count: int, seed: int = 0) -> Tensor:
    """Draw images of independent uniform pixels, for comparison with samples: uint8 (N, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(like.num_values, (count, *like.shape), generator=generator, dtype=torch.uint8)


@dataclass(frozen=True, eq=False)
class _Neighbourhood:
    """The nearest training and held-out images of some images, in pixels.

    Arguments:
        to_train: squared distances (N,).
        to_held_out: squared distances (N,).
        num_held_out: the number of held-out images in the search.
    """

    to_train: Tensor
    to_held_out: Tensor
    num_held_out: int

    def select(self, indices: Tensor) -> _Neighbourhood:
        """The distances of the images with the given indices."""
        return _Neighbourhood(self.to_train[indices], self.to_held_out[indices], self.num_held_out)


class Reference:
    """Real images with their features, for measuring samples.

    Arguments:
        extractor: the network that computes the features of images. None means that only `PIXEL_METRICS` are measured, which
            need no features.
        train: the images that the model was trained on.
        held_out: other images of the same kind.
        neighbour: the number k of the nearest neighbour in precision, recall, density and coverage.
        replicates: how often a random half of the samples is drawn. Each metric is computed on every such half, and the spread
            of the results gives the confidence interval.
        seed: the seed of the random halves, and of the random order of the real images. Some metrics use only the first real
            images in this order.

    Raises:
        ValueError: the images of `train` and `held_out` have different shapes or numbers of values, a set has at most
            2 * neighbour + 1 images, or the extractor cannot process the images.
    """

    def __init__(
        self,
        extractor: Extractor | None,
        train: ImageData,
        held_out: ImageData,
        neighbour: int = 5,
        replicates: int = 50,
        seed: int = 0,
    ) -> None:
        if (train.shape, train.num_values) != (held_out.shape, held_out.num_values):
            raise ValueError(
                f"training images {train.shape} of {train.num_values} values, held-out ones {held_out.shape} of "
                f"{held_out.num_values}, expected the same"
            )
        if (fewest := min(len(train), len(held_out))) <= 2 * neighbour + 1:
            raise ValueError(f"{fewest} real images, expected more than {2 * neighbour + 1} of either set")
        self.extractor, self.train, self.held_out = extractor, train, held_out
        self.neighbour, self.replicates, self.seed = neighbour, replicates, seed
        generator = torch.Generator().manual_seed(seed)
        self._order = torch.randperm(len(train), generator=generator)
        self._held_out_order = torch.randperm(len(held_out), generator=generator)
        if extractor is not None:
            self.real = extractor.features(train.images, train.num_values)
            self.statistics = self._statistics(self.real.pooled)
            self._spatial = None if self.real.spatial is None else self._statistics(self.real.spatial)
            self._kernel = KernelReference(self.real.pooled)
            self._totals = None if self.real.logits is None else ClassTotals.of(self.real.logits)
        self._held_out_features: Features | None = None
        self._held_out_neighbours: _Neighbourhood | None = None
        self._floors: dict[tuple[int, bool], dict[str, Measurement]] = {}

    def features(self, images: Tensor) -> Features:
        """Compute the features of samples: integers (N, C, H, W) in the range of the real images."""
        return self._network().features(images, self.train.num_values)

    def _network(self) -> Extractor:
        if self.extractor is None:
            raise ValueError(f"there is no extractor: only {', '.join(PIXEL_METRICS)} can be measured")
        return self.extractor

    def measure(self, images: Tensor, labels: Tensor | None = None, features: Features | None = None) -> dict[str, Measurement]:
        """Measure all metrics of samples, with their floors.

        Arguments:
            images: integers 0 .. S - 1, (N, C, H, W), N above 2 k + 1.
            labels: the classes (N,) that the samples were drawn for. They add the metric `agreement`, which needs an
                extractor with the same classes.
            features: the result of `features` for the images, if it is known.

        Raises:
            ValueError: the images have another shape or are too few, or labels are given and the extractor is not a classifier.
        """
        if images.shape[1:] != self.train.shape:
            raise ValueError(f"images have shape {tuple(images.shape)}, expected (N, {', '.join(map(str, self.train.shape))})")
        if len(images) <= 2 * self.neighbour + 1:
            raise ValueError(f"{len(images)} images, expected more than {2 * self.neighbour + 1}")
        if self.extractor is None:
            rows, floors = self.memorisation(images), self._pixel_floor(len(images))
            return {name: row.beside(floors[name]) for name, row in rows.items()}
        found = self.features(images) if features is None else features
        if len(found) != len(images):
            raise ValueError(f"features of {len(found)} images, expected {len(images)}")
        rows = self._measure(found, self._neighbours(images), labels)
        floors = self.floor(len(images), labels is not None)
        return {name: row.beside(floors[name]) if name in floors else row for name, row in rows.items()}

    def memorisation(self, images: Tensor) -> dict[str, Measurement]:
        """Measure only `PIXEL_METRICS`, without floors. They need no features."""
        return self._memorisation(self._neighbours(images))

    def floor(self, count: int, labelled: bool = False) -> dict[str, Measurement]:
        """Measure real held-out images: `count` of them, or all if there are fewer.

        Arguments:
            count: the number of samples that the floor is for.
            labelled: whether to measure `agreement`, which needs labels of the held-out images.
        """
        count = min(count, len(self.held_out))
        labelled = labelled and self.held_out.labels is not None
        if (count, labelled) not in self._floors:
            chosen = self._held_out_order[:count]
            if self._held_out_features is None or self._held_out_neighbours is None:
                self._held_out_features = self.features(self.held_out.images)
                self._held_out_neighbours = self._neighbours(self.held_out.images, held_out=True)
            labels = self.held_out.labels[chosen] if labelled and self.held_out.labels is not None else None
            features, neighbours = self._held_out_features.select(chosen), self._held_out_neighbours.select(chosen)
            self._floors[count, labelled] = self._measure(features, neighbours, labels)
        return self._floors[count, labelled]

    def _pixel_floor(self, count: int) -> dict[str, Measurement]:
        """The floor of `PIXEL_METRICS`."""
        if self._held_out_neighbours is None:
            self._held_out_neighbours = self._neighbours(self.held_out.images, held_out=True)
        return self._memorisation(self._held_out_neighbours.select(self._held_out_order[: min(count, len(self.held_out))]))

    def _statistics(self, features: Tensor) -> Statistics:
        return Moments.of(features).statistics(self._network().label)

    def _neighbours(self, images: Tensor, held_out: bool = False) -> _Neighbourhood:
        """Nearest real images; a held-out image is compared with the other held-out ones."""
        others = self.held_out.images
        return _Neighbourhood(
            nearest(images, self.train.images), nearest(images, others, skip_self=held_out), len(others) - int(held_out)
        )

    def _measure(self, features: Features, pixels: _Neighbourhood, labels: Tensor | None) -> dict[str, Measurement]:
        n = len(features)
        rows = {**self._frechet(features), **self._kernel_distance(features), **self._neighbour_shares(features)}
        if features.logits is not None and self._totals is not None:
            rows |= self._classes(features.logits, self._totals)
        if labels is not None:
            if features.logits is None:
                raise ValueError(f"labels were given, but {self._network().name} has no classes")
            agrees = agreement(features.logits, labels.cpu()).double()
            rows |= self._rows(["agreement"], lambda i: [float(agrees[i].mean())], 0, n)
        return rows | self._memorisation(pixels)

    def _rows(
        self, names: Sequence[str], statistic: Callable[[Tensor], Sequence[float]], n_real: int, n_fake: int
    ) -> dict[str, Measurement]:
        full = [name if name in PIXEL_METRICS else self._network().metric(name) for name in names]
        rows = measured(full, statistic, n_real, n_fake, self.replicates, self.seed)
        return dict(zip(names, rows, strict=True))

    def _frechet(self, features: Features) -> dict[str, Measurement]:
        pairs: list[tuple[str, Statistics | None, Tensor | None]] = [
            ("FID", self.statistics, features.pooled),
            ("sFID", self._spatial, features.spatial),
        ]
        rows: dict[str, Measurement] = {}
        for name, real, values in pairs:
            if real is not None and values is not None:

                def distance(i: Tensor, real: Statistics = real, values: Tensor = values) -> list[float]:
                    return [frechet_distance(real, self._statistics(values[i]))]

                rows |= self._rows([name], distance, len(self.train), len(features))
        return rows

    def _kernel_distance(self, features: Features) -> dict[str, Measurement]:
        cross = self._kernel.cross(features.pooled)
        return self._rows(
            ["KID"], lambda i: [self._kernel.distance(features.pooled[i], cross[i])], len(self.train), len(features)
        )

    def _neighbour_shares(self, features: Features) -> dict[str, Measurement]:
        """Use as many real images as samples, because these metrics depend on both numbers."""
        n_fake = min(len(features), _MOST_NEIGHBOURS)
        n_real = min(n_fake, len(self.train))
        distances = NeighbourDistances(self.real.pooled[self._order[:n_real]], features.pooled[:n_fake], self.neighbour)
        names = ["precision", "recall", "density", "coverage"]
        return self._rows(names, distances.of, n_real, n_fake)

    def _classes(self, logits: Tensor, real: ClassTotals) -> dict[str, Measurement]:
        def statistic(i: Tensor) -> list[float]:
            totals = ClassTotals.of(logits[i])
            return [inception_score(totals), histogram_divergence(real, totals)]

        return self._rows(["IS", "class-KL"], statistic, len(self.train), len(logits))

    def _memorisation(self, pixels: _Neighbourhood) -> dict[str, Measurement]:
        nearer = nearer_to_train(pixels.to_train, pixels.to_held_out)
        copied = (pixels.to_train == 0).double()

        def statistic(i: Tensor) -> list[float]:
            share = share_at_equal_sizes(float(nearer[i].mean()), len(self.train), pixels.num_held_out)
            return [share, float(copied[i].mean())]

        return self._rows(PIXEL_METRICS, statistic, len(self.train), len(nearer))
