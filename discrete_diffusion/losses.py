"""Training losses in nats an example, unreduced.

The evidence lower bound (as an upper bound on -log p) of a continuous-time Markov chain is

    -log p(x_0) <= int l_t(x_0) dt + KL(q_1(. | x_0) || prior) + E_{q_eps}[-log p(x_0 | x_eps)]
    l_t(x_0) = sum_d sum_{y != x^d} R_t[y, x^d] w_y phi(r_y / w_y),   phi(z) = z - 1 - log z,   x ~ q_t(. | x_0)

which is complete (no constant is dropped), non-negative for every draw, and costs one network
call. Cross-entropy trains the same posterior with another weighting of time.

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al., 2024) | https://arxiv.org/abs/2310.16834
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

import diffusion_core
from diffusion_core import Generator
from discrete_diffusion.denoisers.base import Denoiser, Posterior, X0Posterior, no_x0_error

__all__ = ["ELBO", "CrossEntropy", "Loss", "WeightedSum"]


class Loss(diffusion_core.Loss):
    """A loss of the discrete engine; with one network call, losses can share it.

    Subclasses state what they ask of the posterior; the noising is written here.
    """

    def __call__(
        self, denoiser: Denoiser[Posterior], x_0: Tensor, t: Tensor, generator: Generator = None, **cond: Tensor
    ) -> Tensor:
        """The loss in nats of each example x_0 (B, *event) at its time t (B,): (B,)."""
        x_t = denoiser.process.sample(x_0, t, generator)
        return self.evaluate(denoiser(x_t, t, **cond), x_0.long())

    @abstractmethod
    def evaluate(self, posterior: Posterior, x_0: Tensor) -> Tensor:
        """The loss (B,) of a posterior whose clean data are x_0 (B, *event)."""


@dataclass(frozen=True)
class ELBO(Loss):
    """The integrand l_t(x_0) of the complete bound, in nats / unit of t."""

    def evaluate(self, posterior: Posterior, x_0: Tensor) -> Tensor:
        return posterior.rate_divergence(x_0).flatten(1).sum(-1)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """`-sum_d log p(x_0^d | x_t)` in nats: the sum over dimensions, not their mean."""

    def evaluate(self, posterior: Posterior, x_0: Tensor) -> Tensor:
        if not isinstance(posterior, X0Posterior):
            raise no_x0_error("CrossEntropy")
        return -posterior.log_prob(x_0).flatten(1).sum(-1)


@dataclass(frozen=True)
class WeightedSum(Loss):
    """`sum_i weight_i loss_i` with one network call and the same x_t.

    Arguments:
        losses: the losses to add.
        weights: one non-negative weight a loss.
    """

    losses: tuple[Loss, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.losses or len(self.losses) != len(self.weights):
            raise ValueError(f"{len(self.losses)} losses and {len(self.weights)} weights, expected one weight a loss")
        if min(self.weights) < 0:
            raise ValueError(f"weights = {self.weights}, expected non-negative numbers")

    def evaluate(self, posterior: Posterior, x_0: Tensor) -> Tensor:
        first, *others = (
            weight * loss.evaluate(posterior, x_0) for loss, weight in zip(self.losses, self.weights, strict=True)
        )
        return sum(others, start=first)
