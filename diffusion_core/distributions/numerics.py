"""Numerics of the distributions: a fast exponential of very negative numbers, and chunks that fit in the cache.

On a CPU `torch.exp` is 20 to 300 times slower for results below the smallest normal number (1e-38 in float32). This includes
the input minus infinity. Such inputs are common: a trained network gives many of the 256 values of a pixel a log-probability
below -87. Their exponentials took longer than the network. `flushed_exp` sets these results to 0. Later computations give the
same result with 0 as with 1e-39.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["chunks", "flushed_exp", "log_sum", "lowest"]

_CHUNK = 2**18  # elements: 1 MB of float32, so that a chunk and its result fit in the cache of a CPU core

_LOWEST = {torch.float32: -87.0, torch.float64: -700.0}
"""The smallest inputs for which `torch.exp` is fast. The logarithms of the smallest normal numbers are -87.3 and -708.4."""


def lowest(dtype: torch.dtype) -> float:
    """Return the threshold below which `flushed_exp` returns 0: -87 in float32, -700 in float64, minus infinity in others."""
    return _LOWEST.get(dtype, -math.inf)


def flushed_exp(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Return exp(x), with tiny results flushed to 0: those for x < -87 in float32 and x < -700 in float64.

    Only CPU tensors are flushed. Without `out` it is differentiable.

    Arguments:
        x: numbers of any sign and shape; -inf is allowed.
        out: the tensor for the result, which may be x itself. None means a new tensor.
    """
    end = lowest(x.dtype)
    if end == -math.inf or x.device.type != "cpu":
        return torch.exp(x, out=out)
    least = 1.001 * math.exp(end)
    if out is None:
        return F.threshold(x.clamp(min=end).exp_(), least, 0.0)
    return F.threshold(torch.clamp(x, min=end, out=out).exp_(), least, 0.0, inplace=True)


def log_sum(x: Tensor) -> Tensor:
    """Return `log sum_j exp(x_j)` over the first axis: (J, *shape) -> (*shape). It is a faster `torch.logsumexp`."""
    largest = x.detach().amax(0).clamp(min=torch.finfo(x.dtype).min)
    return flushed_exp(x - largest).sum(0).log() + largest


def chunks(batch: int, elements: int, device: torch.device) -> Iterator[slice]:
    """Return slices of the batch, at least one. On a CPU a slice fits in the cache; elsewhere one slice has all examples.

    Arguments:
        batch: the number B of examples.
        elements: the number of elements of the whole batch.
        device: the device of the batch.
    """
    size = max(1, _CHUNK * batch // max(elements, 1)) if device.type == "cpu" else max(batch, 1)
    return (slice(start, start + size) for start in range(0, max(batch, 1), size))
