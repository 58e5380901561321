"""The base class of correctors: a move at a fixed time, and its exact law."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from diffusion_core import State
from discrete_diffusion.denoisers import Denoiser, Posterior

__all__ = ["Corrector"]


class Corrector(ABC):
    """A move at a fixed time s that brings the law of a sample closer to the marginal q_s.

    The docstring of a subclass names the law that the move leaves invariant, and the order in h. A subclass defines the
    step and its exact law. Dimensions move independently given x_s. So the oracle can compute the law of a whole run, and
    tests compare the step with its law.

    Arguments:
        denoiser: the denoiser that defines q_s. It must have the same process as the corrected sampler.
    """

    def __init__(self, denoiser: Denoiser[Posterior]) -> None:
        self.denoiser = denoiser

    @abstractmethod
    def step(self, state: State, s: Tensor, h: Tensor, **cond: Tensor) -> State:
        """Make one move of length h at time s, and return the state at s. s and h are float64 of shape ()."""

    @abstractmethod
    def law(self, x_s: Tensor, s: Tensor, h: Tensor, **cond: Tensor) -> Tensor:
        """Return the probabilities of every dimension's state after a move: (B, *event) -> (B, *event, n)."""
