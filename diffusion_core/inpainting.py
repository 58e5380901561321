"""Inpainting by replacement: the known dimensions are drawn again from the given data after every step, in both engines.

    x_s ~ step(x_t, t -> s);   x_s[known] ~ q(x_s | x_0)[known];   at the end x_0[known] exactly

With replacement, the denoiser gets known dimensions with the right noise level. But the known dimensions of x_s are
drawn independently of the unknown ones, so the two parts may not be consistent. The samples therefore do not follow
p(x_0 | known), even in the limit of many steps.

Resampling reduces this bias. After a step t -> s, the forward process adds noise to all dimensions of x_s up to time t.
Then the step is repeated. Each step is done `resample` times in total. Each round moves the distribution of (known,
unknown) closer to the joint distribution at that noise level. The cost is proportional to the number of rounds.
docs/guidance.md measures how fast the bias decreases.

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
    """Inpainting with a model that was not trained for it: samples that equal given data in the known dimensions.

    The method is replacement with resampling (RePaint).

    Arguments:
        sampler: the sampler to use, with its denoiser, grid and last step.
        x_0: clean data, (*event) for all samples or (B, *event) for B samples; only known dimensions are used.
        known: which dimensions are known, bool. It must be broadcastable to (*event) or (B, *event).
        resample: how many times each step is done; the number of network calls is proportional to it.

    Raises:
        ValueError: x_0 or known has a wrong shape, or known is not bool.
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
        # Unknown dimensions of x_0 may hold any number, even NaN or an invalid state.
        self.x_0 = torch.where(known, whole, torch.zeros_like(whole))
        self.known = known
        self.resample = resample

    def start(self, n: int | Tensor, generator: Generator = None, seeds: Sequence[int] | None = None) -> State:
        """Return the state of the wrapped sampler at t_max, with the known dimensions drawn from q(x_t | x_0).

        Raises:
            ValueError: `Sampler.start` raises it, or x_0 has B examples and the number of samples is not B.
        """
        state = self.sampler.start(n, generator, seeds)
        batch = len(state.x)
        if len(self.x_0) not in (1, batch):
            raise ValueError(f"x_0 has {len(self.x_0)} examples for {batch} samples, expected 1 or {batch}")
        x_0, known = (kept.to(state.x.device).expand_as(state.x) for kept in (self.x_0, self.known))
        # x_0 may have another precision than x. If one is integer and the other floating, the process raises an error.
        alike = x_0.is_floating_point() == state.x.is_floating_point()
        return self._replaced(state, x_0.to(state.x.dtype) if alike else x_0, known)

    def _replaced(self, state: State, x_0: Tensor, known: Tensor) -> State:
        """Draw the known dimensions of a state again at its time. Put x_0 and known in front of its memory."""
        drawn = self.denoiser.process.sample(x_0, state.t, state.randomness)
        return replace(state, x=torch.where(known, drawn, state.x), memory=(x_0, known, *state.memory))

    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        """Do the step of the wrapped sampler and replace the known dimensions, `resample` times."""
        x_0, known, *memory = state.memory
        inner = replace(state, memory=tuple(memory))
        for rounds_left in range(self.resample - 1, -1, -1):
            landed = self._replaced(self.sampler.step(inner, t, s, **cond), x_0, known)
            if rounds_left:
                again = self.denoiser.process.renoise(landed.x, s, t, landed.randomness)
                # The memory of the wrapped sampler is about earlier times, so it is also valid for the next round.
                inner = replace(landed, x=again, t=t, memory=tuple(memory))
        return landed

    def finish(self, state: State, **cond: Tensor) -> State:
        """Do the last step of the wrapped sampler, and set the known dimensions to exactly those of x_0."""
        x_0, known, *memory = state.memory
        last = self.sampler.finish(replace(state, memory=tuple(memory)), **cond)
        return replace(last, x=torch.where(known, x_0, last.x), memory=(x_0, known, *last.memory))
