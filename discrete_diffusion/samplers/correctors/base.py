"""What all correctors share: a move at a fixed time, and its exact law."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from diffusion_core import State
from discrete_diffusion.denoisers import Denoiser, Posterior

__all__ = ["Corrector"]


class Corrector(ABC):
    """Moves a sample at a fixed time s so that its law comes closer to the marginal q_s.

    A subclass states in its docstring what it leaves invariant, and to which order in h. It states its law beside its
    step: dimensions move independently given x_s, so the oracle composes it, and a test holds the step to it.

    Arguments:
        denoiser: the denoiser whose marginal is kept; its process is that of the sampler it corrects.
    """

    def __init__(self, denoiser: Denoiser[Posterior]) -> None:
        self.denoiser = denoiser

    @abstractmethod
    def step(self, state: State, s: Tensor, h: Tensor, **cond: Tensor) -> State:
        """One move of length h at time s, both float64 of shape (): the state returned is at s too."""

    @abstractmethod
    def law(self, x_s: Tensor, s: Tensor, h: Tensor, **cond: Tensor) -> Tensor:
        """The probabilities of every dimension's state after a move: (B, *event) -> (B, *event, n)."""
