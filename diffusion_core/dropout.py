"""Dropout with one random seed for each example.

`nn.Dropout` draws its mask from the global generator, so the mask of an example depends on the batch around it. Here the
mask is a hash of the example's seed, the layer and the position. So an example has the same mask on every device, and also
if the batch is divided into parts or over processes. The training step then uses no random state outside its input
tensors, so it can be compiled.

    with seeded(sample.seeds):
        loss = ...
        loss.backward()  # inside the context, because activation checkpointing runs layers again in the backward pass

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
    """The seeds of the current training step."""

    seeds: Tensor | None = None


_CURRENT = _Current()


def current_seeds() -> Tensor | None:
    """Return the seeds of the innermost `seeded` context, int64 (B,); None outside of such a context."""
    return _CURRENT.seeds


@contextmanager
def seeded(seeds: Tensor | None) -> Iterator[None]:
    """A context in which every `Dropout` makes its masks from these seeds, int64 (B,). None means torch's generator."""
    before, _CURRENT.seeds = _CURRENT.seeds, seeds
    try:
        yield
    finally:
        _CURRENT.seeds = before


@contextmanager
def repeated(times: int) -> Iterator[None]:
    """A context that repeats the seeds. Use it for a network call on a batch that is repeated along its first axis."""
    seeds = current_seeds()
    with seeded(None if seeds is None else seeds.repeat(times)):
        yield


class Dropout(nn.Module):
    """Dropout with one random mask for each example, which depends only on the seed of the example.

    In training, each number is set to zero with probability p, and the others are multiplied by 1 / (1 - p). Outside a
    `seeded` context this layer is the same as `nn.Dropout`.

    Arguments:
        p: the probability that a number is set to zero.
    """

    def __init__(self, p: Share = 0.0) -> None:
        check_arguments(Dropout, locals())
        super().__init__()
        self.p = p
        self.layer = 0

    @property
    def active(self) -> bool:
        """Whether dropout is applied: in training mode with p > 0."""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout: (k B, ...) -> the same shape, for the B seeds of B examples.

        The first axis has k consecutive rows for each example. k is above 1 if a network cuts each example into k parts,
        such as attention windows. All rows of an example use its seed.

        Raises:
            ValueError: the number of rows is not a multiple of the number of seeds.
        """
        if not self.active:
            return x
        seeds = current_seeds()
        if seeds is None or self.p == 1:
            return F.dropout(x, self.p)
        if len(x) % len(seeds):
            raise ValueError(f"a batch of {len(x)} rows was given {len(seeds)} seeds, expected a multiple of {len(seeds)} rows")
        kept = _kept(seeds, self.layer, x.numel() // len(seeds), self.p)
        return x * kept.view(x.shape).to(x.dtype).mul_(1 / (1 - self.p))

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

    def extra_repr(self) -> str:
        return f"p={self.p}"


def number_layers(module: nn.Module) -> int:
    """Number the dropout layers with p > 0 in a module, so that their masks differ. Return the number of these layers."""
    layers = [layer for layer in module.modules() if isinstance(layer, Dropout) and layer.p > 0]
    for number, layer in enumerate(layers):
        layer.layer = number
    return len(layers)


def _shifted(z: Tensor, bits: int, width: int) -> Tensor:
    """Shift signed integers of `width` bits to the right. The new high bits are 0 (a logical shift)."""
    return (z >> bits) & ((1 << (width - bits)) - 1)


def _keys(seeds: Tensor, layer: int) -> Tensor:
    """Return a hash of 64 bits for each example: int64 (B,) -> int64 (B,)."""
    z = seeds + _signed(0x9E3779B97F4A7C15 * (layer + 1), 64)
    z = (z ^ _shifted(z, 30, 64)) * _signed(0xBF58476D1CE4E5B9, 64)
    z = (z ^ _shifted(z, 27, 64)) * _signed(0x94D049BB133111EB, 64)
    return z ^ _shifted(z, 31, 64)


def _signed(value: int, width: int) -> int:
    """Convert an integer modulo 2^width to the signed integer with the same bits."""
    value %= 1 << width
    return value - (1 << width) if value >> (width - 1) else value


def _kept(seeds: Tensor, layer: int, size: int, p: float) -> Tensor:
    """Return the mask of each example: bool (B, size), True for the numbers that are kept."""
    keys = _keys(seeds, layer)
    halves = torch.stack([keys.to(torch.int32), (keys >> 32).to(torch.int32)], 1)  # (B, 2); int32 keeps the low bits
    position = torch.arange(size, dtype=torch.int32, device=seeds.device)
    least = min(round(p * 2**32) - 2**31, 2**31 - 1)
    pairs = listed(halves, unseen=None)
    if None in pairs:
        return _hashed(position ^ halves[:, :1]) ^ halves[:, 1:] >= least
    kept = torch.empty(len(pairs), size, dtype=torch.bool)
    for row, (low, high) in zip(kept, pairs, strict=True):  # row by row, because one example fits in the cache
        torch.ge(_hashed(position ^ low).bitwise_xor_(high), least, out=row)
    return kept


def _hashed(h: Tensor) -> Tensor:
    """Hash int32 numbers in place, by a bijection whose outputs look random."""
    h.bitwise_xor_(_shifted(h, 16, 32)).mul_(0x7FEB352D)
    h.bitwise_xor_(_shifted(h, 15, 32)).mul_(_signed(0x846CA68B, 32))
    return h.bitwise_xor_(_shifted(h, 16, 32))
