"""The discrete engine: diffusion of integer data with continuous-time Markov chains.

Notation of this package: B is the size of a batch and `event` the shape of one example, so data have the shape (B, *event).
A dimension d is one entry of an example, and D is their number. S is the number of values of the data. n is the number of
states of the noisy data: S, or S + 1 with a mask. A law is a probability distribution. The marginal q_t is the law of the
noisy data x_t. `x with d -> y` is x with the value y in dimension d.

A section `Proven:` in a docstring lists properties that tests compare with exact results, and the names of these tests.
"""

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
