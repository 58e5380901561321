"""A sampler of the discrete engine."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from torch import Tensor

from diffusion_core import State, TimeGrid
from diffusion_core.ranges import Count, Range, check_arguments
from discrete_diffusion.denoisers import Denoiser, Posterior
from discrete_diffusion.samplers import Euler
from discrete_diffusion.samplers.base import Stage

__all__ = ["DividedEuler"]


class DividedEuler(Euler):
    """Euler's method with every step of the grid divided in equal parts.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit.
        parts: how many parts a step has.
        sub_batch: with seeds, how many chains the network sees at once.
        argmax: take the mode in the last step instead of a draw.
    """

    def __init__(
        self,
        denoiser: Denoiser[Posterior],
        grid: TimeGrid,
        *,
        parts: Annotated[int, Range(least=1, most=8)] = 2,
        sub_batch: Count = 16,
        argmax: bool = False,
    ) -> None:
        check_arguments(DividedEuler, locals())
        super().__init__(denoiser, grid, sub_batch=sub_batch, argmax=argmax)
        self.parts = parts

    def _times(self, t: Tensor, s: Tensor) -> list[Tensor]:
        return [t + (s - t) * i / self.parts for i in range(self.parts)] + [s]

    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        for before, after in pairwise(self._times(t, s)):
            state = super().step(state, before, after, **cond)
        return state

    def stages(self, t: Tensor, s: Tensor, **cond: Tensor) -> list[Stage]:
        def stage(before: Tensor, after: Tensor) -> Stage:
            return lambda x: self.law(x, before, after, **cond)

        return [stage(before, after) for before, after in pairwise(self._times(t, s))]
