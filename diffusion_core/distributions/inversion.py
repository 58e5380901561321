"""Draw integers from weights by the inverse CDF.

The caller draws the uniform numbers, so the caller controls the randomness. A uniform number with b bits represents an
interval of width 2^-b. It is replaced by the centre of that interval. Otherwise u = 0, which occurs once in 2^24
float32 numbers, would return the first value even if its probability is almost 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_core.values import NOTHING, ends

__all__ = ["BLOCK", "block_sums", "centred", "chosen", "first_above", "inverse_cdf"]

BLOCK = 16


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """Return the smallest k whose cumulative weight exceeds a fraction u of the total: (..., S), (...) -> int64 (...).

    The search has two levels. The sums of blocks of 16 weights choose a block, then the weights of this block choose the value.
    For S = 256 it needs 32 cumulative sums for each position in place of 256. A value of weight 0 is never returned.

    Arguments:
        weights: non-negative weights (..., S). They need not be normalised. They must not all be 0.
        u: uniform numbers in [0, 1), with the shape of the weights without the last axis.

    Raises:
        ValueError: u has another shape or is not floating, or weights are infinite or NaN.
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
    """Pad the weights with zeros to a multiple of four blocks.

    If the number of rows is not a multiple of four, a matrix-vector product rounds its last rows differently. Then the draw of
    a position would depend on the number of other positions.
    """
    missing = -weights.shape[-1] % (4 * BLOCK)
    return F.pad(weights, (0, missing)) if missing else weights


def block_sums(weights: Tensor) -> Tensor:
    """Sum over the last axis, which has size 16: (..., n, 16) -> (..., n).

    On a CPU a product with ones is twice as fast as `sum`. The argument `out` keeps the dtype under autocast.
    """
    sums = weights.new_empty(weights.shape[:-1])
    torch.mv(weights.reshape(-1, BLOCK), weights.new_ones(BLOCK), out=sums.view(-1))
    return sums


def centred(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the centre of the interval that each uniform number represents.

    Arguments:
        u: uniform numbers in [0, 1).
        dtype: the dtype of the result, at least as wide as that of u.
    """
    return u.to(dtype) + torch.finfo(u.dtype).eps / 4


def _below(total: Tensor) -> Tensor:
    """Return the next smaller floating-point number of each positive number (`torch.nextafter` is not vectorised)."""
    bits = torch.int64 if total.dtype == torch.float64 else torch.int32
    return (total.view(bits) - 1).view(total.dtype)


def _cumulative(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cumulative weights (N, n), and u times the total (N, 1), which stays below the total despite rounding."""
    cumulative = weights.cumsum(-1, dtype=u.dtype)
    total = cumulative[:, -1:].contiguous()  # used three times
    if not ends(total, NOTHING)[1] < torch.inf:
        raise ValueError("weights are infinite or NaN, expected finite weights to draw from")
    return cumulative, torch.minimum(u * total, _below(total))


def _first_above(cumulative: Tensor, threshold: Tensor) -> Tensor:
    """Return the first k whose cumulative weight exceeds a threshold below the total: (N, n), (N, 1) -> (N, 1).

    The weight of k is positive, because the cumulative weight increases there. k is the number of cumulative weights that do
    not exceed the threshold. Counting them is faster than a search. It is twice as fast in floating point as in booleans. The
    argument `out` keeps the dtype under autocast.
    """
    below = torch.le(cumulative, threshold, out=torch.empty_like(cumulative))
    count = below.new_empty(len(below))
    torch.mv(below, below.new_ones(below.shape[-1]), out=count)
    return count.long().unsqueeze(-1)


def first_above(weights: Tensor, v: Tensor) -> Tensor:
    """Return the first k whose cumulative weight exceeds v, after clamping v to [0, total): (N, n), (N,) -> (N,)."""
    cumulative = weights.cumsum(-1, dtype=v.dtype)
    total = cumulative[:, -1:].contiguous()
    return _first_above(cumulative, torch.minimum(v[:, None].clamp(min=0), _below(total)))[:, 0]


def chosen(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first k whose cumulative weight exceeds a fraction u of the total, and the rest of that fraction.

    Arguments:
        weights: non-negative weights (N, n).
        u: fractions (N, 1).

    Returns:
        k (N, 1), and `u total - (cumulative weight before k)` (N, 1), which is in [0, weight of k).
    """
    cumulative, threshold = _cumulative(weights, u)
    index = _first_above(cumulative, threshold)
    before = torch.where(index > 0, cumulative.gather(-1, (index - 1).clamp_(min=0)), 0)
    return index, threshold - before
