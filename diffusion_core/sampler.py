"""The sampling loop of both engines.

    x_1 ~ prior;   x_s ~ step(x_t, t -> s)  for t, s along the grid;   x_0 ~ finish(x_tmin)

A sampler is a class with two methods, `step` and `finish`. The loop passes a `State` from step to step. A state
contains the samples, their time, their randomness and their counters. So you can inspect and stop the loop after any
step. Times are float64 tensors of shape () on the device of x. All times of the grid are made at once.

If the samples have seeds, the network is called on sub-batches of one fixed size, and the last sub-batch is padded. So
a sample depends only on its seed, not on the other samples of its batch.
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
from diffusion_core.known import check_known
from diffusion_core.randomness import Generator, PerSampleRandomness, Randomness, as_randomness
from diffusion_core.ranges import Count, check_arguments
from diffusion_core.times import TimeGrid
from diffusion_core.values import NOTHING, ends

__all__ = ["Sampler", "State", "evaluate"]


@dataclass(frozen=True)
class State:
    """The state of a batch of samples between two sampling steps.

    Arguments:
        x: the current sample (B, *event).
        t: the current time, float64 of shape ().
        randomness: the source of the next random draws.
        nfe: the number of function evaluations (network calls) for each sample so far.
        counts: a dict of the sampler's counters, each int64 (B,), such as the number of "rejected" or "clamped"
            dimensions so far. A counter that is absent is 0.
        memory: tensors (B, ...) that the sampler keeps for each sample from step to step.
        known: the known positions, bool (B, *event); None if no position is known.
        given: the clean values of the known positions, (B, *event); its values at other positions are not used. The
            constructor of a state writes the known values into x. So samplers and correctors need no code for known
            positions. They only have to make each new state with `dataclasses.replace`.
    """

    x: Tensor
    t: Tensor
    randomness: Randomness
    nfe: int = 0
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    memory: tuple[Tensor, ...] = ()
    known: Tensor | None = None
    given: Tensor | None = None

    def __post_init__(self) -> None:
        if self.known is not None and self.given is not None:
            object.__setattr__(self, "x", torch.where(self.known, self.given, self.x))

    def count(self, name: str) -> Tensor:
        """Return the value of a counter for each sample: (B,). It is 0 if the counter is absent."""
        return self.counts.get(name, torch.zeros(len(self.x), dtype=torch.int64, device=self.x.device))

    def counted(self, **more: Tensor) -> State:
        """Return this state with some counters increased. Each argument is the name of a counter and its increase, (B,)."""
        return replace(self, counts={**self.counts, **{name: self.count(name) + n for name, n in more.items()}})

    def split(self, size: int) -> list[State]:
        """Split the batch into sub-batches of exactly `size` samples. The last one is padded with copies of the last sample."""
        randomness = self.randomness.split(size)
        states = []
        for i, source in enumerate(randomness):
            rows = torch.arange(i * size, (i + 1) * size, device=self.x.device).clamp(max=len(self.x) - 1)
            if isinstance(source, PerSampleRandomness) and len(source) < size:
                source = source.padded(size)
            counts = {name: count[rows] for name, count in self.counts.items()}
            memory = tuple(kept[rows] for kept in self.memory)
            known, given = (None if kept is None else kept[rows] for kept in (self.known, self.given))
            part = replace(self, x=self.x[rows], randomness=source, counts=counts, memory=memory, known=known, given=given)
            states.append(part)
        return states

    def merged(self, parts: Sequence[State]) -> State:
        """Join the sub-batches of this state after a step, and remove the padding."""
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
    """Return the posterior at (state.x, t), and the state with the network calls added to its NFE."""
    return denoiser(state.x, t, **cond), replace(state, nfe=state.nfe + denoiser.nfe)


class Sampler(ABC, Generic[P]):
    """A sampler: it draws samples from a denoiser by steps along a time grid, from noise to data.

    The docstrings of many samplers have a section `Proven:`. It lists properties for which a test compares the code with an
    exact result, and names these tests.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times of the steps.
        sub_batch: the number of samples in one network call if `sample` gets seeds. Without seeds, all samples share
            one call.
    """

    def __init__(self, denoiser: Denoiser[P], grid: TimeGrid, *, sub_batch: Count = 16) -> None:
        check_arguments(Sampler, locals())
        self.denoiser = denoiser
        self.grid = grid
        self.sub_batch = sub_batch

    @abstractmethod
    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        """Do one reverse step from time t to time s < t, both float64 of shape (). Return the state at time s."""

    @abstractmethod
    def finish(self, state: State, **cond: Tensor) -> State:
        """Do the last step, from x_tmin to x_0. Return the state at time 0."""

    def evaluate(self, state: State, t: Tensor, **cond: Tensor) -> tuple[P, State]:
        """Return the posterior at (state.x, t), and the state with the network calls added to its NFE."""
        return evaluate(self.denoiser, state, t, **cond)

    def prior(self, shape: Sequence[int], randomness: Randomness) -> Tensor:
        """Draw the first samples, of a given shape, from the prior of the process."""
        return self.denoiser.process.prior(shape, randomness)

    def start(self, n: int | Tensor, generator: Generator = None, seeds: Sequence[int] | None = None) -> State:
        """Return the state at t_max: n draws from the prior, or a given noisy batch.

        Arguments:
            n: the number of samples, or the noisy batch (B, *event) to start from.
            generator: the source of randomness, one stream for the batch.
            seeds: one integer for each sample, in place of a generator.

        Raises:
            ValueError: n < 1, the batch has a wrong shape, the number of seeds is not the number of samples, or both a
                generator and seeds are given.
            TypeError: seeds is a single number.
        """
        if seeds is not None and generator is not None:
            raise ValueError("give a generator or seeds, not both")
        batch = len(n) if isinstance(n, Tensor) else operator.index(n)
        if seeds is not None and not isinstance(seeds, Iterable):
            raise TypeError(f"seeds = {seeds}, expected one integer for each sample, such as range({batch})")
        randomness = as_randomness(generator) if seeds is None else PerSampleRandomness(list(seeds))
        if batch < 1:
            raise ValueError(f"n = {batch} samples, expected at least 1")
        if isinstance(randomness, PerSampleRandomness) and len(randomness) != batch:
            raise ValueError(f"{len(randomness)} seeds were given for {batch} samples, expected one for each sample")
        if isinstance(n, Tensor):
            self.denoiser.check_event(n)
            x = n
        else:
            x = self.prior((batch, *self.denoiser.event_shape), randomness)
        return State(x, torch.tensor(self.grid.t_max, dtype=torch.float64, device=x.device), randomness)

    def completing(self, state: State, given: Tensor, known: Tensor) -> State:
        """Return the state with known positions. Their clean values stay in x until the end.

        Arguments:
            state: the state.
            given: clean data (B, *event); only the values of known positions are used.
            known: the known positions, bool (B, *event).

        Raises:
            ValueError: given or known has a wrong shape or dtype, or a known value cannot be clean data.
        """
        check_known(known, state.x.shape)
        if given.shape != state.x.shape:
            raise ValueError(f"given has shape {tuple(given.shape)}, expected {tuple(state.x.shape)}")
        # Unknown positions may hold any number, even NaN or an invalid state.
        given = torch.where(known, given, torch.zeros_like(given))
        self.denoiser.process.check_data(given)
        return replace(state, known=known, given=given.to(state.x.dtype))

    def _move(self, state: State, s: Tensor | None, cond: Mapping[str, Tensor]) -> State:
        """Do one step to s, or the last step if s is None. If the samples have seeds, it is done in sub-batches."""
        end = torch.zeros_like(state.t) if s is None else s

        def advance(part: State, given: Mapping[str, Tensor]) -> State:
            moved = self.finish(part, **given) if s is None else self.step(part, part.t, s, **given)
            if ends(moved.t, NOTHING) != ends(end, NOTHING):
                raise ValueError(f"{type(self).__name__} returned a state at t = {moved.t}, expected t = {end}")
            if moved.known is not part.known:
                raise ValueError(f"{type(self).__name__} lost the known positions, expected dataclasses.replace(state, x=...)")
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
        given: Tensor | None = None,
        **cond: Tensor,
    ) -> Iterator[State]:
        """Yield the state at t_max, the state after each of the N steps, and the state after the last step (x_0).

        Arguments:
            n: the number of samples, or the noisy batch (B, *event) to start from.
            generator: the source of randomness, one stream for the batch.
            seeds: one integer for each sample, in place of a generator.
            progress: whether to show a progress bar.
            given: clean data (B, *event) to complete. The condition `known`, bool (B, *event), marks the known
                positions. They have the given values at every time, and the sampler generates the other positions. This
                needs a network that was trained with known positions. With other networks, use `Inpainting`.
            cond: conditions of the network by name, batch first, such as labels y (B,).

        Raises:
            ValueError: `start` or `completing` raises it, a condition does not have one row for each sample, or only one
                of `given` and `known` is passed.
            TypeError: `start` raises it, or a condition is not a tensor.
        """
        state = self.start(n, generator, seeds)
        check_conditions(cond, len(state.x))
        if (given is None) != ("known" not in cond):
            raise ValueError("give both or neither: given, clean data (B, *event), and known, bool (B, *event)")
        if given is not None:
            state = self.completing(state, given, cond["known"])
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
        given: Tensor | None = None,
        **cond: Tensor,
    ) -> Tensor:
        """Draw samples x_0 (B, *event). The arguments are those of `trajectory`."""
        for state in self.trajectory(n, generator=generator, seeds=seeds, progress=progress, given=given, **cond):
            last = state
        return last.x
