"""A loss of the discrete engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from diffusion_core import Sample
from diffusion_core.ranges import Range
from discrete_diffusion import CrossEntropy, X0Posterior

__all__ = ["SoftenedLoss"]


@dataclass(frozen=True)
class SoftenedLoss(CrossEntropy):
    """The cross-entropy times a share.

    Arguments:
        share: the share.
    """

    share: Annotated[float, Range(above=0, most=1)] = 0.5

    def evaluate(self, posterior: X0Posterior, sample: Sample) -> Tensor:
        return self.share * super().evaluate(posterior, sample)
