"""Parameterisations of a network. Each file defines one meaning of the network's output."""

from discrete_diffusion.denoisers.absorbing import AbsorbingDenoiser
from discrete_diffusion.denoisers.base import Denoiser, Posterior, X0Posterior
from discrete_diffusion.denoisers.leave_one_out import LeaveOneOutDenoiser
from discrete_diffusion.denoisers.score import ScoreDenoiser, ScorePosterior
from discrete_diffusion.denoisers.x0 import X0Denoiser

__all__ = [
    "AbsorbingDenoiser",
    "Denoiser",
    "LeaveOneOutDenoiser",
    "Posterior",
    "ScoreDenoiser",
    "ScorePosterior",
    "X0Denoiser",
    "X0Posterior",
]
