"""Inpainting: the dimensions that are known are put back after every step, whatever the engine.

    x_s ~ step(x_t, t -> s);   x_s[known] ~ q(x_s | x_0)[known];   at the end x_0[known] exactly

This is replacement. The denoiser sees known dimensions at their right noise level, but those of x_s are drawn without
regard to the unknown ones, so the two do not fit each other, and the law of the unknown dimensions is not
p(x_0 | known), not even in the limit of many steps. Resampling lets them come to terms: after a step t -> s the whole
of x_s is noised back to t by the forward process, and the step is done again, `resample` times in all. Each round pulls
the pair (known, unknown) towards its joint law at that noise level; the bias falls with the number of rounds, at
as many times the cost. How fast is measured in docs/guidance.md.

References:
    Score-based generative modeling through stochastic differential equations (Song et al., 2021) | https://arxiv.org/abs/2011.13456
    RePaint: inpainting using denoising diffusion probabilistic models (Lugmayr et al., 2022) | https://arxiv.org/abs/2201.09865
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffusion_core.randomness import Generator
from diffusion_core.ranges import Count, check_arguments
from diffusion_core.sampler import Sampler, State

__all__ = ["Inpainting"]


class Inpainting(Sampler[object]):
    """A sampler whose known dimensions follow given data.

    Arguments:
        sampler: the sampler whose steps are used, with its denoiser, grid and last step.
        x_0: clean data, (*event) for all chains or (B, *event) for B of them; read where known.
        known: which dimensions are known: bool, broadcastable to (*event) or (B, *event).
        resample: how often each step is done; network calls grow with it.

    Raises:
        ValueError: x_0 or known have a wrong shape, known is not bool.
    """

    def __init__(self, sampler: Sampler[object], x_0: Tensor, known: Tensor, resample: Count = 1) -> None:
        check_arguments(Inpainting, locals())
        super().__init__(sampler.denoiser, sampler.grid, sub_batch=sampler.sub_batch)
        event = sampler.denoiser.event_shape
        shape = ", ".join(map(str, event))
        if tuple(x_0.shape) != event and tuple(x_0.shape[1:]) != event:
            raise ValueError(f"x_0 has shape {tuple(x_0.shape)}, expected ({shape}) or (B, {shape})")
        if known.dtype != torch.bool:
            raise ValueError(f"known has dtype {known.dtype}, expected torch.bool")
        whole = x_0 if x_0.ndim > len(event) else x_0[None]
        try:
            whole, known = torch.broadcast_tensors(whole, known.to(x_0.device))
        except RuntimeError:
            raise ValueError(f"known has shape {tuple(known.shape)}, expected ({shape}) or (B, {shape})") from None
        if tuple(whole.shape[1:]) != event:
            raise ValueError(f"known has shape {tuple(known.shape)}, expected ({shape}) or (B, {shape})")
        self.sampler = sampler
        self.x_0 = torch.where(known, whole, torch.zeros_like(whole))  # what is not known may be anything, even no data
        self.known = known
        self.resample = resample

    def start(self, n: int | Tensor, generator: Generator = None, seeds: Sequence[int] | None = None) -> State:
        """The wrapped sampler's state at t_max, its known dimensions drawn from q(x_t | x_0).

        Raises:
            ValueError: besides what a sampler refuses, data of B chains for another number of them.
        """
        state = self.sampler.start(n, generator, seeds)
        batch = len(state.x)
        if len(self.x_0) not in (1, batch):
            raise ValueError(f"x_0 has {len(self.x_0)} examples for {batch} chains, expected 1 or {batch}")
        x_0, known = (kept.to(state.x.device).expand_as(state.x) for kept in (self.x_0, self.known))
        # Precisions may differ; integers for reals, or reals for integers, are refused by the process.
        alike = x_0.is_floating_point() == state.x.is_floating_point()
        return self._replaced(state, x_0.to(state.x.dtype) if alike else x_0, known)

    def _replaced(self, state: State, x_0: Tensor, known: Tensor) -> State:
        """A state of the wrapped sampler with the known dimensions redrawn, and the data remembered with it."""
        drawn = self.denoiser.process.sample(x_0, state.t, state.randomness)
        return replace(state, x=torch.where(known, drawn, state.x), memory=(x_0, known, *state.memory))

    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        """The wrapped step, replacement, and as many rounds of it as asked for."""
        x_0, known, *memory = state.memory
        inner = replace(state, memory=tuple(memory))
        for rounds_left in range(self.resample - 1, -1, -1):
            landed = self._replaced(self.sampler.step(inner, t, s, **cond), x_0, known)
            if rounds_left:
                again = self.denoiser.process.renoise(landed.x, s, t, landed.randomness)
                # What the wrapped sampler remembered of the way to t is as true of the next round.
                inner = replace(landed, x=again, t=t, memory=tuple(memory))
        return landed

    def finish(self, state: State, **cond: Tensor) -> State:
        """The wrapped sampler's last step; the known dimensions are those of x_0, exactly."""
        x_0, known, *memory = state.memory
        last = self.sampler.finish(replace(state, memory=tuple(memory)), **cond)
        return replace(last, x=torch.where(known, x_0, last.x), memory=(x_0, known, *last.memory))
