"""Draws from products of two tables: `k ~ left[a, k] right[k, b]` for many pairs (a, b).

A bridge is such a law, and so is the destination of a reverse jump. With n values, N pairs and
N much larger than n, writing the n weights of every pair down costs too much. Instead the values
are cut into blocks of 16; the sums of the blocks for all n^2 pairs are small matrix products,
made once. A draw searches the cumulative sums of its pair for a block, by halving, and then
the 16 weights of the block: some 40 numbers are read instead of 2 n.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.distributions import inverse_cdf

__all__ = ["ProductSampler", "draw_product"]

_BLOCK = 16
_LARGEST = 2**24  # entries of the table of block sums, 128 MB
_BELOW_ONE = 1 - 2.0**-53


class ProductSampler:
    """The laws `left[a, k] right[k, b]` over k, unnormalised, for all a and b.

    Where a law is zero everywhere, k is drawn from right[., b] alone; where that is zero too, k = b.

    Arguments:
        left: non-negative (n, n) in float64.
        right: non-negative (n, n) in float64.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self._size = left.shape[-1]
        blocks = -(-self._size // _BLOCK)
        self._blocks = 1 << (blocks - 1).bit_length()
        pad = self._blocks * _BLOCK - self._size
        # The row n of ones on the left stands for "right alone".
        self._left = F.pad(torch.cat([left, torch.ones_like(left[:1])]), (0, pad))  # (n + 1, 16 blocks)
        self._right = F.pad(right.mT, (0, pad)).contiguous()  # (n, 16 blocks)
        self._sums: Tensor | None = None

    def _cumulative(self) -> Tensor:
        """Cumulative block sums of every pair: (blocks, (n + 1) n)."""
        if self._sums is None:
            left = self._left.view(-1, self._blocks, _BLOCK).transpose(0, 1)
            right = self._right.view(-1, self._blocks, _BLOCK).permute(1, 2, 0)
            sums = torch.bmm(left, right).flatten(1)
            for block in range(1, self._blocks):  # a third of the time of cumsum along the first axis
                sums[block] += sums[block - 1]
            self._sums = sums
        return self._sums

    def draw(self, a: Tensor, b: Tensor, u: Tensor) -> Tensor:
        """k for lists a, b (N,) of states and uniform numbers u (N,) in float64: (N,), int64."""
        # The table pays where there are many pairs; whether it exists already does not change the path.
        if len(a) * 8 < self._size**2 or self._size**2 * self._blocks > _LARGEST:
            return self._draw_rows(a, b, u)
        cumulative = self._cumulative()
        flat, pairs = cumulative.view(-1), cumulative.shape[1]
        pair = a * self._size + b
        possible = cumulative[-1].index_select(0, pair) > 0
        a = torch.where(possible, a, self._size)
        pair = a * self._size + b
        total = cumulative[-1].index_select(0, pair)
        v = u * total
        v = torch.minimum(v, total * _BELOW_ONE)
        place = pair - pairs  # of the block before the first one that may exceed v
        block = torch.zeros_like(pair)
        half = self._blocks // 2
        while half:
            passed = flat.index_select(0, place + half * pairs) <= v
            step = passed * half
            block += step
            place += step * pairs
            half //= 2
        before = flat.index_select(0, place.clamp(min=0))
        v = v - torch.where(block > 0, before, 0.0)
        weights = self._left.view(-1, _BLOCK).index_select(0, a * self._blocks + block)
        weights.mul_(self._right.view(-1, _BLOCK).index_select(0, b * self._blocks + block))
        within = weights.cumsum(-1)
        v = torch.minimum(v.clamp_(min=0), within[:, -1] * _BELOW_ONE)
        k = torch.searchsorted(within, v[:, None], right=True)[:, 0].clamp_(max=_BLOCK - 1)
        return torch.where(total > 0, block * _BLOCK + k, b)

    def _draw_rows(self, a: Tensor, b: Tensor, u: Tensor) -> Tensor:
        return draw_product(self._left.index_select(0, a), self._right.index_select(0, b), b, u)


def draw_product(row: Tensor, column: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """`k ~ row[k] column[k]`, from column alone where that is zero, b where it is zero too: (..., n), (...) -> (...)."""
    weights = row * column
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, column)
    return torch.where(weights.sum(-1) > 0, inverse_cdf(weights, u), b)
