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

from diffusion_core.distributions.inversion import first_above
from diffusion_core.values import ANYTHING, ends
from discrete_diffusion.rates.base import draw_product

__all__ = ["ProductSampler"]

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
        """The sums of the first 0, 1, .. blocks of every pair: (blocks + 1, (n + 1) n)."""
        if self._sums is None:
            left = self._left.view(-1, self._blocks, _BLOCK).transpose(0, 1)
            right = self._right.view(-1, self._blocks, _BLOCK).permute(1, 2, 0)
            sums = left.new_empty(self._blocks + 1, len(self._left) * self._size)
            sums[0] = 0
            torch.bmm(left, right, out=sums[1:].view(self._blocks, -1, self._size))
            for block in range(2, self._blocks + 1):  # half the time of cumsum along the first axis
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
        place = a * self._size + b  # of the pair, in the row of as many blocks as are known to lie below v
        total = cumulative[-1].index_select(0, place)
        everywhere = ends(total, ANYTHING)[0] > 0
        if not everywhere:
            a = torch.where(total > 0, a, self._size)
            place = a * self._size + b
            total = cumulative[-1].index_select(0, place)
        v = torch.minimum(u * total, total * _BELOW_ONE)
        place = _advance(flat, place, v, self._blocks, pairs)
        block = torch.div(place, pairs, rounding_mode="floor")
        v -= flat.index_select(0, place)
        weights = self._left.view(-1, _BLOCK).index_select(0, a * self._blocks + block)
        weights.mul_(self._right.view(-1, _BLOCK).index_select(0, b * self._blocks + block))
        # The sums of a block were rounded elsewhere: the draw keeps v inside this one's.
        k = block.mul_(_BLOCK).add_(first_above(weights, v))
        return k if everywhere else torch.where(total > 0, k, b)

    def _draw_rows(self, a: Tensor, b: Tensor, u: Tensor) -> Tensor:
        return draw_product(self._left.index_select(0, a), self._right.index_select(0, b), b, u)


def _advance(table: Tensor, start: Tensor, v: Tensor, count: int, stride: int) -> Tensor:
    """How far ascending numbers do not exceed v, by halving: `start + stride m`, m < count a power of two.

    The numbers of one search are `table[start + stride j]` for j = 1, 2, ..; m of them are at most v. This
    beats searchsorted, which mispredicts its branches where v is random.
    """
    place = start
    half = count // 2
    while half:
        passed = table[half * stride :].index_select(0, place) <= v
        place = torch.add(place, passed, alpha=half * stride)
        half //= 2
    return place
