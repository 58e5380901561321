"""Predictor-corrector sampling: steps of a sampler, with corrector moves after each step.

After a step to time s, the moves bring the distribution of the samples closer to the marginal q_s.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffusion_core import Generator, State
from diffusion_core.ranges import CountOrZero, Positive, Share, check_arguments
from diffusion_core.values import NOTHING, ends
from discrete_diffusion.denoisers import Posterior
from discrete_diffusion.samplers.base import Sampler, Stage
from discrete_diffusion.samplers.correctors.base import Corrector

__all__ = ["PredictorCorrector"]


class PredictorCorrector(Sampler[Posterior]):
    """Predictor-corrector sampling: a step t -> s of another sampler, then corrector moves at time s.

    The other sampler is the predictor. The corrector moves bring the distribution of the samples closer to the marginal
    q_s. A move has the length m h, where h = t - s.

    References:
        Score-based generative modeling through stochastic differential equations (Song et al., 2021) | https://arxiv.org/abs/2011.13456
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987

    Arguments:
        predictor: the sampler whose steps are corrected; its denoiser, grid and last step are used.
        corrector: the corrector that moves the sample after each step.
        corrector_steps: the number of corrector moves after each step.
        step_multiplier: m, the length of a move in units of the predictor's step h = t - s. A move makes forward and
            reverse jumps, about twice as many as a step of the same length. So it should be shorter than a step: choose
            m < 1.
        entry_time: the largest time s at which corrector moves are made. If `entry_time` is below 1, each step reads the
            value of s. On an accelerator, the program then waits until the accelerator has finished its work.
    """

    def __init__(
        self,
        predictor: Sampler[Posterior],
        corrector: Corrector,
        *,
        corrector_steps: CountOrZero = 1,
        step_multiplier: Positive = 0.25,
        entry_time: Share = 1.0,
    ) -> None:
        check_arguments(PredictorCorrector, locals())
        super().__init__(predictor.denoiser, predictor.grid, sub_batch=predictor.sub_batch, argmax=predictor.argmax)
        self.predictor = predictor
        self.corrector = corrector
        self.corrector_steps = corrector_steps
        self.step_multiplier = step_multiplier
        self.entry_time = entry_time

    def _corrections(self, s: Tensor) -> int:
        # The number of moves depends on the value of s, so s is read. If s cannot be read, all moves are made.
        entered = self.entry_time == 1 or ends(s.cpu(), NOTHING)[1] <= self.entry_time
        return self.corrector_steps if entered else 0

    def start(self, n: int | Tensor, generator: Generator = None, seeds: Sequence[int] | None = None) -> State:
        return self.predictor.start(n, generator, seeds)

    def finish(self, state: State, **cond: Tensor) -> State:
        return self.predictor.finish(state, **cond)

    def finish_law(self, x_t: Tensor, **cond: Tensor) -> Tensor:
        return self.predictor.finish_law(x_t, **cond)

    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        state = self.predictor.step(state, t, s, **cond)
        for _ in range(self._corrections(s)):
            state = self.corrector.step(state, s, self.step_multiplier * (t - s), **cond)
        return state

    def law(self, x_t: Tensor, t: Tensor, s: Tensor, **cond: Tensor) -> Tensor:
        """Return the law of the predictor's step: (B, *event, n). `stages` also contains the laws of the corrector moves."""
        return self.predictor.law(x_t, t, s, **cond)

    def stages(self, t: Tensor, s: Tensor, **cond: Tensor) -> list[Stage]:
        h = self.step_multiplier * (t - s)
        corrections: list[Stage] = [lambda x: self.corrector.law(x, s, h, **cond)] * self._corrections(s)
        return [*self.predictor.stages(t, s, **cond), *corrections]
