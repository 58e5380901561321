"""Abstract base classes of both engines.

A `Process` adds noise: it turns clean data x_0 into noisy data x_t. A `Denoiser` wraps a network and returns the
engine's `Posterior`. A `Loss` trains the denoiser.

Data x have shape (B, *event): B is the number of examples, and `event` is the shape of one example, such as (C, H, W).
Time t is in [0, 1]: t = 0 is data and t = 1 is noise. It is a tensor of shape () (one time for the batch) or (B,).
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

__all__ = ["Denoiser", "Loss", "Process", "Sample", "Schedule", "active_positions"]

P = TypeVar("P", covariant=True)
"""The type of posterior that a denoiser returns."""

Q = TypeVar("Q", contravariant=True)
"""The type of posterior that a loss needs."""


class Schedule(CheckedArguments, ABC):
    """A noise schedule: how much noise there is at each time.

    A schedule is a frozen dataclass. Its fields are its hyperparameters.
    """

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two numbers that describe the process at time t, each with the shape of t."""


class Process(nn.Module, ABC):
    """The forward process: it turns clean data x_0 into noisy data x_t, and defines the prior of x_1."""

    @abstractmethod
    def sample(self, x_0: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_t ~ q(x_t | x_0): (B, *event) -> (B, *event)."""

    def noised(self, x_0: Tensor, t: Tensor, generator: Generator = None) -> tuple[Tensor, Tensor | None]:
        """Draw x_t ~ q(x_t | x_0). Return x_t and its noise, each (B, *event). The noise is None if no loss needs it."""
        return self.sample(x_0, t, generator), None

    @abstractmethod
    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_t ~ q(x_t | x_s) for s <= t: continue the process from time s to time t. (B, *event) -> (B, *event)."""

    def check_data(self, x_0: Tensor) -> None:
        """Check that values can be clean data of this process. Each engine overrides this method.

        Raises:
            ValueError: a value cannot be clean data, or the dtype is wrong.
        """

    @abstractmethod
    def prior(self, shape: Sequence[int], generator: Generator = None) -> Tensor:
        """Draw x_1 from the distribution that sampling starts from: a tensor of the given shape, batch first."""


class Denoiser(nn.Module, ABC, Generic[P]):
    """A network, and the meaning of its output (the parameterisation): (x_t, t, **cond) -> posterior.

    Arguments:
        process: the forward process that adds the noise.
        event_shape: the shape of one example, such as (1, 28, 28).
    """

    process: Process
    nfe: int = 1
    """The number of network calls for each example in one call of the denoiser."""

    def __init__(self, process: Process, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.process = process
        self.event_shape = tuple(int(size) for size in event_shape)

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> P:
        """Return the posterior given x_t (B, *event) at time t, () or (B,), and conditions as keywords, batch first.

        Labels are the condition y (B,). Leave out a condition that is absent; do not pass None.
        """

    if TYPE_CHECKING:

        def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> P: ...

    def active(self, x_0: Tensor, **cond: Tensor) -> Tensor | None:
        """Return the positions that get noise and count in the loss: bool (B, *event), or None for all positions.

        The positions of the condition `known`, bool (B, *event), are not active. Override this method if other
        positions are fixed too, such as padding. An override need not exclude known positions: `active_positions` does.
        Training and likelihoods call this method. Samplers do not: `Sampler.trajectory` gets the known values as an
        argument.

        Arguments:
            x_0: clean data (B, *event).
            cond: conditions by name, batch first.
        """
        return ~cond["known"] if "known" in cond else None

    def check_event(self, x: Tensor) -> None:
        """Check that the examples of a batch have the event shape of this denoiser.

        Raises:
            ValueError: x is not (B, *event_shape).
        """
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {', '.join(map(str, self.event_shape))})")


def active_positions(denoiser: Denoiser[object], x_0: Tensor, **cond: Tensor) -> Tensor | None:
    """Return the active positions of a denoiser, without the `known` ones: bool (B, *event), or None for all positions."""
    active = denoiser.active(x_0, **cond)
    if "known" not in cond:
        return active
    return ~cond["known"] if active is None else active & ~cond["known"]


class Sample(NamedTuple):
    """The data and all random numbers of one training step of B examples. A loss is a deterministic function of them.

    Arguments:
        x_0: the clean data (B, *event).
        x_t: the noisy data (B, *event).
        t: the time of each example, (B,), or one time for all, ().
        noise: a further random draw (B, *event), or None. In the Gaussian engine it is the noise eps. In the discrete
            engine it is the state after one more jump, for losses that need it.
        weight: 1 / (the probability density with which t was drawn), (B,).
        active: the positions that get noise and count in the loss, bool (B, *event); None means all positions.
        seeds: the dropout seed of each example, int64 (B,); None if the network has no dropout.
    """

    x_0: Tensor
    x_t: Tensor
    t: Tensor
    noise: Tensor | None = None
    weight: Tensor | None = None
    active: Tensor | None = None
    seeds: Tensor | None = None


class Loss(CheckedArguments, ABC, Generic[Q]):
    """A training loss: one number for each example, summed over dimensions, in nats or squared units.

    A subclass implements `evaluate`, which computes the loss from a posterior. Override `draw` if the loss needs more
    random draws than one noisy x_t. Override `__call__` if it needs more than one network call.
    """

    def draw(
        self, process: Process, x_0: Tensor, t: Tensor, generator: Generator = None, active: Tensor | None = None
    ) -> Sample:
        """Add noise to clean data, and make all other random draws that the loss needs.

        Arguments:
            process: the forward process.
            x_0: clean data (B, *event).
            t: the times, () or (B,).
            generator: the source of randomness.
            active: the positions that get noise, bool (B, *event); the others stay clean. None means all positions.
        """
        x_t, noise = process.noised(x_0, t, generator)
        return Sample(x_0, x_t if active is None else torch.where(active, x_t, x_0), t, noise, active=active)

    def __call__(self, denoiser: Denoiser[Q], sample: Sample, **cond: Tensor) -> Tensor:
        """Return the loss of each example, given the conditions of the network: (B,)."""
        return self.evaluate(denoiser(sample.x_t, sample.t, **cond), sample)

    @abstractmethod
    def evaluate(self, posterior: Q, sample: Sample) -> Tensor:
        """Return the loss of each example from the posterior at `sample.x_t`: (B,)."""

    def check(self, denoiser: Denoiser[Q], times: TimeSampler) -> None:
        """Check that this loss can train the denoiser with this density of training times. `Objective` calls it.

        Raises:
            ValueError: the denoiser lacks an output that the loss needs, or the density of times does not fit the loss.
        """
