"""Draws of k with a probability proportional to `left[a, k] right[k, b]`, for many pairs (a, b).

Bridges and the destinations of reverse jumps have such distributions. With n values and N pairs, N is often much larger
than n. Then it costs too much to compute the n weights of every pair. Instead, the values are divided into blocks of 16.
The block sums of all n^2 pairs are computed once, as small matrix products. A draw finds a block by binary search in the
cumulative block sums of its pair. Then it searches the 16 weights of the block. So a draw reads about 40 numbers instead of
2 n.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_core.distributions.inversion import first_above
from diffusion_core.lazy import lazy_property
from diffusion_core.values import ANYTHING, ends
from discrete_diffusion.rates.base import draw_product

__all__ = ["ProductSampler"]

_BLOCK = 16
_LARGEST = 2**24  # the most entries of the table of block sums, 128 MB
_BELOW_ONE = 1 - 2.0**-53


class ProductSampler:
    """A sampler of k with a probability proportional to `left[a, k] right[k, b]`, for any a and b.

    If this product is zero for all k, the probability of k is proportional to right[k, b]. If this is also zero for all k,
    then k = b.

    Arguments:
        left: non-negative (n, n) in float64.
        right: non-negative (n, n) in float64.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self._size = left.shape[-1]
        blocks = -(-self._size // _BLOCK)
        self._blocks = 1 << (blocks - 1).bit_length()
        pad = self._blocks * _BLOCK - self._size
        # The added row n of ones on the left gives draws from `right` alone.
        self._left = F.pad(torch.cat([left, torch.ones_like(left[:1])]), (0, pad))  # (n + 1, 16 blocks)
        self._right = F.pad(right.mT, (0, pad)).contiguous()  # (n, 16 blocks)

    @lazy_property
    def _cumulative(self) -> Tensor:
        """The sums of the first 0, 1, .. blocks of every pair: (blocks + 1, (n + 1) n)."""
        left = self._left.view(-1, self._blocks, _BLOCK).transpose(0, 1)
        right = self._right.view(-1, self._blocks, _BLOCK).permute(1, 2, 0)
        sums = left.new_empty(self._blocks + 1, len(self._left) * self._size)
        sums[0] = 0
        torch.bmm(left, right, out=sums[1:].view(self._blocks, -1, self._size))
        for block in range(2, self._blocks + 1):  # twice as fast as cumsum along the first axis
            sums[block] += sums[block - 1]
        return sums

    def draw(self, a: Tensor, b: Tensor, u: Tensor) -> Tensor:
        """Draw one k for each pair of states: a, b (N,) and uniform numbers u (N,) in float64 -> (N,), int64."""
        # The table is faster for many pairs. The choice must not depend on whether the table exists already.
        if len(a) * 8 < self._size**2 or self._size**2 * self._blocks > _LARGEST:
            return draw_product(self._left.index_select(0, a), self._right.index_select(0, b), b, u)
        cumulative = self._cumulative
        flat, pairs = cumulative.view(-1), cumulative.shape[1]
        place = a * self._size + b  # the pair's position in row 0; the search below moves it to the row of the block
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
        # The block sum was rounded differently, so v can exceed the sum of these weights. `first_above` keeps it inside.
        k = block.mul_(_BLOCK).add_(first_above(weights, v))
        return k if everywhere else torch.where(total > 0, k, b)


def _advance(table: Tensor, start: Tensor, v: Tensor, count: int, stride: int) -> Tensor:
    """Find by binary search how many ascending numbers are at most v. Return `start + stride m` for the number m.

    The numbers of one search are `table[start + stride j]` for j = 1, 2, .. and j < count. `count` is a power of two.
    This is faster than searchsorted, which mispredicts its branches if v is random.
    """
    place = start
    half = count // 2
    while half:
        passed = table[half * stride :].index_select(0, place) <= v
        place = torch.add(place, passed, alpha=half * stride)
        half //= 2
    return place
