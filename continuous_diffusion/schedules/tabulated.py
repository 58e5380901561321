"""Schedules that were published as tables of T numbers: linear, quadratic and cosine.

These schedules were published as T numbers, not as functions of time. The closed formulas end at other values. At t =
1, `abar = alpha^2` is 4.32e-5 instead of 4.04e-5 (linear) and 4e-33 instead of 2.4e-9 (cosine). To reproduce the
published numbers, the schedules here have a parameter T. log abar is piecewise linear through the published values:
abar[i] at t = (i + 1) / T, and abar = 1 at t = 0. Between two of these times the slope of log abar is constant.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continuous_diffusion.schedules.base import VariancePreserving
from diffusion_core.ranges import Count, Range
from diffusion_core.values import number

__all__ = ["CosineSchedule", "LinearSchedule", "QuadraticSchedule", "TabulatedSchedule"]


@dataclass(frozen=True)
class TabulatedSchedule(VariancePreserving):
    """A schedule that was published as T variances `beta_i`: `abar[i] = prod_{j <= i} (1 - beta_j)`.

    Arguments:
        T: the number of discrete times in the table.
    """

    T: Count = 1000

    @abstractmethod
    def betas(self) -> NDArray[np.float64]:
        """Return the published variances beta_0 .. beta_{T-1}: (T,)."""

    @cached_property
    def _table(self) -> NDArray[np.float64]:
        # An array, because a cached tensor would stay on the device of the first caller.
        return np.concatenate([[0.0], np.cumsum(np.log1p(-self.betas()))])

    def _piece(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the table values before and after t, and the position of t between them in [0, 1]."""
        table = torch.as_tensor(self._table, device=t.device)  # (T + 1,)
        place = t.double() * self.T
        left = place.floor().clamp(0, self.T - 1)
        ends = torch.stack((left, left + 1)).long()  # (2, *t)
        low, high = table.index_select(0, ends.reshape(-1)).reshape(ends.shape)
        return low, high, place - left

    def log_abar(self, t: Tensor) -> Tensor:
        """Return log abar: the table values at t = (i + 1) / T, with linear interpolation."""
        if (value := number(t)) is not None:  # a single time, as in samplers: Python's numbers are faster
            left = min(max(int(value * self.T), 0), self.T - 1)
            first, last = self._table[left : left + 2].tolist()
            return torch.tensor(first + (value * self.T - left) * (last - first), dtype=torch.float64, device=t.device)
        low, high, share = self._piece(t)
        return low + share * (high - low)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        """Return `-d logSNR / dt`, the negative slope of log abar divided by sigma^2, in 1 / unit of t."""
        low, high, share = self._piece(t)
        return self.T * (high - low) / torch.expm1(low + share * (high - low))


@dataclass(frozen=True)
class _ScaledSchedule(TabulatedSchedule):
    """A schedule of variances that were published for T = 1000 and end at 0.02. They are scaled by 1000 / T.

    Arguments:
        T: the number of discrete times in the table. It must be at least 21, so that the last beta, 20 / T, is below 1.
    """

    T: Annotated[int, Range(least=21)] = 1000


@dataclass(frozen=True)
class LinearSchedule(_ScaledSchedule):
    """The linear schedule: `beta_i` rises from 1e-4 to 0.02 in equal steps for T = 1000, scaled by 1000 / T for other T.

    References:
        Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    """

    def betas(self) -> NDArray[np.float64]:
        scale = 1000 / self.T
        return np.linspace(1e-4 * scale, 0.02 * scale, self.T)


@dataclass(frozen=True)
class QuadraticSchedule(_ScaledSchedule):
    """The quadratic schedule: `sqrt(beta_i)` rises from 0.01 to sqrt(0.02) in equal steps for T = 1000.

    For other T, beta is scaled by 1000 / T. The schedule adds less noise at small t than the linear one. Its name in
    diffusers is `scaled_linear`.

    References:
        High-resolution image synthesis with latent diffusion models (Rombach et al., 2022) | https://arxiv.org/abs/2112.10752
    """

    def betas(self) -> NDArray[np.float64]:
        betas: NDArray[np.float64] = 1000 / self.T * np.linspace(1e-4**0.5, 0.02**0.5, self.T) ** 2
        return betas


@dataclass(frozen=True)
class CosineSchedule(TabulatedSchedule):
    """The cosine schedule: `abar(t) = f(t) / f(0)`, `f(t) = cos^2(pi/2 (t + 0.008) / 1.008)`, with `beta_i` at most 0.999.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    def betas(self) -> NDArray[np.float64]:
        t = np.arange(self.T + 1) / self.T
        f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        betas: NDArray[np.float64] = np.minimum(1 - f[1:] / f[:-1], 0.999)
        return betas
