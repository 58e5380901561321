"""The flow into the noisy state of every dimension, and draws of where it comes from.

For weights w over the clean value and a noisy value x, the reverse process leaves x for y at a
rate proportional to `(w P)_y R[y, x]`. With `H[x_0, x] = sum_{y != x} P[x_0, y] R[y, x]`,

    total   sum_{y != x} (w P)_y R[y, x] = sum_{x_0} w(x_0) H[x_0, x]
    draw    x_0 ~ w(x_0) H[x_0, x],   then   y ~ P[x_0, y] R[y, x]

so the product w P is never formed. Where H is a table, the sums of blocks of 16 products give
the total and are kept: a draw reads them, and then one block.

Weights are given by their logarithms, the scores, and are `exp(score - shift)` with the largest
score of each dimension as its shift, or 0 where that will do: a chunk of them at a time, so that they are never stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_core import readable
from diffusion_core.distributions import inverse_cdf
from diffusion_core.distributions.numerics import decayed, lowest

if TYPE_CHECKING:
    from discrete_diffusion.rates.base import TransitionKernel

__all__ = ["BlockedInflow", "Inflow"]

_BLOCK = 16
_CHUNK = 2**19  # elements: a chunk of rows of weights stays in cache
_CACHED = 2**18  # of which two, and their results, stay in the caches of two cores


class Inflow:
    """For one time and all dimensions of a batch.

    Arguments:
        kernel: P_tau for scalar tau.
        scores: log w over the data states (B, *event, S); -inf is a weight of 0.
        x: noisy states (B, *event).
    """

    def __init__(self, kernel: TransitionKernel, scores: Tensor, x: Tensor) -> None:
        self._prepare(kernel, scores, x)
        self.at_x, self.total = kernel.inflow(self.weights(slice(None)).view(scores.shape), x)

    def _prepare(self, kernel: TransitionKernel, scores: Tensor, x: Tensor) -> None:
        self._kernel = kernel
        self._scores = scores.flatten(0, -2)
        self._x = x.flatten()
        self._shape = x.shape
        self._shift = scores.new_empty(len(self._x), 1)

    @property
    def shift(self) -> Tensor:
        """What was subtracted from the scores of each dimension: (B, *event)."""
        return self._shift.view(self._shape)

    def weights(self, part: slice) -> Tensor:
        """The weights of some dimensions, and their shift: (M, S)."""
        scores = self._scores[part]
        shift = torch.amax(scores, -1, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)
        self._shift[part] = shift
        weights = scores - shift
        return decayed(weights, out=weights)

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        """Where jumps out of x lead: flat positions (M,), uniforms (M, 3) in float64 -> (M,)."""
        return self._kernel.draw_inflow(self._sources(positions, u[:, 0]), self._x.index_select(0, positions), u[:, 2])

    def _sources(self, positions: Tensor, u: Tensor) -> Tensor:
        """`x_0 ~ w(x_0) H[x_0, x]` from all weights of some dimensions: flat positions (M,), uniforms (M,) -> (M,)."""
        x = self._x.index_select(0, positions)
        size = _CHUNK // self._scores.shape[-1] if readable(x) else max(len(x), 1)
        x_0 = torch.empty_like(x)
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            scores = self._scores.index_select(0, positions[part]).sub_(self._shift.index_select(0, positions[part]))
            weights = decayed(scores, out=scores).mul_(self._kernel.inflow_columns(x[part]))
            x_0[part] = inverse_cdf(weights, u[part])
        return x_0


class BlockedInflow(Inflow):
    """The same with the block sums kept; S is a multiple of 64.

    Scores of ordinary size need no shift, and finding the largest takes as long as all else that is done to them: only
    dimensions whose sums leave the middle of the dtype's range are summed again with theirs. In sums of that size the
    smallest normal number is as good as 0, so weights below it are not flushed, which takes an eighth longer; only a block
    without other weights has to be noticed, where one is drawn.

    Arguments:
        kernel: P_tau for scalar tau.
        scores: log w over the data states (B, *event, S), contiguous.
        x: noisy states (B, *event).
        columns: P[., x] for every x (n, S).
        inflows: H[., x] for every x (n, S).
    """

    def __init__(self, kernel: TransitionKernel, scores: Tensor, x: Tensor, columns: Tensor, inflows: Tensor) -> None:
        self._prepare(kernel, scores, x)
        self._columns, self._inflows = columns, inflows
        n, size = self._scores.shape
        self._blocks = size // _BLOCK
        self._sums = scores.new_empty(n, self._blocks)
        self._shift.zero_()
        rows = _CACHED // size
        # Buffers that stay in the cache: fresh tensors for each chunk take an eighth longer.
        buffers = scores.new_empty(2, min(rows, n), size)
        at_x = scores.new_empty(n)
        parts = (tensor.split(rows) for tensor in (self._scores, self._x, at_x, self._sums))
        for some_scores, some_x, some_at, some_sums in zip(*parts, strict=True):
            weights = buffers[0, : len(some_x)]
            torch.clamp(some_scores, min=lowest(scores.dtype), out=weights).exp_()
            self._add_up(weights, some_x, some_at, some_sums, buffers[1])
        total = self._sums.sum(-1)
        small = torch.finfo(scores.dtype).tiny ** (2 / 3)
        ordinary = (at_x > small) & (at_x < 1 / small) & (total > small) & (total < 1 / small)
        extreme = self._x[:0] if bool(ordinary.all()) else (~ordinary).nonzero()[:, 0]
        self._shifted = len(extreme) > 0
        for places in extreme.split(rows) if self._shifted else ():
            selected = self._scores.index_select(0, places)
            shift = torch.amax(selected, -1, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)
            at, again = at_x.index_select(0, places), self._sums.index_select(0, places)
            weights = decayed(selected.sub_(shift), out=selected)
            self._add_up(weights, self._x.index_select(0, places), at, again, buffers[1])
            self._shift[places], at_x[places], self._sums[places], total[places] = shift, at, again, again.sum(-1)
        self.at_x, self.total = at_x.view(x.shape), total.view(x.shape)

    def _add_up(self, weights: Tensor, x: Tensor, at_x: Tensor, sums: Tensor, buffer: Tensor) -> None:
        """`w . P[., x]`, and the sums of blocks of `w H[., x]`: weights (M, S) -> (M,) and (M, S / 16)."""
        flow = buffer[: len(x)]
        torch.index_select(self._columns, 0, x, out=flow)
        torch.sum(flow.mul_(weights), -1, out=at_x)
        torch.index_select(self._inflows, 0, x, out=flow)
        torch.mv(flow.mul_(weights).view(-1, _BLOCK), weights.new_ones(_BLOCK), out=sums.view(-1))

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        x = self._x.index_select(0, positions)
        block = inverse_cdf(self._sums.index_select(0, positions), u[:, 0])
        scores = self._scores.view(-1, _BLOCK).index_select(0, positions * self._blocks + block)
        if self._shifted:
            scores.sub_(self._shift.index_select(0, positions))
        # Above this both give the same bits, so what is drawn does not depend on who else draws.
        flushed = len(x) > 0 and not bool(scores.amin() > lowest(scores.dtype) + 0.01)
        weights = decayed(scores, out=scores) if flushed else scores.exp_()
        weights.mul_(self._inflows.view(-1, _BLOCK).index_select(0, x * self._blocks + block))
        x_0 = block * _BLOCK + inverse_cdf(weights, u[:, 1])
        if flushed and len(lost := (weights.sum(-1) == 0).nonzero()[:, 0]):
            x_0[lost] = self._sources(positions[lost], u[lost, 0])
        return self._kernel.draw_inflow(x_0, x, u[:, 2])
