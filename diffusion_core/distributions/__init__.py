"""Distributions over integers, which the heads of networks return, and their numerics."""

from diffusion_core.distributions.base import Distribution
from diffusion_core.distributions.categorical import Categorical
from diffusion_core.distributions.inversion import inverse_cdf
from diffusion_core.distributions.logistic import TruncatedLogistic
from diffusion_core.distributions.mixture import Mixture

__all__ = ["Categorical", "Distribution", "Mixture", "TruncatedLogistic", "inverse_cdf"]
