"""Reverse-time samplers of the Gaussian engine, one class per file, and the variances of their noise."""

from continuous_diffusion.samplers.ancestral import Ancestral
from continuous_diffusion.samplers.base import Sampler
from continuous_diffusion.samplers.ddim import DDIM
from continuous_diffusion.samplers.heun import Heun
from continuous_diffusion.samplers.variances import FixedLarge, FixedSmall, LearnedRange, ReverseVariance

__all__ = ["DDIM", "Ancestral", "FixedLarge", "FixedSmall", "Heun", "LearnedRange", "ReverseVariance", "Sampler"]
