"""Densities of times that are constant between given times, and the one that suits a loss best.

The mean of `weight * loss`, with `weight = 1 / density`, is the same integral whatever the density. Its variance is least
where the density follows `sqrt(E[loss(t)^2])`. `learned_times` measures that on losses of other examples. The weights are
those of the density that is drawn from, so that what it learned changes the error and not the mean.

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
"""How often each of K pieces is drawn, relative to the others."""

_BINS = 64
_UNIFORM_SHARE = 0.1
"""The share of draws that does not follow what was learned: no weight exceeds ten times that of the pilot's density."""


def find_piece(u: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The piece that a share u of the draws ends in, and how far inside: (n,) and (K,) -> (n,) integer, (n,) in [0, 1]."""
    ends = probabilities.cumsum(0)
    v = u * ends[-1]
    place = torch.searchsorted(ends, v, right=True).clamp(max=len(ends) - 1)
    return place, (1 - (ends[place] - v) / probabilities[place]).clamp(0, 1)


class PiecewiseTimes(TimeSampler):
    """A density that is constant between given times.

    Arguments:
        edges: K + 1 rising times in [0, 1].
        masses: how often each of the K pieces is drawn, relative to the others: positive numbers; None is alike.

    Raises:
        ValueError: the times do not rise, or there is not one positive mass a piece.
    """

    def __init__(self, edges: Annotated[Sequence[float], Range(least=0, most=1)], masses: Masses | None = None) -> None:
        check_arguments(PiecewiseTimes, locals())
        self.edges: NDArray[np.float64] = np.array(edges, dtype=np.float64)
        if self.edges.ndim != 1 or len(self.edges) < 2 or not (np.diff(self.edges) > 0).all():
            raise ValueError(f"edges = {edges}, expected at least two rising times")
        check_interval(self.edges[0], self.edges[-1])
        pieces = len(self.edges) - 1
        self.masses: NDArray[np.float64] = np.ones(pieces) if masses is None else np.array(masses, dtype=np.float64)
        if self.masses.shape != (pieces,):
            raise ValueError(f"masses = {masses}, expected {pieces} numbers, one for each piece")
        self.masses /= self.masses.sum()
        self.t_min, self.t_max = float(self.edges[0]), float(self.edges[-1])

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        edges, masses = torch.tensor(self.edges, device="cpu"), torch.tensor(self.masses, device="cpu")
        place, inside = find_piece(u.double().cpu(), masses)
        width = edges.diff()[place]
        return self._time(edges[place], width, inside), (width / masses[place]).float()

    def _time(self, start: Tensor, width: Tensor, inside: Tensor) -> Tensor:
        """The time of a draw from the piece that starts at `start`: all (n,)."""
        return clamped(start + inside * width, self.t_min, self.t_max)

    def with_masses(self, masses: Sequence[float]) -> PiecewiseTimes:
        """The same pieces, drawn as often as the masses say."""
        return PiecewiseTimes(self.edges.tolist(), masses)


class GridTimes(PiecewiseTimes):
    """The steps of a grid: what estimates a sum over the steps of a chain.

    A time is the middle of a step, in which a chain's loss is constant. The mean of weight times loss is the integral.
    Draws are stratified: where all steps are drawn alike, n draws, a multiple of N, visit every step equally often.

    Arguments:
        grid: the times of the chain.
        masses: how often each step is drawn, from t_min on, relative to the others; None is alike.
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
    """The pieces on which a density over the interval of `times` is learned: its own, or short ones near the data."""
    if isinstance(times, PiecewiseTimes):
        return times
    return PiecewiseTimes(QuadraticGrid(_BINS, times.t_min, times.t_max).times()[::-1])


def pilot_times(times: TimeSampler) -> PiecewiseTimes:
    """The density that losses are measured with before another one is learned: even in the root of `t - t_min`."""
    pieces = _pieces(times)
    return pieces.with_masses(np.diff(np.sqrt(pieces.edges - pieces.t_min)).tolist())


def learned_times(times: TimeSampler, t: Tensor, loss: Tensor) -> PiecewiseTimes:
    """The density over the interval of `times` that follows the root mean square of losses that were measured.

    A tenth of the draws keeps to `pilot_times`, so that losses which the measurement missed have bounded weights.

    Arguments:
        times: the density to improve; a chain's steps stay its steps.
        t: where losses were measured (n,); draws of `pilot_times`, to cover the interval.
        loss: the losses there, without weights (n,).

    Raises:
        ValueError: no loss is finite and positive.
    """
    pilot = pilot_times(times)
    at, squares = t.double().cpu().numpy(), loss.double().square().cpu().numpy()
    # Equal bins in the root of t - t_min, so that the pilot's draws are spread over them evenly.
    place = np.sqrt(((at - pilot.t_min) / (pilot.t_max - pilot.t_min)).clip(0, 1)) * _BINS
    finite = np.isfinite(squares)
    bins = place[finite].astype(int).clip(max=_BINS - 1)
    count, total = np.bincount(bins, minlength=_BINS), np.bincount(bins, squares[finite], minlength=_BINS)
    (seen,) = np.nonzero(total)
    if not len(seen):
        raise ValueError(f"none of {len(at)} losses is finite and positive, expected some to learn a density of times from")
    log_size = np.log(total[seen] / count[seen]) / 2
    middle = (pilot.edges[1:] + pilot.edges[:-1]) / 2
    wanted = np.sqrt((middle - pilot.t_min) / (pilot.t_max - pilot.t_min)) * _BINS
    density = np.exp(np.interp(wanted, seen + 0.5, log_size))
    masses = density * np.diff(pilot.edges)
    return pilot.with_masses(((1 - _UNIFORM_SHARE) * masses / masses.sum() + _UNIFORM_SHARE * pilot.masses).tolist())
