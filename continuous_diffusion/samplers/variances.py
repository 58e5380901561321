"""The noise that a reverse step adds, between two extremes.

    beta~ = (sigma_s^2 / sigma_t^2) beta   the bridge's variance: right where x_0 is known exactly
    beta  = sigma_t^2 (1 - snr_t / snr_s)  the forward step's: right where the data are white noise of variance 1

The truth is in between. The two differ at second order in the length of the step, so all choices
have the same limit of many steps; with few steps the choice shows.
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
    """How much noise a reverse step adds."""

    learned: bool = False
    """Whether it reads a variance that the network has learned."""

    @abstractmethod
    def __call__(self, process: GaussianProcess, s: Tensor, t: Tensor, small: Tensor, posterior: Posterior) -> Tensor:
        """The standard deviation of x_s given x_t, for the step t -> s: () or, one for every dimension, (B, *event).

        Arguments:
            process: the forward process.
            s: where the step ends, ().
            t: where it begins, ().
            small: the bridge's variance beta~ of this step, ().
            posterior: what the denoiser says at t.
        """

    def check(self, denoiser: Denoiser[Posterior]) -> None:
        """Refuse a denoiser that cannot say what this variance reads.

        Raises:
            ValueError: the variance is a learned one and the denoiser has not learned any.
        """
        if self.learned and not getattr(denoiser, "learns_variance", False):
            raise ValueError(
                f"{type(self).__name__} needs a denoiser with a learned variance, such as LearnedVarianceDenoiser; "
                f"{type(denoiser).__name__} has none"
            )


@dataclass(frozen=True)
class FixedSmall(ReverseVariance):
    """The variance of the bridge, the lower bound: `beta~ = (sigma_s^2 / sigma_t^2) beta`."""

    def __call__(self, process: GaussianProcess, s: Tensor, t: Tensor, small: Tensor, posterior: Posterior) -> Tensor:
        return small.sqrt()


@dataclass(frozen=True)
class FixedLarge(ReverseVariance):
    """The variance of the forward step, the upper bound: `beta = sigma_t^2 (1 - snr_t / snr_s)`."""

    def __call__(self, process: GaussianProcess, s: Tensor, t: Tensor, small: Tensor, posterior: Posterior) -> Tensor:
        return process.added_variance(s, t).sqrt()


@dataclass(frozen=True)
class LearnedRange(ReverseVariance):
    """The variance that the network learned between the two bounds: `exp(v log beta + (1 - v) log beta~)`, with a v for every
    dimension.

    Both ends are those of the step that is taken, so a network trained on T steps may be
    sampled on fewer. Where beta~ = 0, in a step to s = 0, there is no noise.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    learned = True

    def __call__(self, process: GaussianProcess, s: Tensor, t: Tensor, small: Tensor, posterior: Posterior) -> Tensor:
        if posterior.interpolation is None:
            raise ValueError("the posterior has no interpolation of variances, expected one from LearnedVarianceDenoiser")
        large = process.added_variance(s, t)
        span = torch.where(small > 0, (large / small).log() / 2, 0.0)
        return (posterior.interpolation * span).add_(small.log() / 2).exp_()
