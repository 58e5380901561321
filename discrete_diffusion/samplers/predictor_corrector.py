"""Predictor-corrector: after a step to time s, leaps that leave the marginal q_s in place.

The generator `R_s + Rhat_s`, forward and reverse jumps at once, has q_s as its stationary
law. A leap of it keeps q_s to second order in its length and moves a sample that has strayed
back towards it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_core import State
from diffusion_core.checks import check_positive
from discrete_diffusion.denoisers import Posterior
from discrete_diffusion.jumps import ForwardJumps, Jumps, SumJumps
from discrete_diffusion.samplers.base import Sampler, Stage
from discrete_diffusion.samplers.leaps import CategoricalLeap, Leap
from discrete_diffusion.samplers.tau_leaping import landed

__all__ = ["PredictorCorrector"]


class PredictorCorrector(Sampler[Posterior]):
    """A predictor's step t -> s, then leaps of length `m h` with the rates `R_s + Rhat_s`.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987

    Arguments:
        predictor: the sampler whose steps are corrected; its denoiser, grid and last step are used.
        leap: what several jumps of one dimension mean in a corrector leap.
        corrector_steps: how many leaps follow each step, each one network call.
        step_multiplier: m, the length of a leap in units of the predictor's step h = t - s. Forward and reverse jumps
            happen at once, so a leap needs to be shorter than a step.
        entry_time: corrector leaps happen only where s <= entry_time.

    Raises:
        ValueError: corrector_steps < 0, step_multiplier <= 0, entry_time outside [0, 1], or an
            ordinal leap on a process with a mask.
    """

    def __init__(
        self,
        predictor: Sampler[Posterior],
        *,
        leap: Leap | None = None,
        corrector_steps: int = 1,
        step_multiplier: float = 0.25,
        entry_time: float = 1.0,
    ) -> None:
        super().__init__(predictor.denoiser, predictor.grid, sub_batch=predictor.sub_batch, argmax=predictor.argmax)
        if corrector_steps < 0:
            raise ValueError(f"corrector_steps = {corrector_steps}, expected at least 0")
        check_positive("step_multiplier", step_multiplier)
        if not 0 <= entry_time <= 1:
            raise ValueError(f"entry_time = {entry_time}, expected a time in [0, 1]")
        self.predictor = predictor
        self.leap = CategoricalLeap() if leap is None else leap
        self.leap.check(predictor.denoiser.process.rates)
        self.corrector_steps = corrector_steps
        self.step_multiplier = step_multiplier
        self.entry_time = entry_time

    def _corrections(self, s: float) -> int:
        return self.corrector_steps if s <= self.entry_time else 0

    def _jumps(self, s: float, reverse: Jumps) -> Jumps:
        time = torch.tensor(s, dtype=torch.float64, device=reverse.x.device)
        return SumJumps(reverse, ForwardJumps(self.denoiser.process, reverse.x, time, reverse.total.dtype))

    def step(self, state: State, t: float, s: float, **cond: Tensor) -> State:
        state = self.predictor.step(state, t, s, **cond)
        for _ in range(self._corrections(s)):
            posterior, state = self.evaluate(state, s, **cond)
            jumps = self._jumps(s, posterior.jumps())
            state = landed(state, self.leap.draw(jumps, self.step_multiplier * (t - s), state.randomness), s)
        return state

    def correction_law(self, x_s: Tensor, s: float, h: float, **cond: Tensor) -> Tensor:
        """The law of one corrector leap of length h at time s: (B, *event) -> (B, *event, n)."""
        return self.leap.law(self._jumps(s, self.posterior(x_s, s, **cond).jumps()), h)

    def law(self, x_t: Tensor, t: float, s: float, **cond: Tensor) -> Tensor:
        """The predictor's law; the whole step is `stages`."""
        return self.predictor.law(x_t, t, s, **cond)

    def stages(self, t: float, s: float, **cond: Tensor) -> list[Stage]:
        h = self.step_multiplier * (t - s)
        return [*self.predictor.stages(t, s, **cond), *[lambda x: self.correction_law(x, s, h, **cond)] * self._corrections(s)]
