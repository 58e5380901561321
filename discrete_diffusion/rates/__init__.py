"""Rate matrices (generators) of the forward process."""

from discrete_diffusion.rates.absorbing import AbsorbingRates
from discrete_diffusion.rates.base import RateMatrix, TransitionKernel
from discrete_diffusion.rates.birth_death import BirthDeathRates
from discrete_diffusion.rates.dense import DenseRates
from discrete_diffusion.rates.gaussian_target import GaussianTargetRates
from discrete_diffusion.rates.uniform import UniformRates

__all__ = [
    "AbsorbingRates",
    "BirthDeathRates",
    "DenseRates",
    "GaussianTargetRates",
    "RateMatrix",
    "TransitionKernel",
    "UniformRates",
]
