"""A schedule of the discrete engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from diffusion_core.ranges import Positive, Range
from discrete_diffusion import Schedule

__all__ = ["MonomialSchedule"]


@dataclass(frozen=True)
class MonomialSchedule(Schedule):
    """`tau = last t^power`.

    Arguments:
        last: tau at t = 1.
        power: how late noise arrives.
    """

    last: Positive = 4.0
    power: Annotated[float, Range(least=1, most=9)] = 2.0

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.last * self.power * t ** (self.power - 1), self.last * t**self.power
