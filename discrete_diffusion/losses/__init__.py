"""Training losses of the discrete engine."""

from discrete_diffusion.losses.base import ELBO, CrossEntropy, ELBOAndCrossEntropy, Loss, WeightedSum
from discrete_diffusion.losses.ct_elbo import CTELBO

__all__ = ["CTELBO", "ELBO", "CrossEntropy", "ELBOAndCrossEntropy", "Loss", "WeightedSum"]
