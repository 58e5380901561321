"""Correctors of the discrete engine: moves at a fixed time that bring a sample closer to the marginal of this time."""

from discrete_diffusion.samplers.correctors.base import Corrector
from discrete_diffusion.samplers.correctors.forward_backward import ForwardBackward

__all__ = ["Corrector", "ForwardBackward"]
