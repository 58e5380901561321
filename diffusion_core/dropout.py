"""Dropout whose masks are drawn with everything else that is random in a training step.

`nn.Dropout` takes its mask from the global generator, so a mask depends on the batch that an example is in. Here a mask is a
hash of the example's seed, of the layer and of the position. A batch that is divided in parts, or over processes,
gets the same masks, on every device, and the training step is a function of tensors that can be compiled.

    with seeded(sample.seeds):
        loss = ...
        loss.backward()  # inside, where parts of the network are run again in the backward pass

References:
    Fast splittable pseudorandom number generators (Steele et al., 2014) | the SplitMix64 finaliser
    Prospecting for hash functions (Wellons, 2018) | https://nullprogram.com/blog/2018/07/31/
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_core.ranges import Share, check_arguments
from diffusion_core.values import listed

__all__ = ["Dropout", "current_seeds", "number_layers", "repeated", "seeded"]


class _Current:
    """The seeds of the training step that is running."""

    seeds: Tensor | None = None


_CURRENT = _Current()


def current_seeds() -> Tensor | None:
    """The seeds of the innermost `seeded`, int64 (B,), or None outside."""
    return _CURRENT.seeds


@contextmanager
def seeded(seeds: Tensor | None) -> Iterator[None]:
    """Every `Dropout` takes its masks from these seeds, int64 (B,); None leaves them to torch's generator."""
    before, _CURRENT.seeds = _CURRENT.seeds, seeds
    try:
        yield
    finally:
        _CURRENT.seeds = before


@contextmanager
def repeated(times: int) -> Iterator[None]:
    """While this context lasts, a network sees the batch of the seeds several times, one after the other."""
    seeds = current_seeds()
    with seeded(None if seeds is None else seeds.repeat(times)):
        yield


class Dropout(nn.Module):
    """Zero each number with probability p in training, and scale the others by 1 / (1 - p).

    Outside `seeded` it is `nn.Dropout`.

    Arguments:
        p: the probability.
    """

    def __init__(self, p: Share = 0.0) -> None:
        check_arguments(Dropout, locals())
        super().__init__()
        self.p = p
        self.layer = 0

    @property
    def active(self) -> bool:
        """Whether it does anything now."""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        """Numbers (k B, ...), each example's k rows together -> the same shape.

        Raises:
            ValueError: the batch is no multiple of the number of seeds.
        """
        if not self.active:
            return x
        seeds = current_seeds()
        if seeds is None or self.p == 1:
            return F.dropout(x, self.p)
        if len(x) % len(seeds):
            raise ValueError(f"a batch of {len(x)} rows was given {len(seeds)} seeds, expected a multiple of them")
        kept = _kept(seeds, self.layer, x.numel() // len(seeds), self.p)
        return x * kept.view(x.shape).to(x.dtype).mul_(1 / (1 - self.p))

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

    def extra_repr(self) -> str:
        return f"p={self.p}"


def number_layers(module: nn.Module) -> int:
    """Number the dropout layers of a module whose p is above 0, so that each has masks of its own; returns their number."""
    layers = [layer for layer in module.modules() if isinstance(layer, Dropout) and layer.p > 0]
    for number, layer in enumerate(layers):
        layer.layer = number
    return len(layers)


def _shifted(z: Tensor, bits: int, width: int) -> Tensor:
    """A logical shift to the right of signed integers that have `width` bits."""
    return (z >> bits) & ((1 << (width - bits)) - 1)


def _keys(seeds: Tensor, layer: int) -> Tensor:
    """A key of 64 bits for each example: int64 (B,) -> int64 (B,)."""
    z = seeds + _signed(0x9E3779B97F4A7C15 * (layer + 1), 64)
    z = (z ^ _shifted(z, 30, 64)) * _signed(0xBF58476D1CE4E5B9, 64)
    z = (z ^ _shifted(z, 27, 64)) * _signed(0x94D049BB133111EB, 64)
    return z ^ _shifted(z, 31, 64)


def _signed(value: int, width: int) -> int:
    """An unsigned integer, modulo 2^width, as the signed one of the same bits."""
    value %= 1 << width
    return value - (1 << width) if value >> (width - 1) else value


def _kept(seeds: Tensor, layer: int, size: int, p: float) -> Tensor:
    """Which of the `size` numbers of each example are kept: bool (B, size)."""
    keys = _keys(seeds, layer)
    halves = torch.stack([keys.to(torch.int32), (keys >> 32).to(torch.int32)], 1)  # (B, 2); the low bits, wrapped
    position = torch.arange(size, dtype=torch.int32, device=seeds.device)
    least = min(round(p * 2**32) - 2**31, 2**31 - 1)
    pairs = listed(halves, unseen=None)
    if None in pairs:
        return _hashed(position ^ halves[:, :1]) ^ halves[:, 1:] >= least
    kept = torch.empty(len(pairs), size, dtype=torch.bool)
    for row, (low, high) in zip(kept, pairs, strict=True):  # one example stays in the cache
        torch.ge(_hashed(position ^ low).bitwise_xor_(high), least, out=row)
    return kept


def _hashed(h: Tensor) -> Tensor:
    """A bijection of int32 that looks random, in the place of h."""
    h.bitwise_xor_(_shifted(h, 16, 32)).mul_(0x7FEB352D)
    h.bitwise_xor_(_shifted(h, 15, 32)).mul_(_signed(0x846CA68B, 32))
    return h.bitwise_xor_(_shifted(h, 16, 32))
