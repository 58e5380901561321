"""The flow into the noisy state of every dimension, and draws of where it comes from.

For weights w over the clean value and a noisy value x, the reverse process leaves x for y at a
rate proportional to `(w P)_y R[y, x]`. With `H[x_0, x] = sum_{y != x} P[x_0, y] R[y, x]`,

    total   sum_{y != x} (w P)_y R[y, x] = sum_{x_0} w(x_0) H[x_0, x]
    draw    x_0 ~ w(x_0) H[x_0, x],   then   y ~ P[x_0, y] R[y, x]

so the product w P is never formed. Where H is a table, the sums of blocks of 16 products give
the total and are kept: a draw reads them, and then one block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backbones.distributions import inverse_cdf
from diffusion_core import readable

if TYPE_CHECKING:
    from discrete_diffusion.rates.base import TransitionKernel

__all__ = ["BlockedInflow", "Inflow"]

_BLOCK = 16
_CHUNK = 2**19  # elements: a chunk of rows of weights stays in cache


class Inflow:
    """For one time and all dimensions of a batch.

    Arguments:
        kernel: P_tau for scalar tau.
        w: weights over the data states (B, *event, S).
        x: noisy states (B, *event).
    """

    def __init__(self, kernel: TransitionKernel, w: Tensor, x: Tensor) -> None:
        self._kernel = kernel
        self._w = w.flatten(0, -2)
        self._x = x.flatten()
        self.at_x, self.total = kernel.inflow(w, x)

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        """Where jumps out of x lead: flat positions (M,), uniforms (M, 3) in float64 -> (M,)."""
        x = self._x.index_select(0, positions)
        size = _CHUNK // self._w.shape[-1] if readable(x) else max(len(x), 1)
        x_0 = torch.empty_like(x)
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            weights = self._w.index_select(0, positions[part]).mul_(self._kernel.inflow_columns(x[part]))
            x_0[part] = inverse_cdf(weights, u[part, 0])
        return self._kernel.draw_inflow(x_0, x, u[:, 2])


class BlockedInflow(Inflow):
    """The same with the block sums kept; S is a multiple of 16.

    Arguments:
        kernel: P_tau for scalar tau.
        w: weights over the data states (B, *event, S).
        x: noisy states (B, *event).
        columns: P[., x] for every x (n, S).
        inflow: H[., x] for every x (n, S).
    """

    def __init__(self, kernel: TransitionKernel, w: Tensor, x: Tensor, columns: Tensor, inflow: Tensor) -> None:
        self._kernel = kernel
        self._w = w.flatten(0, -2)
        self._x = x.flatten()
        self._inflow = inflow
        n, size = self._w.shape
        self._blocks = size // _BLOCK
        at_x = w.new_empty(n)
        self._sums = w.new_empty(n, self._blocks)
        ones = w.new_ones(_BLOCK)
        rows = _CHUNK // 2 // size
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            here, place = self._w[part], self._x[part]
            torch.linalg.vecdot(here, columns.index_select(0, place), out=at_x[part])
            products = inflow.index_select(0, place).mul_(here)
            torch.mv(products.view(-1, _BLOCK), ones, out=self._sums[part].view(-1))
        self.at_x, self.total = at_x.view(x.shape), self._sums.sum(-1).view(x.shape)

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        x = self._x.index_select(0, positions)
        block = inverse_cdf(self._sums.index_select(0, positions), u[:, 0])
        weights = self._w.view(-1, _BLOCK).index_select(0, positions * self._blocks + block)
        weights.mul_(self._inflow.view(-1, _BLOCK).index_select(0, x * self._blocks + block))
        x_0 = block * _BLOCK + inverse_cdf(weights, u[:, 1])
        return self._kernel.draw_inflow(x_0, x, u[:, 2])
