"""Time grids for sampling, and densities of times for training.

A grid of N steps is a decreasing list t_0 = t_max > ... > t_N = t_min. Most grids are given by a shape, which is a
function of u = i / N that decreases from 1 to 0. A time sampler draws a time t for each example of a batch. It also
returns a weight for each time: 1 / (the probability density with which the time was drawn). So losses do not need to
know the density.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from diffusion_core.randomness import Generator, as_randomness
from diffusion_core.ranges import CheckedArguments, Count, Range, check_arguments

__all__ = [
    "CosineGrid",
    "CustomGrid",
    "QuadraticGrid",
    "RespacedGrid",
    "ShapedGrid",
    "StratifiedTimes",
    "TimeGrid",
    "TimeSampler",
    "UniformGrid",
    "UniformTimes",
]


Early = Annotated[float, Range(least=0, below=1)]
"""The type of t_min, the smallest time."""

Late = Annotated[float, Range(above=0, most=1)]
"""The type of t_max, the largest time."""


def check_interval(t_min: float, t_max: float) -> None:
    """Check that [t_min, t_max] is an interval of times.

    Raises:
        ValueError: 0 <= t_min < t_max <= 1 does not hold.
    """
    if not 0 <= t_min < t_max <= 1:
        raise ValueError(f"t_min = {t_min}, t_max = {t_max}: expected 0 <= t_min < t_max <= 1")


def clamped(t: Tensor, t_min: float, t_max: float) -> Tensor:
    """Round training times to float32 in [t_min, t_max). They must stay below t_max, because a rate may be infinite there."""
    below = float(np.nextafter(np.float32(t_max), np.float32(0.0)))
    return t.float().clamp(t_min, below)


@dataclass(frozen=True)
class TimeGrid(CheckedArguments, ABC):
    """A time grid: the decreasing times at which a sampler evaluates the network.

    Arguments:
        steps: the number N of reverse steps.
        t_min: the last time of the grid, near the data; the sampler's last step starts there.
        t_max: the first time of the grid, near the noise.
    """

    steps: Count
    t_min: Early = 0.01
    t_max: Late = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self.t_min, self.t_max)

    @abstractmethod
    def times(self) -> list[float]:
        """Return the N + 1 times, from t_max down to t_min."""


@dataclass(frozen=True)
class ShapedGrid(TimeGrid):
    """A time grid given by a shape function: `t_i = t_min + (t_max - t_min) shape(i / N)`."""

    @abstractmethod
    def shape(self, u: float) -> float:
        """Return the fraction of [t_min, t_max] that is left after a fraction u of the steps. It decreases from 1 to 0."""

    def times(self) -> list[float]:
        inner = [self.t_min + (self.t_max - self.t_min) * self.shape(i / self.steps) for i in range(1, self.steps)]
        return [self.t_max, *inner, self.t_min]


@dataclass(frozen=True)
class UniformGrid(ShapedGrid):
    """A time grid with steps of equal length: the shape is `1 - u`."""

    def shape(self, u: float) -> float:
        return 1 - u


@dataclass(frozen=True)
class QuadraticGrid(ShapedGrid):
    """A time grid whose steps become shorter towards the data: the shape is `(1 - u)^2`."""

    def shape(self, u: float) -> float:
        return (1 - u) ** 2


@dataclass(frozen=True)
class CosineGrid(ShapedGrid):
    """A time grid with long steps near the noise and short steps near the data: the shape is `1 - sin(pi u / 2)`."""

    def shape(self, u: float) -> float:
        return 1 - math.sin(math.pi * u / 2)


@dataclass(frozen=True)
class RespacedGrid(TimeGrid):
    """A time grid of N + 1 evenly spaced timesteps out of T: `t = (round(k (T - 1) / N) + 1) / T` for k = N .. 0.

    Use it for a model that was trained on T discrete timesteps. The sampler uses N + 1 of them, for N steps and the
    last step. With N = T - 1 it uses all timesteps.

    Arguments:
        steps: the number N of reverse steps, from 1 to T - 1.
        T: the number of discrete timesteps of the schedule in training.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    t_min: float = field(init=False, default=0.0)
    t_max: float = field(init=False, default=1.0)
    T: Annotated[int, Range(least=2)] = 1000

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))  # before the division by T
        object.__setattr__(self, "t_min", 1 / self.T)
        super().__post_init__()
        if self.steps >= self.T:
            raise ValueError(f"steps = {self.steps}, expected at most T - 1 = {self.T - 1}")

    def rows(self) -> list[int]:
        """Return the indices of the N + 1 timesteps, from T - 1 down to 0."""
        # The stride is added up, not multiplied, as in the published code: the rounding of the sum decides ties of two rows.
        places = accumulate([0.0] + [(self.T - 1) / self.steps] * self.steps)
        return [round(place) for place in places][::-1]

    def times(self) -> list[float]:
        return [(row + 1) / self.T for row in self.rows()]


@dataclass(frozen=True)
class CustomGrid(TimeGrid):
    """A time grid given as a list of times.

    Arguments:
        points: the N + 1 decreasing times in [0, 1].
    """

    steps: int = field(init=False, default=0)
    t_min: float = field(init=False, default=0.0)
    t_max: float = field(init=False, default=1.0)
    points: Annotated[Sequence[float], Range(least=0, most=1)] = ()

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))
        points = tuple(float(t) for t in self.points)
        if len(points) < 2 or not all(t > s for t, s in pairwise(points)):
            raise ValueError(f"points = {points}, expected at least two decreasing times")
        for name, value in (("points", points), ("steps", len(points) - 1), ("t_max", points[0]), ("t_min", points[-1])):
            object.__setattr__(self, name, value)
        super().__post_init__()

    def times(self) -> list[float]:
        return list(self.points)


class TimeSampler(CheckedArguments, ABC):
    """A time sampler: it draws training times from a density on an interval [t_min, t_max]."""

    t_min: float
    t_max: float
    weighted: bool = True
    """Whether the weights are 1 / density, so that the mean of `weight * loss` is the integral of the loss over time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self.t_min, self.t_max)

    def check_weighted(self, loss: str) -> None:
        """Check that these times can estimate an integral over time, for a loss with this name.

        Raises:
            ValueError: the weights are not 1 / density.
        """
        if not self.weighted:
            raise ValueError(
                f"{type(self).__name__} has weighted = False, expected True: {loss} is an integral over time, and without "
                "weights its mean is another number"
            )

    @abstractmethod
    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return times t and weights 1 / density, both (n,) and float32, for numbers u (n,) in [0, 1).

        t is the inverse CDF of the density at u. So if u is uniform, t has this density.
        """

    def __call__(self, n: int, generator: Generator = None) -> tuple[Tensor, Tensor]:
        """Draw n times, one in each of n strata. Return t and weight, both (n,). E[weight] is the length of the interval."""
        return self.at(as_randomness(generator).stratified(n, torch.float64))

    def update(self, t: Tensor, loss: Tensor) -> None:
        """Update the density from the losses (n,) at the times t (n,). A fixed density ignores them."""

    def state_dict(self) -> dict[str, Any]:
        """Return the learned state as a dict of tensors. A checkpoint stores it, so a resumed training draws the same times."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state that `state_dict` returned.

        Raises:
            ValueError: the state belongs to another density.
        """
        if state:
            raise ValueError(
                f"the state contains {', '.join(sorted(state))}, expected an empty state: {type(self).__name__} does not learn"
            )


@dataclass(frozen=True)
class UniformTimes(TimeSampler):
    """Independent times, uniform on [t_min, t_max].

    Arguments:
        t_min: the smallest time that is drawn.
        t_max: the largest time that is drawn.
    """

    t_min: Early = 0.01
    t_max: Late = 1.0

    def __call__(self, n: int, generator: Generator = None) -> tuple[Tensor, Tensor]:
        return self.at(as_randomness(generator).uniform((n,)))

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        span = self.t_max - self.t_min
        t = clamped(self.t_min + span * u, self.t_min, self.t_max)
        return t, torch.full_like(t, span)


@dataclass(frozen=True)
class StratifiedTimes(UniformTimes):
    """Stratified uniform times: one in each of n equal strata.

    The expected loss stays the same, and its estimate has a smaller variance.

    References:
        Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    """

    def __call__(self, n: int, generator: Generator = None) -> tuple[Tensor, Tensor]:
        return self.at(as_randomness(generator).stratified(n))
