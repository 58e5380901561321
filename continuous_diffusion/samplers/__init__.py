"""Reverse-time samplers of the Gaussian engine, one class a file."""

from continuous_diffusion.samplers.ancestral import Ancestral, FixedLarge, FixedSmall, ReverseVariance
from continuous_diffusion.samplers.base import GaussianSampler
from continuous_diffusion.samplers.ddim import DDIM

__all__ = ["DDIM", "Ancestral", "FixedLarge", "FixedSmall", "GaussianSampler", "ReverseVariance"]
