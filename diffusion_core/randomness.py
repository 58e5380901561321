"""Where random numbers come from: one stream for a batch, or one stream for each example.

Every random draw of both engines goes through a `Randomness`. A `SharedRandomness` is an
ordinary generator: fast, and the draws of an example depend on its batch. A
`PerSampleRandomness` keeps one generator an example, so an example's draws depend on its own
seed only: not on the size of the batch, nor on its place in it, nor on the rank it is on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Generator", "PerSampleRandomness", "Randomness", "SharedRandomness", "as_randomness", "stream_seed"]

_MASK = (1 << 64) - 1


def stream_seed(*key: int) -> int:
    """Hash a tuple of integers, such as (seed, step, sample index), to a 63-bit seed.

    Consecutive keys give unrelated streams.

    References:
        Fast splittable pseudorandom number generators (Steele et al., 2014) | the SplitMix64 finaliser
    """
    state = 0x9E3779B97F4A7C15
    for part in key:
        state = (state + (part & _MASK) * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


class Randomness(ABC):
    """A source of random draws for a batch of examples; the first axis of a draw is the batch."""

    @abstractmethod
    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """Independent U[0, 1) numbers of the given shape, batch first."""

    @abstractmethod
    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """Independent standard normal numbers of the given shape, batch first."""

    @abstractmethod
    def poisson(self, rate: Tensor) -> Tensor:
        """Independent Poisson counts with the given means (B, ...), in the dtype of `rate`."""

    @abstractmethod
    def ragged_uniform(self, counts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """U[0, 1) numbers, `counts[b]` of them for example b, concatenated: (sum(counts),)."""

    @abstractmethod
    def ragged_poisson(self, rate: Tensor, counts: Tensor) -> Tensor:
        """Poisson counts for a list of rates (sum(counts), ...), of which `counts[b]` belong to example b."""

    @abstractmethod
    def split(self, size: int) -> list[Randomness]:
        """The sources of consecutive sub-batches of `size` examples."""

    @abstractmethod
    def stratified(self, n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """One U[0, 1) number an example, each in a stratum of its own: (n,)."""


class SharedRandomness(Randomness):
    """One stream for the whole batch.

    Arguments:
        generator: a torch generator; None means torch's default one.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        return torch.rand(*shape, generator=self.generator, dtype=dtype, device=device)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=dtype, device=device)

    def poisson(self, rate: Tensor) -> Tensor:
        return torch.poisson(rate, generator=self.generator)

    def ragged_uniform(self, counts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        total = int(counts.sum())
        return torch.rand(total, generator=self.generator, dtype=dtype, device=counts.device)

    def ragged_poisson(self, rate: Tensor, counts: Tensor) -> Tensor:
        return self.poisson(rate)

    def split(self, size: int) -> list[Randomness]:
        raise TypeError("a shared stream cannot be split between sub-batches; give per-sample seeds")

    def stratified(self, n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        return (torch.arange(n, dtype=dtype, device=device) + self.uniform((n,), dtype, device)) / n


class PerSampleRandomness(Randomness):
    """One stream an example: the draws of an example depend on its seed alone.

    Numbers are drawn on the CPU and moved, so that they are the same on every device.

    Arguments:
        seeds: one non-negative integer an example.
        offset: the place of the first example in the global batch (for stratified draws).
        total: the size of the global batch; None means the number of seeds.
    """

    def __init__(self, seeds: Sequence[int], offset: int = 0, total: int | None = None) -> None:
        for seed in seeds:
            if not 0 <= int(seed) < 1 << 63:
                raise ValueError(f"seed {seed} is outside 0 .. 2^63 - 1")
        self._generators = [torch.Generator().manual_seed(stream_seed(int(seed))) for seed in seeds]
        self._offset = offset
        self._total = len(self._generators) if total is None else total

    @classmethod
    def keyed(cls, seed: int, step: int, first: int, n: int, total: int | None = None) -> PerSampleRandomness:
        """Streams keyed by (seed, step, global sample index) for n examples from index `first`."""
        return cls([stream_seed(seed, step, first + i) for i in range(n)], offset=first, total=total)

    def __len__(self) -> int:
        return len(self._generators)

    def _check(self, batch: int) -> None:
        if batch != len(self):
            raise ValueError(f"a batch of {batch} examples was given {len(self)} seeds")

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        self._check(shape[0])
        draws = torch.empty(*shape, dtype=dtype)
        for row, generator in zip(draws, self._generators, strict=True):
            row.uniform_(generator=generator)
        return draws.to(device)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        self._check(shape[0])
        draws = torch.empty(*shape, dtype=dtype)
        for row, generator in zip(draws, self._generators, strict=True):
            row.normal_(generator=generator)
        return draws.to(device)

    def poisson(self, rate: Tensor) -> Tensor:
        self._check(rate.shape[0])
        rows = zip(rate.cpu(), self._generators, strict=True)
        return torch.stack([torch.poisson(row, generator=generator) for row, generator in rows]).to(rate.device)

    def ragged_uniform(self, counts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        self._check(counts.shape[0])
        pairs = zip(counts.tolist(), self._generators, strict=True)
        return torch.cat([torch.rand(n, generator=generator, dtype=dtype) for n, generator in pairs]).to(counts.device)

    def ragged_poisson(self, rate: Tensor, counts: Tensor) -> Tensor:
        self._check(counts.shape[0])
        rows = zip(rate.cpu().split(counts.tolist()), self._generators, strict=True)
        return torch.cat([torch.poisson(row, generator=generator) for row, generator in rows]).to(rate.device)

    def split(self, size: int) -> list[Randomness]:
        parts: list[Randomness] = []
        for first in range(0, len(self), size):
            part = PerSampleRandomness([], self._offset + first, self._total)
            part._generators = self._generators[first : first + size]
            parts.append(part)
        return parts

    def padded(self, size: int) -> PerSampleRandomness:
        """The same streams followed by throw-away ones, up to `size` examples."""
        whole = PerSampleRandomness([0] * (size - len(self)), self._offset, self._total)
        whole._generators = self._generators + whole._generators
        return whole

    def stratified(self, n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        place = torch.arange(self._offset, self._offset + n, dtype=dtype, device=device)
        return (place + self.uniform((n,), dtype, device)) / self._total


Generator: TypeAlias = torch.Generator | Randomness | None
"""What every public function takes as its `generator`."""


def as_randomness(generator: Generator) -> Randomness:
    """Wrap a torch generator (or None, the default one) as a `Randomness`."""
    return generator if isinstance(generator, Randomness) else SharedRandomness(generator)
