r"""Distances between two sets of features: Frechet's, between normal laws, and the kernel distance.

The Frechet distance takes both sets for normal,

    d^2 = |m_1 - m_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1^{1/2} C_2 C_1^{1/2})^{1/2}

and is biased upwards at every finite N, by an amount that depends on the set. The kernel distance

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),     k(x, y) = (x^T y / D + 1)^3

has an unbiased estimate (means over pairs of different examples), which therefore falls below 0 at times.

The matrix under the root is symmetric and positive, so its trace is a sum of roots of eigenvalues:
`eigvalsh` in float64, where a general matrix square root is slower and may turn out complex.

References:
    GANs trained by a two time-scale update rule converge to a local Nash equilibrium (Heusel et al., 2017)
    | https://arxiv.org/abs/1706.08500
    Demystifying MMD GANs (Binkowski et al., 2018) | https://arxiv.org/abs/1801.01401
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctdiff.evaluation.moments import Statistics

__all__ = ["KernelReference", "frechet_distance", "kernel_distance", "kernel_subsets"]

_CHUNK = 128  # rows of a kernel matrix at once: few enough for the cache


def frechet_distance(real: Statistics, fake: Statistics) -> float:
    """The squared Frechet distance d^2 of two normal laws.

    Arguments:
        real: statistics of one set; its root is computed once and kept.
        fake: statistics of the other.

    Raises:
        ValueError: they are of different widths or extractors.
    """
    if real.mean.shape != fake.mean.shape:
        raise ValueError(f"statistics of {len(fake.mean)} features against {len(real.mean)}, expected the same extractor")
    if real.extractor and fake.extractor and real.extractor != fake.extractor:
        raise ValueError(f"statistics of {fake.extractor} against {real.extractor}, expected the same extractor")
    eigenvalues = torch.linalg.eigvalsh(real.root @ fake.covariance @ real.root)
    fidelity = eigenvalues.clamp(min=0).sqrt().sum()  # below 0 by rounding alone
    traces = real.covariance.trace() + fake.covariance.trace()
    return max(0.0, float((real.mean - fake.mean).square().sum() + traces - 2 * fidelity))  # the same


def _kernel_sums(x: Tensor, y: Tensor) -> Tensor:
    """sum_j k(x_i, y_j) for each i: (N, D), (M, D) -> (N,)."""
    rows = [((part @ y.T) / x.shape[1] + 1).pow(3).sum(1) for part in x.split(_CHUNK)]
    return torch.cat(rows)


def _within(x: Tensor) -> float:
    """The mean of k over ordered pairs of different examples of one set."""
    diagonal = (x.square().sum(1) / x.shape[1] + 1).pow(3)
    return float((_kernel_sums(x, x) - diagonal).sum() / (len(x) * (len(x) - 1)))


def _checked(features: Tensor, name: str) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name} features have shape {tuple(features.shape)}, expected (N, D) with N at least 2")
    return features.double()


class KernelReference:
    """One set of features, with what does not depend on the other set.

    Arguments:
        real: features (M, D), M at least 2.
    """

    def __init__(self, real: Tensor) -> None:
        self.real = _checked(real, "real")
        self.within = _within(self.real)

    def cross(self, fake: Tensor) -> Tensor:
        """The mean of k between each example of the other set and this one: (N, D) -> (N,)."""
        return _kernel_sums(fake.double(), self.real) / len(self.real)

    def distance(self, fake: Tensor, cross: Tensor | None = None) -> float:
        """The unbiased estimate of MMD^2 from all pairs.

        Arguments:
            fake: features (N, D), N at least 2.
            cross: what `cross` gives for them, if it is known.
        """
        fake = _checked(fake, "fake")
        between = self.cross(fake) if cross is None else cross
        return self.within + _within(fake) - 2 * float(between.mean())


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """The unbiased estimate of MMD^2 between features (M, D) and (N, D), from all pairs."""
    return KernelReference(real).distance(fake)


def kernel_subsets(real: Tensor, fake: Tensor, size: int = 1000, subsets: int = 100, seed: int = 0) -> Tensor:
    """Kernel distances between random subsets: their mean is the literature's KID, their spread what it prints beside it.

    The mean estimates what `kernel_distance` does; it costs less where sets are large, and the spread is that of
    sets of `size`, not of these.

    Arguments:
        real: features (M, D).
        fake: features (N, D).
        size: how many of each a subset has, drawn without replacement.
        subsets: how many pairs of subsets.
        seed: fixes the draws.

    Raises:
        ValueError: the size is below 2 or above M or N.
    """
    if not 2 <= size <= min(len(real), len(fake)):
        raise ValueError(f"size = {size}, expected 2 .. {min(len(real), len(fake))}")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        one, other = (torch.randperm(len(x), generator=generator)[:size] for x in (real, fake))
        values.append(kernel_distance(real[one], fake[other]))
    return torch.tensor(values, dtype=torch.float64)
