"""The discrete engine: diffusion of integer data with continuous-time Markov chains."""

from discrete_diffusion.denoisers import (
    AbsorbingDenoiser,
    Denoiser,
    LeaveOneOutDenoiser,
    Posterior,
    ScoreDenoiser,
    ScorePosterior,
    X0Denoiser,
    X0Posterior,
)
from discrete_diffusion.guidance import ClassifierGuidance, PosteriorGuidance, RateGuidance, TaylorClassifierGuidance
from discrete_diffusion.likelihood import BitsPerDim, bits_per_dim, learn_times
from discrete_diffusion.losses import CTELBO, ELBO, CrossEntropy, ELBOAndCrossEntropy, Loss, WeightedSum
from discrete_diffusion.oracle import EnumeratedCTMC
from discrete_diffusion.process import CTMC
from discrete_diffusion.schedules import Schedule

__all__ = [
    "CTELBO",
    "CTMC",
    "ELBO",
    "AbsorbingDenoiser",
    "BitsPerDim",
    "ClassifierGuidance",
    "CrossEntropy",
    "Denoiser",
    "ELBOAndCrossEntropy",
    "EnumeratedCTMC",
    "LeaveOneOutDenoiser",
    "Loss",
    "Posterior",
    "PosteriorGuidance",
    "RateGuidance",
    "Schedule",
    "ScoreDenoiser",
    "ScorePosterior",
    "TaylorClassifierGuidance",
    "WeightedSum",
    "X0Denoiser",
    "X0Posterior",
    "bits_per_dim",
    "learn_times",
]
