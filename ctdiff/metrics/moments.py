"""Mean and covariance of features: computed in batches, merged between processes, and saved.

For N features x_n, keep

    N,    m = sum_n x_n / N,    M = sum_n (x_n - m)(x_n - m)^T

Two sets a and b together have N = N_a + N_b and, with d = m_b - m_a,

    m = m_a + d N_b / N,    M = M_a + M_b + d d^T N_a N_b / N

So batches can be added one after the other, and each process of a distributed job sends only three tensors. The sums are
centred and in float64, so no digits are lost if the features are far from zero.

References:
    Updating formulae and a pairwise algorithm for computing sample variances (Chan et al., 1979)
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ctdiff.files import expanded, write_atomically

# torchmetrics merges sums that are not centred, and torch-fidelity keeps all features; centred sums are exact and merge.
__all__ = ["Moments", "Statistics", "load_statistics"]


@dataclass(frozen=True, eq=False)
class Statistics:
    """The mean and the covariance of a set of features, for the Frechet distance.

    Arguments:
        mean: (D,) float64.
        covariance: (D, D) float64, with N - 1 in the denominator.
        count: N, the number of examples; None if a file does not contain it.
        extractor: the label of the extractor that computed the features; empty if a file does not contain it.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None
    extractor: str = ""

    def __post_init__(self) -> None:
        width = len(self.mean)
        if self.mean.shape != (width,) or self.covariance.shape != (width, width):
            raise ValueError(
                f"mean {tuple(self.mean.shape)} and covariance {tuple(self.covariance.shape)}, expected (D,) and (D, D)"
            )
        if self.mean.dtype != torch.float64 or self.covariance.dtype != torch.float64:
            raise ValueError(f"mean {self.mean.dtype} and covariance {self.covariance.dtype}, expected torch.float64")
        if not bool(self.mean.isfinite().all() and self.covariance.isfinite().all()):
            raise ValueError("mean or covariance has numbers that are not finite")

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance: (D, D)."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # below 0 only by rounding
        return root

    def save(self, path: str | Path) -> None:
        """Write a .npz or .safetensors file, with the keys `mu` and `sigma` that other programs use too.

        Raises:
            ValueError: the file has another suffix.
        """
        path = expanded(path)
        tensors = {"mu": self.mean.cpu(), "sigma": self.covariance.cpu(), "count": torch.tensor(self.count or 0)}
        if path.suffix == ".safetensors":
            write_atomically(path, safetensors.torch.save(tensors, metadata={"extractor": self.extractor}))
        elif path.suffix == ".npz":
            buffer = io.BytesIO()
            arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
            np.savez(buffer, extractor=np.array(self.extractor), **arrays)
            write_atomically(path, buffer.getvalue())
        else:
            raise ValueError(f"{path} has the suffix {path.suffix!r}, expected .npz or .safetensors")


def load_statistics(path: str | Path) -> Statistics:
    """Read a file of `Statistics.save`, or of another program that uses the keys `mu` and `sigma`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file has another suffix, is damaged, or does not contain statistics.
    """
    path = expanded(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{path} has the suffix {path.suffix!r}, expected .npz or .safetensors")
    try:
        arrays, extractor = _read(path)
        count = int(arrays.get("count", 0)) or None
        return Statistics(torch.as_tensor(arrays["mu"]).double(), torch.as_tensor(arrays["sigma"]).double(), count, extractor)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path} has no statistics ({error}), expected an intact file with mu (D,) and sigma (D, D)"
        ) from error


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """The arrays of a file, and the label of the extractor."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = dict(file)
        return arrays, str(arrays.pop("extractor", ""))
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get("extractor", "")  # noqa: SIM118


@dataclass(frozen=True, eq=False)
class Moments:
    """The sums from which mean and covariance are computed.

    Arguments:
        count: N, the number of examples.
        mean: m (D,), float64.
        scatter: M (D, D), float64.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Compute the moments of features (N, D), N at least 1.

        Raises:
            ValueError: the features have another shape.
        """
        if features.ndim != 2 or len(features) == 0:
            raise ValueError(f"features have shape {tuple(features.shape)}, expected (N, D) with N at least 1")
        x = features.double()
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    @classmethod
    def of_stream(cls, batches: Iterable[Tensor]) -> Moments:
        """Compute the moments of all batches (B, D) together, with one batch in memory at a time."""
        return reduce(cls.merge, (cls.of(batch) for batch in batches))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets together.

        Raises:
            ValueError: the numbers of features differ.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"{len(other.mean)} features an image, expected {len(self.mean)}, as in the other set")
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        scatter = self.scatter + other.scatter + torch.outer(difference, difference) * (self.count * other.count / count)
        return Moments(count, mean, scatter)

    def statistics(self, extractor: str = "") -> Statistics:
        """Return the mean and the covariance, with the label of the extractor.

        Raises:
            ValueError: there are fewer than 2 examples.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} example has no covariance, expected at least 2")
        return Statistics(self.mean, self.scatter / (self.count - 1), self.count, extractor)
