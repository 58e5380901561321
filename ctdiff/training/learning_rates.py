"""Learning-rate schedules as factors of the base rate, for torch's `LambdaLR`.

    factor(n) = min(1, (n + 1) / warmup) * decay(n / steps)

after n optimiser steps: a linear warm-up, so that Adam's second moments are known before large
steps are taken, times a decay that ends at `final`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["ConstantFactor", "CosineFactor", "parameter_groups"]


@dataclass(frozen=True)
class ConstantFactor:
    """No decay: `decay = 1`.

    Arguments:
        warmup: the number of warm-up steps; 0 is none.
    """

    warmup: int = 0

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"warmup = {self.warmup}, expected at least 0")

    def __call__(self, n: int) -> float:
        """The factor after n optimiser steps."""
        return min(1.0, (n + 1) / max(self.warmup, 1))


@dataclass(frozen=True)
class CosineFactor(ConstantFactor):
    """Half a cosine: `decay(u) = final + (1 - final) (1 + cos(pi u)) / 2`.

    References:
        SGDR: stochastic gradient descent with warm restarts (Loshchilov and Hutter, 2017) | https://arxiv.org/abs/1608.03983

    Arguments:
        steps: the number of steps until `final` is reached.
        final: the factor at the end, in [0, 1].
    """

    steps: int = 1
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}, expected at least 1")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final = {self.final}, expected a number in [0, 1]")

    def __call__(self, n: int) -> float:
        """The factor after n optimiser steps."""
        u = min(n / self.steps, 1.0)
        return super().__call__(n) * (self.final + (1 - self.final) * (1 + math.cos(math.pi * u)) / 2)


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels only: gains and biases set scales that must not shrink to zero."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim >= 2 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
