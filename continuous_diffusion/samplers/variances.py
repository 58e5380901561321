"""The variance of the noise that a reverse step adds.

It is between two extremes:

    beta~ = (sigma_s^2 / sigma_t^2) beta   the variance of the bridge q(x_s | x_t, x_0), exact if all data are equal
    beta  = sigma_t^2 (1 - snr_t / snr_s)  the variance of the forward step, exact for x_0 ~ N(0, I) if alpha^2 + sigma^2 = 1

The difference of the two extremes is of second order in the length of the step. So all choices have the same limit for
many steps. For few steps their results differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from continuous_diffusion.denoisers import Posterior
from continuous_diffusion.process import GaussianProcess
from diffusion_core import Denoiser

__all__ = ["FixedLarge", "FixedSmall", "LearnedRange", "ReverseVariance"]


class ReverseVariance(ABC):
    """The variance of the noise that a reverse step adds."""

    learned: bool = False
    """Whether the class uses a variance that the network predicts."""

    @abstractmethod
    def __call__(self, process: GaussianProcess, s: Tensor, t: Tensor, small: Tensor, posterior: Posterior) -> Tensor:
        """Return the standard deviation of x_s given x_t in the step t -> s. Its shape is () or (B, *event).

        Arguments:
            process: the forward process.
            s: the end of the step, ().
            t: the start of the step, ().
            small: the variance beta~ of the bridge in this step, ().
            posterior: the posterior from the denoiser at time t.
        """

    def check(self, denoiser: Denoiser[Posterior]) -> None:
        """Check that the denoiser learns a variance, if this class needs one.

        Raises:
            ValueError: this class needs a learned variance and the denoiser has none.
        """
        if self.learned and not getattr(denoiser, "learns_variance", False):
            raise ValueError(
                f"{type(self).__name__} needs a denoiser with a learned variance, such as LearnedVarianceDenoiser; "
                f"{type(denoiser).__name__} has none"
            )


@dataclass(frozen=True)
class FixedSmall(ReverseVariance):
    """The variance of the bridge, the lower bound of the variance of a reverse step: `beta~ = (sigma_s^2 / sigma_t^2) beta`."""

    def __call__(self, process: GaussianProcess, s: Tensor, t: Tensor, small: Tensor, posterior: Posterior) -> Tensor:
        return small.sqrt()


@dataclass(frozen=True)
class FixedLarge(ReverseVariance):
    """The variance of the forward step, the upper bound of that of a reverse step: `beta = sigma_t^2 (1 - snr_t / snr_s)`."""

    def __call__(self, process: GaussianProcess, s: Tensor, t: Tensor, small: Tensor, posterior: Posterior) -> Tensor:
        return process.added_variance(s, t).sqrt()


@dataclass(frozen=True)
class LearnedRange(ReverseVariance):
    """The learned variance of a reverse step, `exp(v log beta + (1 - v) log beta~)`, with v from the network.

    The network predicts v for each dimension. beta and beta~ are computed for the actual step, so a network that was
    trained on T steps can be sampled with fewer steps. If beta~ = 0, in a step to s = 0, no noise is added.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    learned = True

    def __call__(self, process: GaussianProcess, s: Tensor, t: Tensor, small: Tensor, posterior: Posterior) -> Tensor:
        if posterior.interpolation is None:
            raise ValueError("posterior.interpolation = None, expected a posterior of a LearnedVarianceDenoiser")
        large = process.added_variance(s, t)
        span = torch.where(small > 0, (large / small).log() / 2, 0.0)
        return (posterior.interpolation * span).add_(small.log() / 2).exp_()
