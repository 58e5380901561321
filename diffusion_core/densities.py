"""Piecewise constant densities of times, and the density with the least variance for a loss.

The mean of `weight * loss`, with `weight = 1 / density`, is the integral of the loss over time, for every density. Its
variance is smallest if the density is proportional to `sqrt(E[loss(t)^2])`. `learned_times` estimates this density from the
losses of other examples. The weights always belong to the density from which times are drawn. So an inexact density
increases the variance, but it does not bias the mean.

References:
    Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_core.ranges import Range, check_arguments
from diffusion_core.times import QuadraticGrid, TimeGrid, TimeSampler, check_interval, clamped

__all__ = ["GridTimes", "PiecewiseTimes", "find_piece", "learned_times", "pilot_times"]

Masses = Annotated[Sequence[float], Range(above=0)]
"""The relative probability of each of K pieces."""

_BINS = 64
_UNIFORM_SHARE = 0.1
"""The fraction of draws that follow the pilot density. So each weight is at most ten times that of the pilot density."""


def find_piece(u: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Invert the CDF of a piecewise constant density.

    Arguments:
        u: the fraction of the probability that lies below each result, in [0, 1), (n,).
        probabilities: the relative probability of each piece (K,).

    Returns:
        The index of the piece (n,), and the position within the piece (n,), from 0 at its start to 1 at its end.
    """
    ends = probabilities.cumsum(0)
    v = u * ends[-1]
    place = torch.searchsorted(ends, v, right=True).clamp(max=len(ends) - 1)
    return place, (1 - (ends[place] - v) / probabilities[place]).clamp(0, 1)


class PiecewiseTimes(TimeSampler):
    """A density that is constant between given times.

    Arguments:
        edges: K + 1 increasing times in [0, 1].
        masses: the relative probability of each of the K pieces, a positive number. None means equal probabilities.
        weighted: whether each loss gets the weight 1 / density. The mean then stays the integral of the loss over time, and
            only its variance depends on the density. Without these weights, times with a higher density also count more in
            the mean: the density is then a part of the objective. Losses that are bounds on -log p refuse such times.

    Raises:
        ValueError: the times do not increase, or there is not one positive mass for each piece.
    """

    def __init__(
        self, edges: Annotated[Sequence[float], Range(least=0, most=1)], masses: Masses | None = None, weighted: bool = True
    ) -> None:
        check_arguments(PiecewiseTimes, locals())
        self.edges: NDArray[np.float64] = np.array(edges, dtype=np.float64)
        if self.edges.ndim != 1 or len(self.edges) < 2 or not (np.diff(self.edges) > 0).all():
            raise ValueError(f"edges = {edges}, expected at least two increasing times")
        check_interval(self.edges[0], self.edges[-1])
        pieces = len(self.edges) - 1
        self.masses: NDArray[np.float64] = np.ones(pieces) if masses is None else np.array(masses, dtype=np.float64)
        if self.masses.shape != (pieces,):
            raise ValueError(f"masses = {masses}, expected {pieces} numbers, one for each piece")
        self.masses /= self.masses.sum()
        self.t_min, self.t_max = float(self.edges[0]), float(self.edges[-1])
        self.weighted = weighted

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        edges, masses = torch.tensor(self.edges, device="cpu"), torch.tensor(self.masses, device="cpu")
        place, inside = find_piece(u.double().cpu(), masses)
        width = edges.diff()[place]
        weight = width / masses[place] if self.weighted else torch.full_like(u, self.t_max - self.t_min, dtype=torch.float64)
        return self._time(edges[place], width, inside), weight.float()

    def _time(self, start: Tensor, width: Tensor, inside: Tensor) -> Tensor:
        """Return the time of each draw, given the start and width of its piece and the position inside: all (n,)."""
        return clamped(start + inside * width, self.t_min, self.t_max)

    def with_masses(self, masses: Sequence[float]) -> PiecewiseTimes:
        """Return a density with the same pieces, with other masses and with weights."""
        return PiecewiseTimes(self.edges.tolist(), masses)


class GridTimes(PiecewiseTimes):
    """A density of times that draws steps of a time grid, to estimate a sum over the steps of a chain.

    Each drawn time is the middle of a step. The loss of a chain is constant within a step, so the mean of
    `weight * loss` is the integral of the loss. Draws are stratified. With equal masses and a multiple of N draws,
    every step is drawn equally often.

    Arguments:
        grid: the times of the chain.
        masses: the relative probability of each step, a positive number. The first step is the one at t_min. None means
            equal probabilities.
    """

    def __init__(self, grid: TimeGrid, masses: Masses | None = None) -> None:
        check_arguments(GridTimes, locals())
        super().__init__(grid.times()[::-1], masses)
        self.grid = grid

    def _time(self, start: Tensor, width: Tensor, inside: Tensor) -> Tensor:
        return (start + width / 2).float()

    def with_masses(self, masses: Sequence[float]) -> GridTimes:
        return GridTimes(self.grid, masses)


def _pieces(times: TimeSampler) -> PiecewiseTimes:
    """Return the pieces of the density to learn: those of `times` if it has any, otherwise those of a quadratic grid."""
    if isinstance(times, PiecewiseTimes):
        return times
    return PiecewiseTimes(QuadraticGrid(_BINS, times.t_min, times.t_max).times()[::-1])


def pilot_times(times: TimeSampler) -> PiecewiseTimes:
    """Return the density for the first measurement of the losses: uniform in `sqrt(t - t_min)`."""
    pieces = _pieces(times)
    return pieces.with_masses(np.diff(np.sqrt(pieces.edges - pieces.t_min)).tolist())


def learned_times(times: TimeSampler, t: Tensor, loss: Tensor) -> PiecewiseTimes:
    """Return a density of times that is proportional to the root mean square of measured losses.

    A tenth of the draws follow `pilot_times`. So the weights are bounded at times at which the measurement missed large
    losses.

    Arguments:
        times: the density to improve; the result has the same interval and, for a chain, the same steps.
        t: the times of the measured losses (n,); draw them from `pilot_times`, which covers the interval.
        loss: the measured losses, without weights (n,).

    Raises:
        ValueError: no loss is finite and positive.
    """
    pilot = pilot_times(times)
    at, squares = t.double().cpu().numpy(), loss.double().square().cpu().numpy()
    # Bins of equal width in sqrt(t - t_min): the pilot density draws equally often from each.
    place = np.sqrt(((at - pilot.t_min) / (pilot.t_max - pilot.t_min)).clip(0, 1)) * _BINS
    finite = np.isfinite(squares)
    bins = place[finite].astype(int).clip(max=_BINS - 1)
    count, total = np.bincount(bins, minlength=_BINS), np.bincount(bins, squares[finite], minlength=_BINS)
    (seen,) = np.nonzero(total)
    if not len(seen):
        raise ValueError(f"none of {len(at)} losses is finite and positive, expected at least one to learn a density of times")
    log_size = np.log(total[seen] / count[seen]) / 2
    middle = (pilot.edges[1:] + pilot.edges[:-1]) / 2
    wanted = np.sqrt((middle - pilot.t_min) / (pilot.t_max - pilot.t_min)) * _BINS
    density = np.exp(np.interp(wanted, seen + 0.5, log_size))
    masses = density * np.diff(pilot.edges)
    return pilot.with_masses(((1 - _UNIFORM_SHARE) * masses / masses.sum() + _UNIFORM_SHARE * pilot.masses).tolist())
