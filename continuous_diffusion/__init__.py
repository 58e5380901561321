"""The Gaussian engine: `x_t = alpha_t x_0 + sigma_t eps` on reals, and its reversal."""

from continuous_diffusion.denoisers import EpsilonDenoiser, GaussianPosterior, Network, PreconditionedDenoiser
from continuous_diffusion.losses import EpsilonLoss
from continuous_diffusion.oracle import GaussianMixture, MixtureDenoiser
from continuous_diffusion.process import GaussianProcess, PixelScale
from continuous_diffusion.samplers import DDIM, Ancestral, FixedLarge, FixedSmall, GaussianSampler, ReverseVariance
from continuous_diffusion.schedules import CosineSchedule, LinearSchedule, TabulatedSchedule, VariancePreserving

__all__ = [
    "DDIM",
    "Ancestral",
    "CosineSchedule",
    "EpsilonDenoiser",
    "EpsilonLoss",
    "FixedLarge",
    "FixedSmall",
    "GaussianMixture",
    "GaussianPosterior",
    "GaussianProcess",
    "GaussianSampler",
    "LinearSchedule",
    "MixtureDenoiser",
    "Network",
    "PixelScale",
    "PreconditionedDenoiser",
    "ReverseVariance",
    "TabulatedSchedule",
    "VariancePreserving",
]
