"""Correctors of the discrete engine: moves at a fixed time s, which bring the samples closer to the marginal q_s."""

from discrete_diffusion.samplers.correctors.base import Corrector
from discrete_diffusion.samplers.correctors.forward_backward import ForwardBackward

__all__ = ["Corrector", "ForwardBackward"]
