"""Samplers of the discrete engine, their correctors, and the leaps that they share."""

from discrete_diffusion.samplers.ancestral import Ancestral
from discrete_diffusion.samplers.base import Sampler
from discrete_diffusion.samplers.correctors import Corrector, ForwardBackward
from discrete_diffusion.samplers.euler import Euler
from discrete_diffusion.samplers.initial import GaussianInitialLaw, InitialLaw, UniformInitialLaw
from discrete_diffusion.samplers.leaps import BernoulliLeap, CategoricalLeap, Leap, OrdinalLeap
from discrete_diffusion.samplers.midpoint import MidpointTauLeaping
from discrete_diffusion.samplers.predictor_corrector import PredictorCorrector
from discrete_diffusion.samplers.tau_leaping import TauLeaping

__all__ = [
    "Ancestral",
    "BernoulliLeap",
    "CategoricalLeap",
    "Corrector",
    "Euler",
    "ForwardBackward",
    "GaussianInitialLaw",
    "InitialLaw",
    "Leap",
    "MidpointTauLeaping",
    "OrdinalLeap",
    "PredictorCorrector",
    "Sampler",
    "TauLeaping",
    "UniformInitialLaw",
]
