"""Training losses in nats for each example. The mean over the batch is not taken.

For a continuous-time Markov chain, the evidence lower bound (written as an upper bound on -log p) is

    -log p(x_0) <= int l_t(x_0) dt + KL(q_1(. | x_0) || prior) + E_{q_eps}[-log p(x_0 | x_eps)]
    l_t(x_0) = sum_d sum_{y != x^d} R_t[y, x^d] w_y phi(r_y / w_y),   phi(z) = z - 1 - log z,   x ~ q_t(. | x_0)

w_y is the conditional ratio and r_y the posterior ratio (see `process.py`). eps is the time at which the chain ends. The
bound is complete: no constant is dropped. The integrand l_t is non-negative for every draw and needs one network call.
Cross-entropy is also smallest for the exact posterior, but it gives other weights to the times.

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al., 2024) | https://arxiv.org/abs/2310.16834
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

from torch import Tensor

import diffusion_core
from diffusion_core import Sample, TimeSampler, event_sum
from diffusion_core.ranges import NonNegative, Range
from discrete_diffusion.denoisers.base import Denoiser, Posterior, X0Posterior, check_x0

__all__ = ["ELBO", "CrossEntropy", "ELBOAndCrossEntropy", "Loss", "WeightedSum"]


Q = TypeVar("Q", bound=Posterior, contravariant=True)
"""The kind of posterior that a loss needs from a denoiser."""


class Loss(diffusion_core.Loss[Q]):
    """A training loss of the discrete engine, in nats. `WeightedSum` adds several losses with one network call."""


@dataclass(frozen=True)
class ELBO(Loss[Posterior]):
    """The integrand l_t(x_0) of the complete evidence lower bound (ELBO), in nats / unit of t.

    Raises:
        ValueError: the times have no weights.
    """

    def check(self, denoiser: diffusion_core.Denoiser[Posterior], times: TimeSampler) -> None:
        times.check_weighted("ELBO")

    def evaluate(self, posterior: Posterior, sample: Sample) -> Tensor:
        return event_sum(posterior.rate_divergence(sample.x_0.long()), sample.active)


@dataclass(frozen=True)
class CrossEntropy(Loss[X0Posterior]):
    """The cross-entropy `-sum_d log p(x_0^d | x_t)` in nats: a sum over dimensions, not a mean.

    Raises:
        ValueError: the denoiser is a score model, which has no p(x_0 | x_t).
    """

    def check(self, denoiser: diffusion_core.Denoiser[X0Posterior], times: TimeSampler) -> None:
        if isinstance(denoiser, Denoiser):
            check_x0(denoiser, "CrossEntropy")

    def evaluate(self, posterior: X0Posterior, sample: Sample) -> Tensor:
        check_x0(posterior, "CrossEntropy")
        return -event_sum(posterior.log_prob(sample.x_0.long()), sample.active)


@dataclass(frozen=True)
class WeightedSum(Loss[Q]):
    """A weighted sum of losses, `sum_i weight_i loss_i`, with one network call and the same x_t.

    Arguments:
        losses: the losses to add. Each must use only one network call on the common x_t, as all losses do that define only
            `evaluate`.
        weights: one weight for each loss.

    Raises:
        ValueError: there are no losses, or the numbers of losses and weights differ.
        TypeError: a loss has its own method `draw` or `__call__`, such as `CTELBO`.
    """

    losses: tuple[Loss[Q], ...]
    weights: Annotated[tuple[float, ...], Range(least=0)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.losses or len(self.losses) != len(self.weights):
            raise ValueError(
                f"{len(self.losses)} losses and {len(self.weights)} weights, expected one weight for each of one or more losses"
            )
        for loss in self.losses:
            kind = type(loss)
            if kind.draw is not diffusion_core.Loss.draw or kind.__call__ is not diffusion_core.Loss.__call__:
                raise TypeError(
                    f"{kind.__name__} has its own method draw or __call__, expected losses that use one network call on one x_t"
                )

    def check(self, denoiser: diffusion_core.Denoiser[Q], times: TimeSampler) -> None:
        for loss in self.losses:
            loss.check(denoiser, times)

    def evaluate(self, posterior: Q, sample: Sample) -> Tensor:
        first, *others = (
            weight * loss.evaluate(posterior, sample) for loss, weight in zip(self.losses, self.weights, strict=True)
        )
        return sum(others, start=first)


@dataclass(frozen=True)
class ELBOAndCrossEntropy(Loss[X0Posterior]):
    """`ELBO + cross_entropy_weight CrossEntropy`, with one network call and the same x_t.

    Arguments:
        cross_entropy_weight: the weight of the cross-entropy. The weight of the ELBO is 1.

    Raises:
        ValueError: the denoiser is a score model, which has no p(x_0 | x_t), or the times have no weights.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    """

    cross_entropy_weight: NonNegative = 0.001

    def check(self, denoiser: diffusion_core.Denoiser[X0Posterior], times: TimeSampler) -> None:
        ELBO().check(denoiser, times)
        CrossEntropy().check(denoiser, times)

    def evaluate(self, posterior: X0Posterior, sample: Sample) -> Tensor:
        return ELBO().evaluate(posterior, sample) + self.cross_entropy_weight * CrossEntropy().evaluate(posterior, sample)
