"""Training losses of the Gaussian engine, one unreduced number an example.

A denoiser is trained by regression: noise the data, ask for what was there, square the error.
Losses in eps, x_0 or v differ only by a weight in time,
`|eps - epshat|^2 = (alpha/sigma)^2 |x_0 - x0hat|^2`; they are means over dimensions, so that
their size does not depend on the image's.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from continuous_diffusion.process import check_real
from diffusion_core import Generator, Loss, as_randomness

__all__ = ["EpsilonLoss"]


class EpsilonLoss(Loss):
    """`mean_d (eps^d - epshat^d(x_t, t))^2` with `x_t = alpha_t x_0 + sigma_t eps`: L_simple.

    References:
        Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    """

    def __call__(self, denoiser: Any, x_0: Tensor, t: Tensor, y: Tensor | None = None, generator: Generator = None) -> Tensor:
        """The squared error of each example at its time t, () or (B,): (B,)."""
        check_real(x_0)
        epsilon = as_randomness(generator).normal(x_0.shape, x_0.dtype, x_0.device)
        x_t = denoiser.process.perturb(x_0, epsilon, t)
        error: Tensor = epsilon - denoiser(x_t, t, y).epsilon
        return error.square().flatten(1).mean(1)
