"""Leaps: the jumps of all dimensions in a step of length h, with rates that stay constant during the step.

With rates Rhat(y) in one dimension, the number of jumps to y is `K_y ~ Poisson(h Rhat(y))`. There are two rules for several
jumps of one dimension:

- ordinal states: each jump is a displacement y - x. The displacements are added, and the sum `x + sum_y K_y (y - x)` is
  clamped to 0 .. n - 1;
- categorical states: displacements cannot be added. A dimension with more than one jump keeps its state and is counted.

Euler's method makes at most one jump, with probability `h Lambda`. Lambda is the exit rate, the sum of the rates.

Usually no Poisson number is drawn for each y. Instead, the total number of jumps is drawn, which is Poisson with the mean
`h Lambda`. Then each jump draws its destination from `Rhat / Lambda`. A Poisson number for each y is drawn in two cases
only: if a dimension has many expected jumps, and on an accelerator. On an accelerator, the program would have to wait for
the number of jumps before it could draw their destinations.

References:
    Approximate accelerated stochastic simulation of chemically reacting systems (Gillespie, 2001) | J. Chem. Phys. 115
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_core import Randomness, readable
from diffusion_core.ranges import CheckedArguments, NonNegative
from diffusion_core.values import check_within
from discrete_diffusion.jumps import Jumps
from discrete_diffusion.rates.base import RateMatrix

__all__ = ["BernoulliLeap", "CategoricalLeap", "Landing", "Leap", "OrdinalLeap", "usual_leap"]

_MOST_JUMPS = 1e12  # limit of a Poisson mean; a larger mean gives the same result, which is clamped or rejected


class Landing(NamedTuple):
    """The result of a leap: the new states x (B, *event), and a dict of counters for `State.counts`, each (B,)."""

    x: Tensor
    counts: Mapping[str, Tensor]


def _check_rates(jumps: Jumps) -> Tensor:
    """Return the exit rates, or raise an error if they are not finite.

    Raises:
        ValueError: a rate is infinite or undefined.
    """
    exit_rates = jumps.exit_rates
    most = torch.finfo(exit_rates.dtype).max
    check_within(
        exit_rates,
        -most,
        most,
        "a reverse rate is {}, not finite. Use a grid with t_max < 1, so that the schedule's rate is finite at all times, "
        "or the sampler Ancestral, which needs p(x_0 | x_t) but no rates",
    )
    return exit_rates


def _count(events: Tensor) -> Tensor:
    """Return the sum over each example: (B, *event) -> (B,)."""
    return events.flatten(1).sum(-1)


def _jumped(jumps: Jumps, which: Tensor, u: Tensor) -> Tensor:
    """Return the states after one jump of the dimensions `which` (B, *event), with uniforms (B, *event, 3): (B, *event)."""
    x, which, u = jumps.x.flatten(), which.flatten(), u.flatten(0, -2)
    if readable(x):
        positions = which.nonzero()[:, 0]
        moved = x.index_copy(0, positions, jumps.draw(positions, u[positions]))
    else:
        moved = torch.where(which, jumps.draw(torch.arange(len(x), device=x.device), u), x)
    return moved.reshape(jumps.x.shape)


class Leap(CheckedArguments, ABC):
    """The rule for several jumps of one dimension in a step of length h, with constant rates."""

    def check(self, rates: RateMatrix) -> None:
        """Raise an error if this leap is not defined for the states of a rate matrix.

        Raises:
            ValueError: the leap is not defined for these states.
        """

    @abstractmethod
    def draw(self, jumps: Jumps, h: Tensor, randomness: Randomness) -> Landing:
        """Draw the states after a leap of length h. h is a tensor (), in units of t."""

    @abstractmethod
    def law(self, jumps: Jumps, h: Tensor) -> Tensor:
        """Return the probabilities of the n states of each dimension after the leap: (B, *event, n)."""


@dataclass(frozen=True)
class BernoulliLeap(Leap):
    """A leap with at most one jump for each dimension. The probability of a jump is `h Lambda`.

    Lambda is the exit rate of the dimension. If `h Lambda` is above 1, the dimension jumps with probability 1 and is
    counted as clamped.

    The method `law` also accepts a separate h for each dimension, (B, *event, 1). If h is infinite, the dimension jumps
    with probability 1.
    """

    def draw(self, jumps: Jumps, h: Tensor, randomness: Randomness) -> Landing:
        probability = h * _check_rates(jumps)
        u = randomness.uniform((*jumps.x.shape, 4), torch.float64, jumps.x.device)
        return Landing(_jumped(jumps, u[..., 0] < probability, u[..., 1:]), {"clamped": _count(probability > 1)})

    def law(self, jumps: Jumps, h: Tensor) -> Tensor:
        total = _check_rates(jumps)[..., None]
        # The rates act for the duration min(h, 1 / Lambda).
        moved = jumps.matrix() * torch.where(total > 0, 1 / total, h).clamp(max=h)
        return moved.scatter(-1, jumps.x[..., None], (1 - moved.sum(-1, keepdim=True)).clamp(min=0))


@dataclass(frozen=True)
class CategoricalLeap(Leap):
    """A leap for categorical states: if a dimension has exactly one jump, it makes this jump.

    If a dimension has more than one jump, it keeps its state and is counted as rejected.
    """

    def draw(self, jumps: Jumps, h: Tensor, randomness: Randomness) -> Landing:
        counts = randomness.poisson((h * _check_rates(jumps)).clamp(max=_MOST_JUMPS))
        u = randomness.uniform((*jumps.x.shape, 3), torch.float64, jumps.x.device)
        return Landing(_jumped(jumps, counts == 1, u), {"rejected": _count(counts > 1)})

    def law(self, jumps: Jumps, h: Tensor) -> Tensor:
        rates = jumps.matrix()
        total = _check_rates(jumps)[..., None]
        moved = h * rates * torch.exp(-h * total)
        return moved.scatter(-1, jumps.x[..., None], 1 - moved.sum(-1, keepdim=True))


@dataclass(frozen=True)
class OrdinalLeap(Leap):
    """A leap for ordinal states: the displacements of all jumps are added.

    The new state is clamped to the range of states. Dimensions whose state was clamped are counted as clamped.

    Arguments:
        dense_above: if the expected number of jumps of a dimension is above this, one Poisson number is drawn for each
            state. This changes the speed but not the distribution of the samples.
    """

    dense_above: NonNegative = 24.0

    def check(self, rates: RateMatrix) -> None:
        if rates.num_states != rates.data_states:
            raise ValueError(
                f"num_states = {rates.num_states} and data_states = {rates.data_states}, expected equal numbers: "
                "OrdinalLeap adds differences of values, but the last state is a mask and not a value. Use CategoricalLeap"
            )

    def draw(self, jumps: Jumps, h: Tensor, randomness: Randomness, origin: Tensor | None = None) -> Landing:
        """Draw the states after a leap of length h.

        Arguments:
            jumps: the jump rates.
            h: the length of the leap, (), in units of t.
            randomness: the source of randomness.
            origin: the states (B, *event) to which the displacements are added. None means `jumps.x`.
        """
        x = jumps.x
        origin = x if origin is None else origin
        means = (h * _check_rates(jumps)).clamp(max=_MOST_JUMPS)
        shift = torch.zeros(x.numel(), dtype=torch.float64, device=x.device)
        if readable(x):
            dense = means > self.dense_above
            self._add_listed(jumps, torch.where(dense, 0.0, means), randomness, shift)
            if not bool(dense.any()):
                return self._landing(jumps, origin, shift)
            positions, counts = dense.flatten().nonzero()[:, 0], _count(dense)
        else:
            positions = torch.arange(x.numel(), device=x.device)
            counts = torch.full((len(x),), x[0].numel(), device=x.device)
        self._add_dense(jumps, h, positions, counts, randomness, shift)
        return self._landing(jumps, origin, shift)

    def expected(self, jumps: Jumps, h: Tensor) -> Tensor:
        """Return the states after a move by the expected displacement of a leap, rounded and clamped: (B, *event)."""
        _check_rates(jumps)
        rates = jumps.matrix()
        displacement = torch.arange(jumps.num_states, device=rates.device) - jumps.x[..., None]
        drift = (rates.double() * displacement).sum(-1)
        return (jumps.x + torch.round(h * drift)).clamp(0, jumps.num_states - 1).to(jumps.x.dtype)

    @staticmethod
    def _landing(jumps: Jumps, origin: Tensor, shift: Tensor) -> Landing:
        """Return the clamped states after the displacements `shift` (B D,) from the states `origin`."""
        landing = origin + shift.reshape(origin.shape)
        inside = landing.clamp(0, jumps.num_states - 1)
        return Landing(inside.to(origin.dtype), {"clamped": _count(inside != landing)})

    @staticmethod
    def _add_listed(jumps: Jumps, means: Tensor, randomness: Randomness, shift: Tensor) -> None:
        """Add to `shift` the displacements of jumps that are drawn one by one."""
        counts = randomness.poisson(means).long()
        u = randomness.ragged_uniform(3 * _count(counts), torch.float64).reshape(-1, 3)
        positions = torch.repeat_interleave(counts.flatten())
        shift.index_add_(0, positions, jumps.draw(positions, u).to(shift.dtype))
        shift -= (counts * jumps.x).flatten()

    @staticmethod
    def _add_dense(jumps: Jumps, h: Tensor, positions: Tensor, counts: Tensor, randomness: Randomness, shift: Tensor) -> None:
        """Add to `shift` the displacements of dimensions that draw one Poisson number for every state."""
        rates = (h * jumps.rows(positions)).clamp(max=_MOST_JUMPS)
        number = randomness.ragged_poisson(rates, counts).double()
        displacement = torch.arange(jumps.num_states, device=shift.device) - jumps.x.flatten()[positions, None]
        shift.index_add_(0, positions, (number * displacement).sum(-1))

    def law(self, jumps: Jumps, h: Tensor, origin: Tensor | None = None) -> Tensor:
        """Return the law of the state after a leap: a clamped compound Poisson distribution, (B, *event, n).

        It is computed from the characteristic function by a Fourier transform. The period of the transform is so long that
        the probability of larger displacements is negligible. The arguments are those of `draw`.
        """
        origin = jumps.x if origin is None else origin
        rates = h * jumps.matrix().double()
        n = jumps.num_states
        most = rates.sum(-1).max().item()
        # The number of jumps of a dimension is larger than this with a probability below 1e-26.
        jumps_at_most = most + 12 * math.sqrt(most + 1) + 10
        size = 2 ** math.ceil(math.log2(2 * (n - 1) * jumps_at_most))
        displacement = (torch.arange(n, device=rates.device) - jumps.x[..., None]) % size  # (B, *event, n)
        intensity = torch.zeros(*jumps.x.shape, size, dtype=torch.float64, device=rates.device).scatter_add_(
            -1, displacement, rates
        )
        spectrum = torch.fft.rfft(intensity)
        total = torch.fft.irfft(torch.exp(spectrum - rates.sum(-1, keepdim=True)), size).clamp(min=0)
        signed = (torch.arange(size, device=rates.device) + size // 2) % size - size // 2
        landing = (origin[..., None] + signed).clamp(0, n - 1)
        return torch.zeros_like(rates).scatter_add_(-1, landing, total)


def usual_leap(rates: RateMatrix) -> Leap:
    """Return the default leap: `OrdinalLeap` if the rate matrix is `ordered`, else `CategoricalLeap`."""
    return OrdinalLeap() if rates.ordered else CategoricalLeap()
