"""A grid of times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from diffusion_core import ShapedGrid
from diffusion_core.ranges import Range

__all__ = ["PowerGrid"]


@dataclass(frozen=True)
class PowerGrid(ShapedGrid):
    """Steps that shrink towards the data: `(1 - u)^power`.

    Arguments:
        power: how much they shrink; 1 is a uniform grid.
    """

    power: Annotated[float, Range(least=1, most=9)] = 3.0

    def shape(self, u: float) -> float:
        return (1 - u) ** self.power
