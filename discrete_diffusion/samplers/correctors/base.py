"""The base class of correctors: a move at a fixed time, and its exact law."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from diffusion_core import State
from discrete_diffusion.denoisers import Denoiser, Posterior

__all__ = ["Corrector"]


class Corrector(ABC):
    """A corrector: it moves samples at a fixed time s, so that their distribution comes closer to the marginal q_s.

    This is the base class. The docstring of a subclass names the law that the move leaves unchanged, and the order in h of
    the remaining error. A law is a probability distribution.

    A subclass defines the random step and its exact law. Given x_s, the dimensions move independently. So `EnumeratedCTMC`
    can compute the exact law of the samples, and tests compare the random step with its law.

    Arguments:
        denoiser: the denoiser that gives the reverse rates. If it is exact, samples move towards q_s. It must have the same
            process as the predictor.
    """

    def __init__(self, denoiser: Denoiser[Posterior]) -> None:
        self.denoiser = denoiser

    @abstractmethod
    def step(self, state: State, s: Tensor, h: Tensor, **cond: Tensor) -> State:
        """Make one move of length h at time s, and return the new state at s. s and h are float64 of shape ()."""

    @abstractmethod
    def law(self, x_s: Tensor, s: Tensor, h: Tensor, **cond: Tensor) -> Tensor:
        """Return the probabilities of the n states of each dimension after a move: (B, *event) -> (B, *event, n)."""
