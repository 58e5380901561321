"""The forward and the reverse process at once: a leap with the rates `R_s + Rhat_s`."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from diffusion_core import State
from diffusion_core.sampler import evaluate
from discrete_diffusion.denoisers import Denoiser, Posterior
from discrete_diffusion.jumps import ForwardJumps, Jumps, SumJumps
from discrete_diffusion.samplers.correctors.base import Corrector
from discrete_diffusion.samplers.leaps import Leap, usual_leap

__all__ = ["ForwardBackward"]


class ForwardBackward(Corrector):
    """Noises and denoises at once: a leap of length h with the rates `R_s + Rhat_s`, one evaluation of the denoiser.

    Invariant: with the exact denoiser q_s is the stationary law of the generator `R_s + Rhat_s`, so a leap keeps q_s up to
    second order in h.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987

    Arguments:
        denoiser: the denoiser whose marginal is kept; its process is that of the sampler it corrects.
        leap: what several jumps of one dimension mean: `OrdinalLeap` (they add up) or `CategoricalLeap` (they are rejected).
            None is `OrdinalLeap` where the rates are `ordered`, `CategoricalLeap` elsewhere.

    Raises:
        ValueError: an ordinal leap on a process with a mask.
    """

    def __init__(self, denoiser: Denoiser[Posterior], *, leap: Leap | None = None) -> None:
        super().__init__(denoiser)
        self.leap = usual_leap(denoiser.process.rates) if leap is None else leap
        self.leap.check(denoiser.process.rates)

    def _jumps(self, posterior: Posterior, s: Tensor) -> Jumps:
        reverse = posterior.jumps()
        return SumJumps(reverse, ForwardJumps(self.denoiser.process, reverse.x, s, reverse.total.dtype))

    def step(self, state: State, s: Tensor, h: Tensor, **cond: Tensor) -> State:
        posterior, state = evaluate(self.denoiser, state, s, **cond)
        x, counts = self.leap.draw(self._jumps(posterior, s), h, state.randomness)
        return replace(state, x=x).counted(**counts)

    def law(self, x_s: Tensor, s: Tensor, h: Tensor, **cond: Tensor) -> Tensor:
        return self.leap.law(self._jumps(self.denoiser(x_s, s, **cond), s), h)
