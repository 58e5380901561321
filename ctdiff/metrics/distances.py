r"""Distances between two sets of features: the Frechet distance between normal distributions, and the kernel distance.

The Frechet distance assumes that both sets have normal distributions, with the means m_1, m_2 and the covariances C_1, C_2:

    d^2 = |m_1 - m_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1^{1/2} C_2 C_1^{1/2})^{1/2}

The estimate from a finite number of examples is too large on average. This bias depends on the number and on the features.
The kernel distance between examples x, x' of one set and y, y' of the other, with D features each, is

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),     k(x, y) = (x^T y / D + 1)^3

It has an unbiased estimate, from the means over pairs of different examples. So the estimate can be negative.

The matrix under the root is symmetric and positive semidefinite, so the trace is a sum of roots of eigenvalues. `eigvalsh` in
float64 computes them. A general matrix square root is slower and can have complex results.

References:
    GANs trained by a two time-scale update rule converge to a local Nash equilibrium (Heusel et al., 2017)
    | https://arxiv.org/abs/1706.08500
    Demystifying MMD GANs (Binkowski et al., 2018) | https://arxiv.org/abs/1801.01401
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctdiff.metrics.moments import Statistics

# torchmetrics and torch-fidelity use a matrix that is not symmetric for FID, and random subsets for KID. So this is our code.
__all__ = ["KernelReference", "frechet_distance", "kernel_distance", "kernel_subsets"]

_CHUNK = 128  # rows of a kernel matrix at once: few enough for the cache


def frechet_distance(real: Statistics, fake: Statistics) -> float:
    """Compute the squared Frechet distance d^2 of two normal distributions.

    Arguments:
        real: the statistics of one set. The root of its covariance is computed once and cached.
        fake: the statistics of the other set.

    Raises:
        ValueError: the numbers of features or the extractors differ.
    """
    if real.mean.shape != fake.mean.shape:
        raise ValueError(f"statistics of {len(fake.mean)} features against {len(real.mean)}, expected the same extractor")
    if real.extractor and fake.extractor and real.extractor != fake.extractor:
        raise ValueError(f"statistics of {fake.extractor} against {real.extractor}, expected the same extractor")
    eigenvalues = torch.linalg.eigvalsh(real.root @ fake.covariance @ real.root)
    fidelity = eigenvalues.clamp(min=0).sqrt().sum()  # below 0 only by rounding
    traces = real.covariance.trace() + fake.covariance.trace()
    return max(0.0, float((real.mean - fake.mean).square().sum() + traces - 2 * fidelity))  # as above


def _kernel_sums(x: Tensor, y: Tensor) -> Tensor:
    """sum_j k(x_i, y_j) for each i: (N, D), (M, D) -> (N,)."""
    rows = [((part @ y.T) / x.shape[1] + 1).pow(3).sum(1) for part in x.split(_CHUNK)]
    return torch.cat(rows)


def _within(x: Tensor) -> float:
    """Return the mean of the kernel k over all ordered pairs of different examples of one set."""
    diagonal = (x.square().sum(1) / x.shape[1] + 1).pow(3)
    return float((_kernel_sums(x, x) - diagonal).sum() / (len(x) * (len(x) - 1)))


def _checked(features: Tensor, name: str) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name} features have shape {tuple(features.shape)}, expected (N, D) with N at least 2")
    return features.double()


class KernelReference:
    """One set of features, with the term of the kernel distance that does not depend on the other set.

    Arguments:
        real: features (M, D), M at least 2.
    """

    def __init__(self, real: Tensor) -> None:
        self.real = _checked(real, "real")
        self.within = _within(self.real)

    def cross(self, fake: Tensor) -> Tensor:
        """Return, for each given example, the mean of the kernel k over the examples of this set: (N, D) -> (N,)."""
        return _kernel_sums(fake.double(), self.real) / len(self.real)

    def distance(self, fake: Tensor, cross: Tensor | None = None) -> float:
        """Return the unbiased estimate of MMD^2 from all pairs.

        Arguments:
            fake: features (N, D), N at least 2.
            cross: the result of `cross` for these features, if it is known.
        """
        fake = _checked(fake, "fake")
        between = self.cross(fake) if cross is None else cross
        return self.within + _within(fake) - 2 * float(between.mean())


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return the unbiased estimate of MMD^2 between features (M, D) and (N, D), from all pairs."""
    return KernelReference(real).distance(fake)


def kernel_subsets(real: Tensor, fake: Tensor, size: int = 1000, subsets: int = 100, seed: int = 0) -> Tensor:
    """Compute kernel distances between random subsets. Their mean is the KID of the literature.

    The mean estimates the same number as `kernel_distance`, and is faster for large sets. Papers often print the standard
    deviation of these values. It is the error of one pair of subsets, not the error of the mean or of the whole sets.

    Arguments:
        real: features (M, D).
        fake: features (N, D).
        size: the number of examples in a subset, drawn without replacement.
        subsets: the number of pairs of subsets.
        seed: the seed of the draws.

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
