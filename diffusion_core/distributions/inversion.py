"""Draws of integers from lists of weights: an inverse CDF of uniform numbers that the caller draws.

The caller so owns the randomness. A uniform number with b bits stands for an interval of width 2^-b and is read as its
centre: otherwise u = 0, once in 2^24 float32 numbers, would return the first value however improbable it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_core.values import NOTHING, ends

__all__ = ["BLOCK", "block_sums", "centred", "chosen", "first_above", "inverse_cdf"]

BLOCK = 16


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """The smallest k whose cumulative weight exceeds a fraction u of the total: (..., S), (...) -> int64 (...).

    In two levels: the sums of blocks of 16 weights choose a block, then its weights choose the value. With S = 256
    that is 32 numbers a position instead of 256 cumulative ones. A value of weight 0 is never returned.

    Arguments:
        weights: non-negative weights (..., S), not necessarily normalised, not all 0.
        u: uniform numbers in [0, 1), of the shape of weights without its last axis.

    Raises:
        ValueError: u has another shape or is not floating, or weights are infinite or not numbers.
    """
    if u.shape != weights.shape[:-1] or not u.is_floating_point():
        raise ValueError(f"u has shape {tuple(u.shape)} and dtype {u.dtype}, expected floating {tuple(weights.shape[:-1])}")
    size = weights.shape[-1]
    rows = weights.detach().reshape(-1, size).contiguous()
    u = centred(u.reshape(-1, 1), torch.promote_types(torch.promote_types(weights.dtype, u.dtype), torch.float32))
    if size > 2 * BLOCK:
        rows = _padded(rows)
        rows = rows.view(len(rows), rows.shape[1] // BLOCK, BLOCK)  # (N, S/16, 16)
        block, left = chosen(block_sums(rows), u)
        start = torch.arange(len(rows), device=rows.device)[:, None] * rows.shape[1]
        values = rows.view(-1, BLOCK).index_select(0, (start + block)[:, 0])  # (N, 16)
        index = block[:, 0] * BLOCK + first_above(values, left[:, 0])
    else:
        index = _first_above(*_cumulative(rows, u))
    return index.view(weights.shape[:-1])


def _padded(weights: Tensor) -> Tensor:
    """Weights 0 after the last one, up to a multiple of four blocks.

    Four, because a matrix-vector product rounds the last rows otherwise where their number is no multiple of it, and
    what is drawn for a position must not depend on how many others there are.
    """
    missing = -weights.shape[-1] % (4 * BLOCK)
    return F.pad(weights, (0, missing)) if missing else weights


def block_sums(weights: Tensor) -> Tensor:
    """The sums over the last axis, of 16: (..., n, 16) -> (..., n).

    A product with ones is twice as fast as `sum` on a CPU; with `out` it keeps its precision under autocast.
    """
    sums = weights.new_empty(weights.shape[:-1])
    torch.mv(weights.reshape(-1, BLOCK), weights.new_ones(BLOCK), out=sums.view(-1))
    return sums


def centred(u: Tensor, dtype: torch.dtype) -> Tensor:
    """The centre of the interval that a uniform number stands for, in a dtype as wide as its own.

    Arguments:
        u: uniform numbers in [0, 1).
        dtype: the dtype of the result.
    """
    return u.to(dtype) + torch.finfo(u.dtype).eps / 4


def _below(total: Tensor) -> Tensor:
    """The largest number below a positive one: the one whose bits are less by 1 (`nextafter` is not vectorised)."""
    bits = torch.int64 if total.dtype == torch.float64 else torch.int32
    return (total.view(bits) - 1).view(total.dtype)


def _cumulative(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The cumulative weights (N, n), and the fraction u of the total, kept below it whatever was rounded: (N, 1)."""
    cumulative = weights.cumsum(-1, dtype=u.dtype)
    total = cumulative[:, -1:].contiguous()  # read thrice
    if not ends(total, NOTHING)[1] < torch.inf:
        raise ValueError("weights are infinite or not numbers: nothing can be drawn from them")
    return cumulative, torch.minimum(u * total, _below(total))


def _first_above(cumulative: Tensor, threshold: Tensor) -> Tensor:
    """The first k whose cumulative weight exceeds a threshold below the total: (N, n), (N, 1) -> (N, 1).

    Its weight is positive, since the cumulative weight rises there. Counting the others beats a search, and in floating
    point a comparison and its sum take half as long as in booleans; with `out` they stay so under autocast.
    """
    below = torch.le(cumulative, threshold, out=torch.empty_like(cumulative))
    count = below.new_empty(len(below))
    torch.mv(below, below.new_ones(below.shape[-1]), out=count)
    return count.long().unsqueeze(-1)


def first_above(weights: Tensor, v: Tensor) -> Tensor:
    """The first k whose cumulative weight exceeds v, which is kept from 0 to below the total: (N, n), (N,) -> (N,)."""
    cumulative = weights.cumsum(-1, dtype=v.dtype)
    total = cumulative[:, -1:].contiguous()
    return _first_above(cumulative, torch.minimum(v[:, None].clamp(min=0), _below(total)))[:, 0]


def chosen(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The first k whose cumulative weight exceeds a fraction u of the total, and what is left of that before k."""
    cumulative, threshold = _cumulative(weights, u)
    index = _first_above(cumulative, threshold)
    before = torch.where(index > 0, cumulative.gather(-1, (index - 1).clamp_(min=0)), 0)
    return index, threshold - before
