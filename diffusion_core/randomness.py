"""Sources of random numbers: one stream for a batch, or one stream for each example.

Every random draw of both engines uses a `Randomness`. A `SharedRandomness` wraps an ordinary generator. It is fast, but the
draws of an example depend on its batch. A `PerSampleRandomness` has one generator for each example, so the draws of an
example depend only on its seed. They do not depend on the batch size, the position in the batch or the process (rank)
of a distributed run.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

__all__ = ["Generator", "PerSampleRandomness", "Randomness", "SharedRandomness", "as_randomness", "stream_seed"]

_MASK = (1 << 64) - 1
_MANY = 1 << 14  # the smallest number of draws for which starting a faster stream saves time
_MODERATE, _TOGETHER = 32.0, 3  # the largest mean for inversion; the number of steps done for all positions
_NUMPY: dict[torch.dtype, type[np.floating[Any]]] = {torch.float32: np.float32, torch.float64: np.float64}


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


def _many_normals(size: int, key: int) -> Tensor:
    """Draw standard normal numbers in float32 on the CPU, from the stream with a key: (size,).

    `torch.randn` is slow on a CPU, because its Mersenne twister makes one number after the other. SFC64 makes random bits
    several times faster, and the Box-Muller transform is vectorised. Two uniform words u and v of 32 bits give a normal point
    in the plane: its radius is `sqrt(-2 log u)`, its angle is v. The largest possible number is 6.7.

    References:
        A note on the generation of random normal deviates (Box & Muller, 1958) | https://doi.org/10.1214/aoms/1177706645
    """
    words = torch.from_numpy(np.random.SFC64(key).random_raw((size + 1) // 2).view(np.int32))
    first, second = words.chunk(2)
    radius = first.float().abs_().mul_(2.0**-31).clamp_(min=2.0**-32).log_().mul_(-2).sqrt_()  # of u in (0, 1]
    angle = second.float().mul_(math.pi * 2.0**-31)
    numbers = words.view(torch.float32)  # overwrites the words, which are still in the cache
    torch.cos(angle, out=numbers[: len(angle)]).mul_(radius)
    torch.sin(angle, out=numbers[len(angle) :]).mul_(radius)
    return numbers[:size]


def _many_counts(means: Tensor, key: int) -> Tensor:
    """Draw Poisson counts on the CPU for means of at most 32, from the stream with a key.

    The result has the shape and dtype of the means. It is drawn by inversion: the count is the number of partial sums
    `P(0), P(0) + P(1), ..` that a uniform number reaches. The first steps are done for all positions at once, the other steps
    only for positions that are not finished. `torch.poisson` draws one count after the other and takes twice as long.
    """
    mean = means.detach().double().flatten()
    u = torch.from_numpy(np.random.Generator(np.random.SFC64(key)).random(len(mean)))
    u.clamp_(max=1 - 2.0**-46)  # below the rounded sum of all probabilities, so that the loop ends
    term = torch.exp(-mean)
    reached, step = term.clone(), torch.empty_like(mean)
    counts = torch.zeros_like(mean)
    for k in range(1, _TOGETHER + 1):
        counts.add_(torch.ge(u, reached, out=step))
        reached.add_(term.mul_(mean).mul_(1 / k))
    rest = torch.ge(u, reached).nonzero()[:, 0]
    mean, u, term, reached = (values.index_select(0, rest) for values in (mean, u, term, reached))
    left, step, k = torch.full_like(u, _TOGETHER), torch.ones_like(u), _TOGETHER
    while bool(step.any()):
        k += 1
        left.add_(step)
        reached.add_(term.mul_(mean).mul_(1 / k))
        torch.ge(u, reached, out=step)
    counts[rest] = left
    return counts.to(means.dtype).view(means.shape)


class Randomness(ABC):
    """A source of random draws for a batch of examples; the first axis of a draw is the batch."""

    @abstractmethod
    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """Draw independent U[0, 1) numbers of the given shape, batch first."""

    @abstractmethod
    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """Draw independent standard normal numbers of the given shape, batch first."""

    @abstractmethod
    def poisson(self, rate: Tensor) -> Tensor:
        """Draw independent Poisson counts with the given means (B, ...), in the dtype of `rate`."""

    @abstractmethod
    def ragged_uniform(self, counts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw `counts[b]` U[0, 1) numbers for each example b, and concatenate them: (sum(counts),)."""

    @abstractmethod
    def ragged_poisson(self, rate: Tensor, counts: Tensor) -> Tensor:
        """Draw Poisson counts with means (sum(counts), ...). The first `counts[0]` rows belong to example 0, and so on."""

    @abstractmethod
    def split(self, size: int) -> list[Randomness]:
        """Split the examples into consecutive sub-batches of `size` examples, and return a source for each sub-batch."""

    @abstractmethod
    def stratified(self, n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """Draw stratified U[0, 1) numbers: [0, 1) is divided into n equal intervals, with one number in each. (n,)."""


class SharedRandomness(Randomness):
    """One random stream for the whole batch.

    Numbers are drawn on the device of the generator and then moved to the requested device. So a CPU generator gives the
    same numbers for every device. Without a generator, numbers are drawn on the requested device.

    Arguments:
        generator: a torch generator on any device; None means the default generator of the requested device.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def _source(self, device: torch.device | str) -> torch.device:
        """Return the device on which numbers for a device are drawn."""
        return torch.device(device) if self.generator is None else self.generator.device

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        return torch.rand(*shape, generator=self.generator, dtype=dtype, device=self._source(device)).to(device)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        size, source = math.prod(shape), self._source(device)
        key = self._key(size, source) if dtype == torch.float32 else None
        if key is not None:
            return _many_normals(size, key).reshape(tuple(shape)).to(device)
        return torch.randn(*shape, generator=self.generator, dtype=dtype, device=source).to(device)

    def _key(self, size: int, source: torch.device) -> int | None:
        """Draw the key of a faster stream for `size` numbers from the generator; None if torch's own stream is used."""
        if size < _MANY or source.type != "cpu" or torch.compiler.is_compiling():
            return None
        key = torch.randint(2**63 - 1, (), generator=self.generator, device="cpu")
        return int(key) if type(key) is Tensor else None  # a fake tensor has no value to key a stream with

    def poisson(self, rate: Tensor) -> Tensor:
        source = self._source(rate.device)
        key, means = self._key(rate.numel(), source), rate.to(source)
        if key is not None:
            low, high = means.aminmax()
            if float(low) >= 0 and float(high) <= _MODERATE:
                return _many_counts(means, key).to(rate.device)
        return torch.poisson(means, generator=self.generator).to(rate.device)

    def ragged_uniform(self, counts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        total, source = int(counts.sum()), self._source(counts.device)
        key = self._key(total, source) if dtype in _NUMPY else None
        if key is not None:
            numbers = torch.from_numpy(np.random.Generator(np.random.SFC64(key)).random(total, _NUMPY[dtype]))
            return numbers.to(counts.device)
        return torch.rand(total, generator=self.generator, dtype=dtype, device=source).to(counts.device)

    def ragged_poisson(self, rate: Tensor, counts: Tensor) -> Tensor:
        return self.poisson(rate)

    def split(self, size: int) -> list[Randomness]:
        raise TypeError("a shared stream cannot be split between sub-batches; give per-sample seeds")

    def stratified(self, n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        return (torch.arange(n, dtype=dtype, device=device) + self.uniform((n,), dtype, device)) / n


class PerSampleRandomness(Randomness):
    """One random stream for each example: the draws of an example depend only on its seed.

    Each stream is a counter-based generator with its own key. Numbers are drawn on the CPU and then moved, so they are the
    same on every device.

    References:
        Parallel random numbers: as easy as 1, 2, 3 (Salmon et al., 2011) | Philox

    Arguments:
        seeds: one integer in 0 .. 2^63 - 1 for each example.
        offset: the index that the first of these examples has in the global batch. If a training runs on
            several devices, the global batch is that of all devices together. Only stratified draws use the offset.
        total: the size of the global batch; None means the number of seeds.

    Raises:
        ValueError: a seed is out of range.
    """

    def __init__(self, seeds: Sequence[int], offset: int = 0, total: int | None = None) -> None:
        for seed in seeds:
            if not 0 <= int(seed) < 1 << 63:
                raise ValueError(f"seed {seed} is outside 0 .. 2^63 - 1")
        # torch's CPU generator uses only 32 bits of its seed: two of 100,000 samples would probably be equal.
        self._generators = [np.random.Generator(np.random.Philox(key=stream_seed(int(seed)))) for seed in seeds]
        self._offset = offset
        self._total = len(self._generators) if total is None else total

    @classmethod
    def keyed(cls, seed: int, step: int, first: int, n: int, total: int | None = None) -> PerSampleRandomness:
        """Make a stream for each of n examples, with the key (seed, step, index in the global batch), from index `first` on."""
        return cls([stream_seed(seed, step, first + i) for i in range(n)], offset=first, total=total)

    def __len__(self) -> int:
        return len(self._generators)

    def _check(self, batch: int) -> None:
        if batch != len(self):
            raise ValueError(f"a batch of {batch} examples was given {len(self)} seeds, expected one for each example")

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        return self._fill(np.random.Generator.random, shape, dtype, device)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        return self._fill(np.random.Generator.standard_normal, shape, dtype, device)

    def _fill(self, draw: Callable[..., Any], shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Tensor:
        self._check(shape[0])
        kind = _NUMPY[dtype]
        numbers = np.empty(tuple(shape), kind)
        for row, generator in zip(numbers.reshape(len(self), -1), self._generators, strict=True):
            draw(generator, dtype=kind, out=row)
        return torch.from_numpy(numbers).to(device)

    def poisson(self, rate: Tensor) -> Tensor:
        return self._poisson(rate, rate.detach().cpu().double().numpy())

    def ragged_poisson(self, rate: Tensor, counts: Tensor) -> Tensor:
        ends = counts.cumsum(0).tolist()
        return self._poisson(rate, np.split(rate.detach().cpu().double().numpy(), ends[:-1]))

    def _poisson(self, rate: Tensor, means: Any) -> Tensor:
        """Draw counts in the shape of `rate`, given the means of each example."""
        self._check(len(means))
        rows = [generator.poisson(mean) for mean, generator in zip(means, self._generators, strict=True)]
        joined = np.concatenate(rows) if rows[0].ndim == rate.ndim else np.stack(rows)
        return torch.from_numpy(joined).to(rate.device, rate.dtype).reshape(rate.shape)

    def ragged_uniform(self, counts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        self._check(counts.shape[0])
        pairs = zip(counts.tolist(), self._generators, strict=True)
        numbers = [generator.random(n, dtype=_NUMPY[dtype]) for n, generator in pairs]
        return torch.from_numpy(np.concatenate(numbers)).to(counts.device)

    def split(self, size: int) -> list[Randomness]:
        parts: list[Randomness] = []
        for first in range(0, len(self), size):
            part = PerSampleRandomness([], self._offset + first, self._total)
            part._generators = self._generators[first : first + size]
            parts.append(part)
        return parts

    def padded(self, size: int) -> PerSampleRandomness:
        """Return streams for `size` examples: these streams, and then streams for the examples of the padding."""
        whole = PerSampleRandomness([0] * (size - len(self)), self._offset, self._total)
        whole._generators = self._generators + whole._generators
        return whole

    def stratified(self, n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        place = torch.arange(self._offset, self._offset + n, dtype=dtype, device=device)
        return (place + self.uniform((n,), dtype, device)) / self._total


Generator: TypeAlias = torch.Generator | Randomness | None
"""The type of the `generator` argument of all public functions."""


def as_randomness(generator: Generator) -> Randomness:
    """Wrap a torch generator, or None for the default generator, as a `Randomness`."""
    return generator if isinstance(generator, Randomness) else SharedRandomness(generator)
