"""The reverse loop, written once for both engines.

    x_1 ~ prior;   x_s ~ step(x_t, t -> s)  for t, s along the grid;   x_0 ~ finish(x_tmin)

A sampler is one class with two methods, `step` and `finish`. The loop keeps a `State` that carries
the sample, its time, its randomness and its counters, so that a chain can be watched and
stopped at any step. Times are float64 tensors of shape () on the device of x, made once for the whole grid.

Given seeds, the network sees sub-batches of one fixed size, the last one padded. A sample
then depends on its seed alone, not on what it was batched with.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_core.base import Denoiser, P
from diffusion_core.conditions import check_conditions
from diffusion_core.randomness import Generator, PerSampleRandomness, Randomness, as_randomness
from diffusion_core.ranges import Count, check_arguments
from diffusion_core.times import TimeGrid
from diffusion_core.values import NOTHING, ends

__all__ = ["Sampler", "State", "evaluate"]


@dataclass(frozen=True)
class State:
    """Where a batch of chains stands.

    Arguments:
        x: the current sample (B, *event).
        t: the current time, float64 of shape ().
        randomness: the streams that the next draws come from.
        nfe: network evaluations a chain has cost so far.
        counts: what a sampler counts in each example, by name, each int64 (B,), such as dimensions that were "rejected" or
            "clamped". A name that is absent has not been counted.
        memory: what a sampler keeps of each chain from step to step, tensors (B, ...).
    """

    x: Tensor
    t: Tensor
    randomness: Randomness
    nfe: int = 0
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    memory: tuple[Tensor, ...] = ()

    def count(self, name: str) -> Tensor:
        """How many of something each example has had so far, 0 where it was never counted: (B,)."""
        return self.counts.get(name, torch.zeros(len(self.x), dtype=torch.int64, device=self.x.device))

    def counted(self, **more: Tensor) -> State:
        """This state with more of something counted, by name, each (B,)."""
        return replace(self, counts={**self.counts, **{name: self.count(name) + n for name, n in more.items()}})

    def split(self, size: int) -> list[State]:
        """Consecutive sub-batches of exactly `size` chains; the last one is padded with copies."""
        randomness = self.randomness.split(size)
        states = []
        for i, source in enumerate(randomness):
            rows = torch.arange(i * size, (i + 1) * size, device=self.x.device).clamp(max=len(self.x) - 1)
            if isinstance(source, PerSampleRandomness) and len(source) < size:
                source = source.padded(size)
            counts = {name: count[rows] for name, count in self.counts.items()}
            memory = tuple(kept[rows] for kept in self.memory)
            states.append(replace(self, x=self.x[rows], randomness=source, counts=counts, memory=memory))
        return states

    def merged(self, parts: Sequence[State]) -> State:
        """This state after its sub-batches `parts` have moved; padding is dropped."""
        n = len(self.x)
        names = dict.fromkeys(name for part in parts for name in part.counts)
        return replace(
            self,
            x=torch.cat([part.x for part in parts])[:n],
            t=parts[0].t,
            nfe=parts[0].nfe,
            counts={name: torch.cat([part.count(name) for part in parts])[:n] for name in names},
            memory=tuple(torch.cat(kept)[:n] for kept in zip(*(part.memory for part in parts), strict=True)),
        )


def evaluate(denoiser: Denoiser[P], state: State, t: Tensor, **cond: Tensor) -> tuple[P, State]:
    """The posterior at (state.x, t), and the state with the network evaluations counted."""
    return denoiser(state.x, t, **cond), replace(state, nfe=state.nfe + denoiser.nfe)


class Sampler(ABC, Generic[P]):
    """Walks a denoiser down a time grid.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit.
        sub_batch: with seeds, how many chains the network sees at once.
    """

    def __init__(self, denoiser: Denoiser[P], grid: TimeGrid, *, sub_batch: Count = 16) -> None:
        check_arguments(Sampler, locals())
        self.denoiser = denoiser
        self.grid = grid
        self.sub_batch = sub_batch

    @abstractmethod
    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        """One reverse step from time t to time s < t, both float64 of shape (); the state returned is at s."""

    @abstractmethod
    def finish(self, state: State, **cond: Tensor) -> State:
        """What happens at t_min: the step from x_tmin to x_0; the state returned is at 0."""

    def evaluate(self, state: State, t: Tensor, **cond: Tensor) -> tuple[P, State]:
        """The posterior at (state.x, t), and the state with the network evaluations counted."""
        return evaluate(self.denoiser, state, t, **cond)

    def start(self, n: int | Tensor, generator: Generator = None, seeds: Sequence[int] | None = None) -> State:
        """The state at t_max: n draws from the prior, or a given x (B, *event).

        Arguments:
            n: how many chains, or the noisy batch to start from.
            generator: one stream for the batch.
            seeds: one integer a chain instead.

        Raises:
            ValueError: n < 1, a batch of a wrong shape, as many seeds as chains not given, or
                both a generator and seeds given.
            TypeError: seeds is one number.
        """
        if seeds is not None and generator is not None:
            raise ValueError("give a generator or seeds, not both")
        batch = len(n) if isinstance(n, Tensor) else operator.index(n)
        if seeds is not None and not isinstance(seeds, Iterable):
            raise TypeError(f"seeds = {seeds}, expected one integer a chain, such as range({batch})")
        randomness = as_randomness(generator) if seeds is None else PerSampleRandomness(list(seeds))
        if batch < 1:
            raise ValueError(f"{batch} samples were asked for, expected at least 1")
        if isinstance(randomness, PerSampleRandomness) and len(randomness) != batch:
            raise ValueError(f"{len(randomness)} seeds were given for {batch} samples")
        if isinstance(n, Tensor):
            self.denoiser.check_event(n)
            x = n
        else:
            x = self.denoiser.process.prior((batch, *self.denoiser.event_shape), randomness)
        return State(x, torch.tensor(self.grid.t_max, dtype=torch.float64, device=x.device), randomness)

    def _move(self, state: State, s: Tensor | None, cond: Mapping[str, Tensor]) -> State:
        """One step to s, or the last one (s = None), in sub-batches where the chains have seeds."""
        end = torch.zeros_like(state.t) if s is None else s

        def advance(part: State, given: Mapping[str, Tensor]) -> State:
            moved = self.finish(part, **given) if s is None else self.step(part, part.t, s, **given)
            if ends(moved.t, NOTHING) != ends(end, NOTHING):
                raise ValueError(f"{type(self).__name__} returned a state at t = {moved.t}, expected t = {end}")
            return moved

        if not isinstance(state.randomness, PerSampleRandomness):
            return advance(state, cond)
        parts = state.split(self.sub_batch)
        rows = torch.arange(len(parts) * self.sub_batch).clamp(max=len(state.x) - 1).split(self.sub_batch)
        given = [{name: value[row] for name, value in cond.items()} for row in rows]
        return state.merged([advance(part, own) for part, own in zip(parts, given, strict=True)])

    @torch.no_grad()
    def trajectory(
        self,
        n: int | Tensor,
        *,
        generator: Generator = None,
        seeds: Sequence[int] | None = None,
        progress: bool = False,
        **cond: Tensor,
    ) -> Iterator[State]:
        """Yield the state at t_max, after each of the N steps, and after the last one (x_0).

        Arguments:
            n: how many chains, or the noisy batch (B, *event) to start from.
            generator: one stream for the batch.
            seeds: one integer a chain instead.
            progress: show a progress bar.
            cond: conditions of the network by name, batch first, such as labels y (B,).

        Raises:
            ValueError: as in `start`, or a condition has not one row a chain.
            TypeError: as in `start`, or a condition is no tensor.
        """
        state = self.start(n, generator, seeds)
        check_conditions(cond, len(state.x))
        yield state
        times = torch.tensor(self.grid.times(), dtype=torch.float64, device=state.x.device)
        for s in tqdm([*times[1:], None], desc="sampling", disable=not progress, leave=False):
            state = self._move(state, s, cond)
            yield state

    def sample(
        self,
        n: int | Tensor,
        *,
        generator: Generator = None,
        seeds: Sequence[int] | None = None,
        progress: bool = False,
        **cond: Tensor,
    ) -> Tensor:
        """Draw samples x_0 (B, *event); the arguments are those of `trajectory`."""
        for state in self.trajectory(n, generator=generator, seeds=seeds, progress=progress, **cond):
            last = state
        return last.x
