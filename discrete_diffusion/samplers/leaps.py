"""Leaps: let the rates of a time t act unchanged for a while h, in every dimension at once.

Given rates Rhat(y) of one dimension, `K_y ~ Poisson(h Rhat(y))` jumps to y happen. What many
jumps mean depends on the states:

- ordinal: jumps are displacements and add up, `x + sum_y K_y (y - x)`, clamped to 0 .. n - 1;
- categorical: two jumps have no meaning, so a dimension with more than one stays (counted).

Euler's method has no such question: it takes one jump with probability `h Lambda`, and never two.

The K are not drawn one y at a time: their sum is Poisson with mean `h Lambda`, and each jump
has a destination drawn from `Rhat / Lambda`. Only dimensions that expect many jumps, and
accelerators (where a list of unknown length would stall), use a Poisson for every y.

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

_MOST_JUMPS = 1e12  # a Poisson mean above this only says "very many": the result is clamped or rejected either way


class Landing(NamedTuple):
    """Where a leap ends: the states (B, *event), and what a `State` counts of the leap by name, each (B,)."""

    x: Tensor
    counts: Mapping[str, Tensor]


def _check_rates(jumps: Jumps) -> Tensor:
    """The total rates, refused if they are not finite.

    Raises:
        ValueError: a rate is infinite or undefined.
    """
    total = jumps.total
    most = torch.finfo(total.dtype).max
    check_within(
        total,
        -most,
        most,
        "a reverse rate is {}, not finite: keep the grid away from times where the schedule's rate is infinite "
        "(t_max < 1), or use the ancestral sampler, which needs no rates but p(x_0 | x_t)",
    )
    return total


def _count(events: Tensor) -> Tensor:
    """How many of something each example has: (B, *event) -> (B,)."""
    return events.flatten(1).sum(-1)


def _jumped(jumps: Jumps, which: Tensor, u: Tensor) -> Tensor:
    """The states after one jump of the dimensions `which` (B, *event), with uniforms (B, *event, 3): (B, *event)."""
    x, which, u = jumps.x.flatten(), which.flatten(), u.flatten(0, -2)
    if readable(x):
        positions = which.nonzero()[:, 0]
        moved = x.index_copy(0, positions, jumps.draw(positions, u[positions]))
    else:
        moved = torch.where(which, jumps.draw(torch.arange(len(x), device=x.device), u), x)
    return moved.reshape(jumps.x.shape)


class Leap(CheckedArguments, ABC):
    """What several jumps of one dimension in a step mean. If none is given they add up where the rates are ordered (ordinal),
    and are rejected elsewhere (categorical).
    """

    def check(self, rates: RateMatrix) -> None:
        """Refuse a rate matrix whose states this leap has no meaning for.

        Raises:
            ValueError: the states do not fit.
        """

    @abstractmethod
    def draw(self, jumps: Jumps, h: Tensor, randomness: Randomness) -> Landing:
        """Leap by h in units of t, a tensor ()."""

    @abstractmethod
    def law(self, jumps: Jumps, h: Tensor) -> Tensor:
        """The probabilities of where each dimension lands: (B, *event, n)."""


@dataclass(frozen=True)
class BernoulliLeap(Leap):
    """At most one jump, with probability `h Lambda`. A dimension where that exceeds 1 jumps, and is counted as clamped.

    For the law, h may be another one for each dimension, (B, *event, 1), and infinite: such a dimension surely jumps.
    """

    def draw(self, jumps: Jumps, h: Tensor, randomness: Randomness) -> Landing:
        probability = h * _check_rates(jumps)
        u = randomness.uniform((*jumps.x.shape, 4), torch.float64, jumps.x.device)
        return Landing(_jumped(jumps, u[..., 0] < probability, u[..., 1:]), {"clamped": _count(probability > 1)})

    def law(self, jumps: Jumps, h: Tensor) -> Tensor:
        total = _check_rates(jumps)[..., None]
        # min(h, 1 / Lambda) is the time that the rates act for.
        moved = jumps.matrix() * torch.where(total > 0, 1 / total, h).clamp(max=h)
        return moved.scatter(-1, jumps.x[..., None], (1 - moved.sum(-1, keepdim=True)).clamp(min=0))


@dataclass(frozen=True)
class CategoricalLeap(Leap):
    """A dimension with exactly one jump takes it; with more than one it stays, and is counted as rejected."""

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
    """Jumps are displacements and add up; the sum is clamped to the state space, and counted as clamped.

    Arguments:
        dense_above: dimensions that expect more jumps than this draw one Poisson number for every state. It changes the
            speed, not the law.
    """

    dense_above: NonNegative = 24.0

    def check(self, rates: RateMatrix) -> None:
        if rates.num_states != rates.data_states:
            raise ValueError(
                f"an ordinal leap adds displacements, but of the {rates.num_states} states the last is a mask, "
                "which has no place on a scale: use CategoricalLeap"
            )

    def draw(self, jumps: Jumps, h: Tensor, randomness: Randomness) -> Landing:
        x = jumps.x
        means = (h * _check_rates(jumps)).clamp(max=_MOST_JUMPS)
        shift = torch.zeros(x.numel(), dtype=torch.float64, device=x.device)
        if readable(x):
            dense = means > self.dense_above
            self._add_listed(jumps, torch.where(dense, 0.0, means), randomness, shift)
            if not bool(dense.any()):
                return self._landing(jumps, shift)
            positions, counts = dense.flatten().nonzero()[:, 0], _count(dense)
        else:
            positions = torch.arange(x.numel(), device=x.device)
            counts = torch.full((len(x),), x[0].numel(), device=x.device)
        self._add_dense(jumps, h, positions, counts, randomness, shift)
        return self._landing(jumps, shift)

    @staticmethod
    def _landing(jumps: Jumps, shift: Tensor) -> Landing:
        """Where displacements (D,) of all dimensions lead."""
        x = jumps.x
        landing = x + shift.reshape(x.shape)
        inside = landing.clamp(0, jumps.num_states - 1)
        return Landing(inside.to(x.dtype), {"clamped": _count(inside != landing)})

    @staticmethod
    def _add_listed(jumps: Jumps, means: Tensor, randomness: Randomness, shift: Tensor) -> None:
        """Add to `shift` the displacements of jumps drawn one by one."""
        counts = randomness.poisson(means).long()
        u = randomness.ragged_uniform(3 * _count(counts), torch.float64).reshape(-1, 3)
        positions = torch.repeat_interleave(counts.flatten())
        shift.index_add_(0, positions, jumps.draw(positions, u).to(shift.dtype))
        shift -= (counts * jumps.x).flatten()

    @staticmethod
    def _add_dense(jumps: Jumps, h: Tensor, positions: Tensor, counts: Tensor, randomness: Randomness, shift: Tensor) -> None:
        """Add to `shift` the displacements of dimensions that draw one Poisson for every state."""
        rates = (h * jumps.rows(positions)).clamp(max=_MOST_JUMPS)
        number = randomness.ragged_poisson(rates, counts).double()
        displacement = torch.arange(jumps.num_states, device=shift.device) - jumps.x.flatten()[positions, None]
        shift.index_add_(0, positions, (number * displacement).sum(-1))

    def law(self, jumps: Jumps, h: Tensor) -> Tensor:
        """The compound Poisson law, by its characteristic function on a circle too long to wrap around."""
        rates = h * jumps.matrix().double()
        n = jumps.num_states
        most = rates.sum(-1).max().item()
        size = 2 ** math.ceil(math.log2(2 * (n - 1) * (most + 12 * math.sqrt(most + 1) + 40)))
        displacement = (torch.arange(n) - jumps.x[..., None]) % size  # (B, *event, n)
        intensity = torch.zeros(*jumps.x.shape, size, dtype=torch.float64).scatter_add_(-1, displacement, rates)
        spectrum = torch.fft.fft(intensity)
        total = torch.fft.ifft(torch.exp(spectrum - rates.sum(-1, keepdim=True))).real.clamp(min=0)
        signed = (torch.arange(size) + size // 2) % size - size // 2
        landing = (jumps.x[..., None] + signed).clamp(0, n - 1)
        return torch.zeros_like(rates).scatter_add_(-1, landing, total)


def usual_leap(rates: RateMatrix) -> Leap:
    """What several jumps mean where nothing else is said: they add up where the values are levels on a scale."""
    return OrdinalLeap() if rates.ordered else CategoricalLeap()
