"""Samplers of the discrete engine, one a file, and the leaps that two of them share."""

from discrete_diffusion.samplers.ancestral import Ancestral
from discrete_diffusion.samplers.base import Sampler
from discrete_diffusion.samplers.euler import Euler
from discrete_diffusion.samplers.leaps import CategoricalLeap, Leap, OrdinalLeap
from discrete_diffusion.samplers.predictor_corrector import PredictorCorrector
from discrete_diffusion.samplers.tau_leaping import TauLeaping

__all__ = ["Ancestral", "CategoricalLeap", "Euler", "Leap", "OrdinalLeap", "PredictorCorrector", "Sampler", "TauLeaping"]
