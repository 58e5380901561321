"""The nouns that both engines share, as abstract classes.

A `Process` turns clean data x_0 into noisy data x_t; a `Denoiser` says, from a network, what undoes
the noise, in its engine's `Posterior`; a `Loss` trains it. Events have any shape: x is
(B, *event). Time t is in [0, 1], t = 0 is data and t = 1 is noise; it is a tensor of shape ()
(one time for the batch) or (B,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor, nn

from diffusion_core.randomness import Generator

if TYPE_CHECKING:
    from diffusion_core.times import TimeSampler

__all__ = ["Denoiser", "Loss", "Process", "Schedule"]

P = TypeVar("P", covariant=True)
"""What a denoiser says at x_t: the engine's posterior."""


class Schedule(ABC):
    """How fast noise arrives: a frozen dataclass whose fields are its hyperparameters."""

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The two numbers that describe the process at time t, each of the shape of t."""


class Process(nn.Module, ABC):
    """The forward process: how x_0 becomes x_t, and what x_1 looks like."""

    @abstractmethod
    def sample(self, x_0: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_t ~ q(x_t | x_0): (B, *event) -> (B, *event)."""

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
    network_calls: int = 1
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

    def check_event(self, x: Tensor) -> None:
        """Refuse a batch whose examples have another shape than this denoiser's.

        Raises:
            ValueError: x is not (B, *event_shape).
        """
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {', '.join(map(str, self.event_shape))})")


class Loss(ABC):
    """A training loss: a small callable that returns one unreduced number an example."""

    @abstractmethod
    def __call__(self, denoiser: Any, x_0: Tensor, t: Tensor, generator: Generator = None, **cond: Tensor) -> Tensor:
        """The loss of each example in nats (or squared units) at its time t (B,): (B,)."""

    def check_times(self, times: TimeSampler) -> None:  # noqa: B027 - most losses have a meaning at any times
        """Refuse a density of training times that never draws some that the loss is a sum over.

        Raises:
            ValueError: the density leaves out times that the loss needs.
        """
