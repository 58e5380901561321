"""Correctors of the discrete engine, one a file: moves at a fixed time that pull a sample back to the marginal there."""

from discrete_diffusion.samplers.correctors.base import Corrector
from discrete_diffusion.samplers.correctors.forward_backward import ForwardBackward

__all__ = ["Corrector", "ForwardBackward"]
