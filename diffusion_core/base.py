"""The nouns that both engines share, as abstract classes.

A `Process` turns clean data x_0 into noisy data x_t; a `Denoiser` says, from a network, what undoes
the noise, in its engine's `Posterior`; a `Loss` trains it. Events have any shape: x is
(B, *event). Time t is in [0, 1], t = 0 is data and t = 1 is noise; it is a tensor of shape ()
(one time for the batch) or (B,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from diffusion_core.randomness import Generator
from diffusion_core.ranges import CheckedArguments

if TYPE_CHECKING:
    from diffusion_core.times import TimeSampler

__all__ = ["Denoiser", "Loss", "Process", "Sample", "Schedule"]

P = TypeVar("P", covariant=True)
"""What a denoiser says at x_t: the engine's posterior."""

Q = TypeVar("Q", contravariant=True)
"""What a loss asks of a denoiser: the posterior that it can score."""


class Schedule(CheckedArguments, ABC):
    """How fast noise arrives: a frozen dataclass whose fields are its hyperparameters."""

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The two numbers that describe the process at time t, each of the shape of t."""


class Process(nn.Module, ABC):
    """The forward process: how x_0 becomes x_t, and what x_1 looks like."""

    @abstractmethod
    def sample(self, x_0: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_t ~ q(x_t | x_0): (B, *event) -> (B, *event)."""

    def noised(self, x_0: Tensor, t: Tensor, generator: Generator = None) -> tuple[Tensor, Tensor | None]:
        """x_t ~ q(x_t | x_0), and the noise that it was made with if a loss may ask for it: each (B, *event)."""
        return self.sample(x_0, t, generator), None

    @abstractmethod
    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_t ~ q(x_t | x_s), s <= t, the process run on from s: (B, *event) -> (B, *event)."""

    @abstractmethod
    def prior(self, shape: Sequence[int], generator: Generator = None) -> Tensor:
        """Draw x_1 from the law that sampling starts from: a tensor of the given shape, batch first."""


class Denoiser(nn.Module, ABC, Generic[P]):
    """One parameterisation, the meaning of what a network gives: (x_t, t, **cond) -> the engine's posterior.

    Arguments:
        process: the forward process whose noise it removes.
        event_shape: the shape of one example, such as (1, 28, 28).
    """

    process: Process
    nfe: int = 1
    """How many evaluations of the network one evaluation of the denoiser costs an example."""

    def __init__(self, process: Process, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.process = process
        self.event_shape = tuple(int(size) for size in event_shape)

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> P:
        """The posterior given x_t (B, *event) at time t, () or (B,), and conditions by name, batch first.

        Labels are the condition y (B,). A condition that is absent is omitted; it is never None.
        """

    if TYPE_CHECKING:

        def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> P: ...

    def active(self, x_0: Tensor, **cond: Tensor) -> Tensor | None:
        """The positions that training noises and scores, bool (B, *event), given clean data and conditions.

        None means all of them. A denoiser of sequences with a given prefix, or with padding, says here which are not.
        Training and likelihoods ask it; samplers do not.
        """
        return None

    def check_event(self, x: Tensor) -> None:
        """Refuse a batch whose examples have another shape than this denoiser's.

        Raises:
            ValueError: x is not (B, *event_shape).
        """
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {', '.join(map(str, self.event_shape))})")


class Sample(NamedTuple):
    """One training draw of B examples: all that is random about it. A loss is a function of it.

    Arguments:
        x_0: the clean data (B, *event).
        x_t: the noisy data (B, *event).
        t: the time of each example, (B,), or () for all.
        noise: what else was drawn (B, *event): the noise eps of a Gaussian process, the jump of a two-pass loss, or None.
        weight: 1 / density of t, (B,).
        active: the positions that are noised and scored, bool (B, *event); None means all of them.
        seeds: one seed an example for dropout, int64 (B,); None where the network has no dropout.
    """

    x_0: Tensor
    x_t: Tensor
    t: Tensor
    noise: Tensor | None = None
    weight: Tensor | None = None
    active: Tensor | None = None
    seeds: Tensor | None = None


class Loss(CheckedArguments, ABC, Generic[Q]):
    """A training loss: one unreduced number an example, a sum over its dimensions in nats or squared units.

    A subclass says what it asks of a posterior, in `evaluate`. One that needs more than one noising draws the rest in
    `draw`; one that needs more than one pass through the network overrides `__call__`.
    """

    def draw(
        self, process: Process, x_0: Tensor, t: Tensor, generator: Generator = None, active: Tensor | None = None
    ) -> Sample:
        """Noise clean data: everything random that the loss needs.

        Arguments:
            process: the forward process.
            x_0: clean data (B, *event).
            t: the times, () or (B,).
            generator: the source of randomness.
            active: the positions to noise, bool (B, *event); the others stay clean. None noises all.
        """
        x_t, noise = process.noised(x_0, t, generator)
        return Sample(x_0, x_t if active is None else torch.where(active, x_t, x_0), t, noise, active=active)

    def __call__(self, denoiser: Denoiser[Q], sample: Sample, **cond: Tensor) -> Tensor:
        """The loss of each example, given the conditions of the network: (B,)."""
        return self.evaluate(denoiser(sample.x_t, sample.t, **cond), sample)

    @abstractmethod
    def evaluate(self, posterior: Q, sample: Sample) -> Tensor:
        """The loss of each example, given what the denoiser says of `sample.x_t`: (B,)."""

    def check_times(self, times: TimeSampler) -> None:
        """Refuse a density of training times that never draws some that the loss is a sum over.

        Raises:
            ValueError: the density leaves out times that the loss needs.
        """
