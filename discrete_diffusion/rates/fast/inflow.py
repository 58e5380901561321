"""The inflow of every dimension, for kernels with a table `H[x_0, x] = sum_{y != x} P[x_0, y] R[y, x]`.

`rates/inflow.py` defines the inflow. The products `w(x_0) H[x_0, x]` are summed in blocks of 16. The block sums are stored,
and their sum is the total. A draw reads the block sums to select a block, and then the products of this block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_core.distributions import inverse_cdf
from diffusion_core.distributions.numerics import flushed_exp, lowest
from discrete_diffusion.rates.base import TransitionKernel
from discrete_diffusion.rates.inflow import Inflow

__all__ = ["BlockedInflow"]

_BLOCK = 16
_CACHED = 2**18  # elements of a chunk: two chunks and their results fit in the caches of two cores


class BlockedInflow(Inflow):
    """An inflow with stored block sums. S must be a multiple of 64.

    Most scores need no shift, because their exponentials do not overflow or underflow. A search for the largest score would
    double the time. So the sums are first computed without a shift. Only if a sum is very large or very small, it is
    computed again with a shift.

    In ordinary sums, weights below the smallest normal number have no effect. Such weights are not set to 0, because this
    would take an eighth more time. A draw from a block in which all weights are so small is a special case.

    Arguments:
        kernel: P_tau for one tau of shape ().
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
        # The buffers stay in the cache. New tensors for each chunk would take an eighth more time.
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
            weights = flushed_exp(selected.sub_(shift), out=selected)
            self._add_up(weights, self._x.index_select(0, places), at, again, buffers[1])
            self._shift[places], at_x[places], self._sums[places], total[places] = shift, at, again, again.sum(-1)
        self.at_x, self.total = at_x.view(x.shape), total.view(x.shape)

    def _add_up(self, weights: Tensor, x: Tensor, at_x: Tensor, sums: Tensor, buffer: Tensor) -> None:
        """Write `w . P[., x]` to `at_x` (M,) and the block sums of `w H[., x]` to `sums` (M, S / 16), for weights (M, S)."""
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
        # Above this limit `decayed` and `exp` give the same bits. So a draw does not depend on the other draws.
        flushed = len(x) > 0 and not bool(scores.amin() > lowest(scores.dtype) + 0.01)
        weights = flushed_exp(scores, out=scores) if flushed else scores.exp_()
        weights.mul_(self._inflows.view(-1, _BLOCK).index_select(0, x * self._blocks + block))
        x_0 = block * _BLOCK + inverse_cdf(weights, u[:, 1])
        if flushed and len(lost := (weights.sum(-1) == 0).nonzero()[:, 0]):
            x_0[lost] = self._sources(positions[lost], u[lost, 0])
        return self._kernel.draw_inflow(x_0, x, u[:, 2])
