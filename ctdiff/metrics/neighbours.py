"""Precision, recall, density and coverage: sets of features are compared by nearest neighbours.

A fake is the feature vector of a sample, and a real is that of a real image. Each has a ball around it. The radius of this ball
is the distance to the k-th nearest neighbour in the same set. The union of the balls approximates the support of the set.

    precision   the fraction of fakes in some real ball                are samples like the data?
    recall      the fraction of reals in some fake ball                can the model make the data?
    density     the mean number of real balls that contain a fake,     precision with less influence of single outliers
                divided by k
    coverage    the fraction of real balls that contain a fake         recall from real balls only

Outliers and small numbers of samples make fake balls large. Recall then hardly shows that a class is missing, but coverage
does.

References:
    Improved precision and recall metric for assessing generative models (Kynkaanniemi et al., 2019)
    | https://arxiv.org/abs/1904.06991
    Reliable fidelity and diversity metrics for generative models (Naeem et al., 2020) | https://arxiv.org/abs/2002.09797
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ctdiff.progress import tracked

# torch-fidelity has precision and recall only; here one matrix of distances gives all four and their intervals.
__all__ = ["NeighbourDistances", "Neighbours", "precision_recall"]

_ROWS = 256  # rows of a matrix of distances that are computed at once


class Neighbours(NamedTuple):
    """The four metrics. Only density can be larger than 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (N, M), from differences: the product form is inexact for small distances, as between copies."""
    distances = x.new_empty(len(x), len(y))
    for first in tracked(range(0, len(x), _ROWS), "distances of features"):
        rows = x[first : first + _ROWS]
        distances[first : first + _ROWS] = torch.cdist(rows, y, compute_mode="donot_use_mm_for_euclid_dist")
    return distances


def _radii(distances: Tensor, k: int) -> Tensor:
    """The distance of each example to its k-th nearest neighbour, without the example itself (distance 0): (N, N) -> (N,)."""
    return distances.kthvalue(k + 1, dim=1).values


class NeighbourDistances:
    """All distances between two sets of features. The four metrics of any subset of the fakes are computed from them.

    It needs 8 M N + 8 N^2 bytes of memory, or 1.6 GB for 10,000 examples of each set.

    Arguments:
        real: features (M, D), M above k.
        fake: features (N, D), N above k.
        k: the radius of a ball is the distance to the k-th nearest neighbour.

    Raises:
        ValueError: k is below 1, a set is too small, or the numbers of features differ.
    """

    def __init__(self, real: Tensor, fake: Tensor, k: int = 5) -> None:
        if k < 1 or real.ndim != 2 or fake.ndim != 2 or min(len(real), len(fake)) <= k or real.shape[1] != fake.shape[1]:
            shapes = f"{tuple(real.shape)} and {tuple(fake.shape)}"
            raise ValueError(f"features {shapes} and k = {k}, expected (M, D) and (N, D) with M, N > k > 0")
        self.k = k
        real, fake = real.double(), fake.double()
        self.radii = _radii(_distances(real, real), k)  # (M,)
        self.between = _distances(real, fake)  # (M, N)
        self.inside = self.between <= self.radii[:, None]  # (M, N): fake n is in ball m
        self.among = _distances(fake, fake)  # (N, N)

    def of(self, chosen: Tensor | None = None) -> Neighbours:
        """Return the four metrics of all fakes, or of those with the given indices (n,), n above k.

        Raises:
            ValueError: too few fakes are chosen.
        """
        between, inside, among = self.between, self.inside, self.among
        if chosen is not None:
            if len(chosen) <= self.k:
                raise ValueError(f"{len(chosen)} fakes, expected more than k = {self.k}")
            between, inside = between.index_select(1, chosen), inside.index_select(1, chosen)
            among = among.index_select(0, chosen).index_select(1, chosen)
        recalled = (between <= _radii(among, self.k)).any(1)
        return Neighbours(
            precision=float(inside.any(0).double().mean()),
            recall=float(recalled.double().mean()),
            density=float(inside.sum() / (self.k * inside.shape[1])),
            coverage=float(inside.any(1).double().mean()),
        )


def precision_recall(real: Tensor, fake: Tensor, k: int = 5) -> Neighbours:
    """Compute precision, recall, density and coverage of samples (N, D) and real images (M, D), given as features."""
    return NeighbourDistances(real, fake, k).of()
