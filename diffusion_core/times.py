"""Times: the grids that samplers walk down, and the densities that training draws from.

A grid of N steps is a decreasing list t_0 = t_max > ... > t_N = t_min; with u = i / N its
shape is a function on [0, 1] that falls from 1 to 0. A time sampler draws t for each
example of a batch and returns 1 / density beside it, so that losses stay unweighted.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_core.randomness import Generator, as_randomness

__all__ = ["CosineGrid", "QuadraticGrid", "StratifiedTimes", "TimeGrid", "TimeSampler", "UniformGrid", "UniformTimes"]


def _check_interval(t_min: float, t_max: float) -> None:
    if not 0 <= t_min < t_max <= 1:
        raise ValueError(f"t_min = {t_min}, t_max = {t_max}: expected 0 <= t_min < t_max <= 1")


@dataclass(frozen=True)
class TimeGrid(ABC):
    """The times that a sampler visits.

    Arguments:
        steps: the number N of reverse steps, at least 1.
        t_min: the last time; what happens there is the sampler's last step.
        t_max: the first time.
    """

    steps: int
    t_min: float = 0.01
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps = {self.steps}, expected an integer of at least 1")
        _check_interval(self.t_min, self.t_max)

    @abstractmethod
    def shape(self, u: float) -> float:
        """The fraction of the interval that is left after a fraction u of the steps: falls from 1 to 0."""

    def times(self) -> list[float]:
        """The N + 1 times, from t_max down to t_min."""
        inner = [self.t_min + (self.t_max - self.t_min) * self.shape(i / self.steps) for i in range(1, self.steps)]
        return [self.t_max, *inner, self.t_min]


@dataclass(frozen=True)
class UniformGrid(TimeGrid):
    """Steps of equal length: `1 - u`."""

    def shape(self, u: float) -> float:
        return 1 - u


@dataclass(frozen=True)
class QuadraticGrid(TimeGrid):
    """Steps that shrink towards the data: `(1 - u)^2`."""

    def shape(self, u: float) -> float:
        return (1 - u) ** 2


@dataclass(frozen=True)
class CosineGrid(TimeGrid):
    """Long steps in the noise, short ones near the data: `1 - sin(pi u / 2)`.

    References:
        Simplified and generalized masked diffusion for discrete data (Shi et al., 2024) | https://arxiv.org/abs/2406.04329
    """

    def shape(self, u: float) -> float:
        return 1 - math.sin(math.pi * u / 2)


class TimeSampler(ABC):
    """A density over training times on an interval [t_min, t_max]."""

    t_min: float
    t_max: float

    @abstractmethod
    def __call__(self, n: int, generator: Generator = None) -> tuple[Tensor, Tensor]:
        """Draw n times: (t, weight), both (n,) in float32; weight = 1 / density, E[weight] is the interval's length."""

    def update(self, t: Tensor, loss: Tensor) -> None:  # noqa: B027 - most densities do not learn
        """Learn from the losses (n,) measured at the times t (n,); a fixed density ignores them."""


@dataclass(frozen=True)
class UniformTimes(TimeSampler):
    """Independent times, uniform on [t_min, t_max]."""

    t_min: float = 0.01
    t_max: float = 1.0

    def __post_init__(self) -> None:
        _check_interval(self.t_min, self.t_max)

    def __call__(self, n: int, generator: Generator = None) -> tuple[Tensor, Tensor]:
        return self._scale(as_randomness(generator).uniform((n,)))

    def _scale(self, u: Tensor) -> tuple[Tensor, Tensor]:
        span = self.t_max - self.t_min
        # Rounding must not reach t_max: a rate may be infinite there.
        below = torch.nextafter(torch.tensor(self.t_max), torch.tensor(0.0)).item()
        t = (self.t_min + span * u).clamp(self.t_min, below)
        return t, torch.full_like(t, span)


@dataclass(frozen=True)
class StratifiedTimes(UniformTimes):
    """Uniform times, one in each of n equal strata: the same mean with less variance.

    References:
        Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    """

    def __call__(self, n: int, generator: Generator = None) -> tuple[Tensor, Tensor]:
        return self._scale(as_randomness(generator).stratified(n))
