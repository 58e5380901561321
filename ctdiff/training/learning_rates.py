"""Learning-rate schedules. A schedule gives a factor of the base rate, for torch's `LambdaLR`.

    factor(n) = min(1, (n + 1) / warmup) * decay(n)

This is the factor after n optimiser steps: a linear warm-up times a decay. During the warm-up, Adam estimates its second
moments before it takes large steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from diffusion_core.ranges import CheckedArguments, Count, CountOrZero, Share

__all__ = ["ConstantFactor", "CosineFactor", "LearningRateFactor"]


@dataclass(frozen=True)
class LearningRateFactor(CheckedArguments, ABC):
    """How the learning rate changes during a training.

    Arguments:
        warmup: the number of steps in which the learning rate grows linearly; 0 means no warm-up.
    """

    warmup: CountOrZero = 100  # enough for good second moments in Adam

    @abstractmethod
    def decay(self, n: int) -> float:
        """Return the factor after n optimiser steps, without the warm-up."""

    def __call__(self, n: int) -> float:
        """Return the factor after n optimiser steps."""
        return min(1.0, (n + 1) / max(self.warmup, 1)) * self.decay(n)


@dataclass(frozen=True)
class ConstantFactor(LearningRateFactor):
    """The learning rate stays constant after the warm-up."""

    def decay(self, n: int) -> float:
        return 1.0


@dataclass(frozen=True)
class CosineFactor(LearningRateFactor):
    """The learning rate falls along half a cosine: `decay = final + (1 - final) (1 + cos(pi n / steps)) / 2`.

    References:
        SGDR: stochastic gradient descent with warm restarts (Loshchilov and Hutter, 2017) | https://arxiv.org/abs/1608.03983

    Arguments:
        final: the learning rate at the end, as a fraction of the base rate.
        steps: the number of steps until `final` is reached.
    """

    final: Share = 0.0
    steps: Count = field(kw_only=True)

    def decay(self, n: int) -> float:
        u = min(n / self.steps, 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * u)) / 2
