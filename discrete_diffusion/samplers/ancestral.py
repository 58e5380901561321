"""Ancestral steps: draw clean data, then the noisy data between it and where the chain stands."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from diffusion_core import State, TimeGrid
from diffusion_core.ranges import Count
from discrete_diffusion.denoisers.base import Denoiser, X0Posterior, check_x0
from discrete_diffusion.samplers.base import Sampler

__all__ = ["Ancestral"]


class Ancestral(Sampler[X0Posterior]):
    """Draws each step from the law of x_s that the prediction of x_0 implies, `x_s ~ sum_{x_0} p(x_0 | x_t) q(x_s | x_t,
    x_0)`, in every dimension at once.

    With the exact posterior this is the exact law of each dimension of x_s given x_t, for a
    step of any length; what it loses is the dependence between dimensions, at first order in h. Needs no rates,
    so it works at times where they are infinite or astronomical. `x_0 ~ p(x_0 | x_t)` is drawn first and x_s then
    from one row of the bridge, so that no matrix product is needed.

    References:
        Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021) | https://arxiv.org/abs/2107.03006

    Arguments:
        denoiser: a denoiser that gives p(x_0 | x_t).
        grid: the times to visit; the last step goes from grid.t_min to clean data.
        sub_batch: with seeds, how many chains the network sees at once.
        argmax: take the mode of p(x_0 | x_tmin) in the last step instead of a draw (biased).

    Raises:
        ValueError: a score model.
    """

    def __init__(self, denoiser: Denoiser[X0Posterior], grid: TimeGrid, *, sub_batch: Count = 16, argmax: bool = False) -> None:
        super().__init__(denoiser, grid, sub_batch=sub_batch, argmax=argmax)
        check_x0(denoiser, "Ancestral")

    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        posterior, state = self.evaluate(state, t, **cond)
        x_0 = posterior.sample(state.randomness)
        return replace(state, x=self.denoiser.process.bridge(x_0, state.x, s, t, state.randomness), t=s)

    def law(self, x_t: Tensor, t: Tensor, s: Tensor, **cond: Tensor) -> Tensor:
        probs = self.denoiser(x_t, t, **cond).probs
        law = self.denoiser.process.bridge_law(x_t, s, t)  # (B, *event, S, n)
        return (probs[..., None].to(law.dtype) * law).sum(-2)
