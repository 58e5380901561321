"""What the distributions compute with: exponentials of very negative numbers, and chunks that fit the cache.

The CPU kernel behind `torch.exp` takes 20 to 300 times as long for a number whose exponential is smaller than the
smallest normal one (1e-38 in float32), minus infinity included. A trained network is that sure of much: of the 256
log-probabilities of a pixel many are below -87, and their exponentials took longer than the network.
Here they are 0, which nothing downstream can tell from 1e-39.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["chunks", "decayed", "log_sum", "lowest"]

_CHUNK = 2**18  # elements: 1 MB of float32, so that a chunk and its result stay in a CPU core's cache

_LOWEST = {torch.float32: -87.0, torch.float64: -700.0}
"""Down to where the kernel is fast: the logarithms of the smallest normal numbers are -87.3 and -708.4."""


def lowest(dtype: torch.dtype) -> float:
    """Where `decayed` begins to give 0: -87 in float32, -700 in float64, minus infinity in others."""
    return _LOWEST.get(dtype, -math.inf)


def decayed(x: Tensor, out: Tensor | None = None) -> Tensor:
    """exp(x), and 0 where x < -87 in float32, x < -700 in float64; differentiable without `out`.

    Arguments:
        x: numbers of any sign and shape; -inf is allowed.
        out: where the result goes, x itself for one; None makes a new tensor.
    """
    end = lowest(x.dtype)
    if end == -math.inf or x.device.type != "cpu":
        return torch.exp(x, out=out)
    least = 1.001 * math.exp(end)
    if out is None:
        return F.threshold(x.clamp(min=end).exp_(), least, 0.0)
    return F.threshold(torch.clamp(x, min=end, out=out).exp_(), least, 0.0, inplace=True)


def log_sum(x: Tensor) -> Tensor:
    """`log sum_j exp(x_j)` over the first axis: (J, *shape) -> (*shape). As `torch.logsumexp`, in the time of `decayed`."""
    largest = x.detach().amax(0).clamp(min=torch.finfo(x.dtype).min)
    return decayed(x - largest).sum(0).log() + largest


def chunks(batch: int, elements: int, device: torch.device) -> Iterator[slice]:
    """Slices of the batch, at least one: on a CPU as many examples as fit the cache, elsewhere all of them.

    Arguments:
        batch: the number B of examples.
        elements: how many numbers all of them have.
        device: where they are.
    """
    size = max(1, _CHUNK * batch // max(elements, 1)) if device.type == "cpu" else max(batch, 1)
    return (slice(start, start + size) for start in range(0, max(batch, 1), size))
