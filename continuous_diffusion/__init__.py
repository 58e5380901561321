"""The Gaussian engine: `x_t = alpha_t x_0 + sigma_t eps` on reals, and its reversal."""

from continuous_diffusion.denoisers import (
    Denoiser,
    EpsilonDenoiser,
    KarrasDenoiser,
    LearnedVarianceDenoiser,
    Network,
    Posterior,
    VelocityDenoiser,
    X0Denoiser,
)
from continuous_diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance
from continuous_diffusion.likelihood import BitsPerDim, bits_per_dim
from continuous_diffusion.losses import ELBO, VLB, EpsilonLoss, HybridLoss, Loss, Regression, VelocityLoss, X0Loss
from continuous_diffusion.oracle import GaussianMixture, MixtureDenoiser
from continuous_diffusion.process import GaussianProcess, PixelScale
from continuous_diffusion.samplers import DDIM, Ancestral, FixedLarge, FixedSmall, Heun, LearnedRange, ReverseVariance, Sampler
from continuous_diffusion.schedules import (
    CauchySchedule,
    CosineSchedule,
    LaplaceSchedule,
    LinearSchedule,
    LogSNRSchedule,
    QuadraticSchedule,
    Schedule,
    ShiftedCosineSchedule,
    SigmoidSchedule,
    TabulatedSchedule,
)
from continuous_diffusion.times import LogSNRGrid, LogSNRTimes
from continuous_diffusion.weights import (
    AbsoluteError,
    Distance,
    MinSNR,
    SmoothAbsoluteError,
    SquaredError,
    Unweighted,
    Weight,
)

__all__ = [
    "DDIM",
    "ELBO",
    "VLB",
    "AbsoluteError",
    "Ancestral",
    "BitsPerDim",
    "CauchySchedule",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "CosineSchedule",
    "Denoiser",
    "Distance",
    "EpsilonDenoiser",
    "EpsilonLoss",
    "FixedLarge",
    "FixedSmall",
    "GaussianMixture",
    "GaussianProcess",
    "Heun",
    "HybridLoss",
    "KarrasDenoiser",
    "LaplaceSchedule",
    "LearnedRange",
    "LearnedVarianceDenoiser",
    "LinearSchedule",
    "LogSNRGrid",
    "LogSNRSchedule",
    "LogSNRTimes",
    "Loss",
    "MinSNR",
    "MixtureDenoiser",
    "Network",
    "PixelScale",
    "Posterior",
    "QuadraticSchedule",
    "Regression",
    "ReverseVariance",
    "Sampler",
    "Schedule",
    "ShiftedCosineSchedule",
    "SigmoidSchedule",
    "SmoothAbsoluteError",
    "SquaredError",
    "TabulatedSchedule",
    "Unweighted",
    "VelocityDenoiser",
    "VelocityLoss",
    "Weight",
    "X0Denoiser",
    "X0Loss",
    "bits_per_dim",
]
