"""Euler steps: at most one jump a dimension, with probability h Lambda."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffusion_core import State, readable
from discrete_diffusion.denoisers import Posterior
from discrete_diffusion.jumps import one_jump_law
from discrete_diffusion.samplers.base import Sampler
from discrete_diffusion.samplers.leaps import check_rates

__all__ = ["Euler"]


class Euler(Sampler[Posterior]):
    """`P(x_s = y) = h Rhat_t(x_t, y)` for y != x_t; the dimension stays with the rest.

    Where `h Lambda > 1` the probabilities are scaled to sum to one: the dimension surely jumps, and is counted as clamped.
    First order in h. (The variant that stays with probability exp(-h Lambda) is another sampler.)

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    """

    def step(self, state: State, t: float, s: float, **cond: Tensor) -> State:
        posterior, state = self.evaluate(state, t, **cond)
        jumps = posterior.jumps()
        x = state.x
        leaves = (t - s) * check_rates(jumps).flatten()
        u = state.randomness.uniform((*x.shape, 4), torch.float64, x.device).flatten(0, -2)
        jumped = u[:, 0] < leaves
        if readable(x):
            positions = jumped.nonzero()[:, 0]
            moved = x.flatten().clone()
            moved[positions] = jumps.draw(positions, u[positions, 1:])
        else:
            everywhere = torch.arange(x.numel(), device=x.device)
            moved = torch.where(jumped, jumps.draw(everywhere, u[:, 1:]), x.flatten())
        cut = (leaves > 1).reshape(x.shape).flatten(1).sum(-1)
        return replace(state, x=moved.reshape(x.shape), t=s, clamped=state.clamped + cut)

    def law(self, x_t: Tensor, t: float, s: float, **cond: Tensor) -> Tensor:
        jumps = self.posterior(x_t, t, **cond).jumps()
        check_rates(jumps)
        return one_jump_law(jumps, t - s)
