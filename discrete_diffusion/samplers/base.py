"""What all samplers of the discrete engine share: the last step, and their exact law.

The chain ends at t_min, and the last step draws `x_0 ~ p(x_0 | x_tmin)`. Taking the most
probable value instead is an option; it is biased.

A sampler states its law beside its step: `law(x_t, t, s)` gives the probabilities with which
every dimension lands on every state. Dimensions are independent given x_t, so the oracle can
compose the exact law of a whole run from it, and a test holds the step to it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

import diffusion_core
from diffusion_core import Generator, State, TimeGrid
from discrete_diffusion.denoisers import Denoiser, Posterior
from discrete_diffusion.rates.checks import check_states

__all__ = ["Sampler", "Stage"]

Stage = Callable[[Tensor], Tensor]
"""One stage of a step: x (B, *event) -> probabilities of every dimension's next state (B, *event, n)."""


class Sampler(diffusion_core.Sampler[Posterior]):
    """Walks a denoiser of the discrete engine down a time grid.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit; the last step goes from grid.t_min to clean data.
        sub_batch: with seeds, how many chains the network sees at once.
        argmax: take the mode of p(x_0 | x_tmin) in the last step instead of a draw (biased).
    """

    denoiser: Denoiser

    def __init__(self, denoiser: Denoiser, grid: TimeGrid, *, sub_batch: int = 16, argmax: bool = False) -> None:
        super().__init__(denoiser, grid, sub_batch=sub_batch)
        self.argmax = argmax

    def start(self, n: int | Tensor, generator: Generator = None, seeds: Sequence[int] | None = None) -> State:
        """The state at t_max: n draws from the prior, or a given x (B, *event) of any integer dtype, as int64.

        Raises:
            ValueError: as in `diffusion_core.Sampler.start`, or x is not integer or leaves 0 .. n - 1.
        """
        state = super().start(n, generator, seeds)
        if isinstance(n, Tensor):
            check_states(n, self.denoiser.process.rates.num_states, "x_t")
        return replace(state, x=state.x.long())

    @abstractmethod
    def law(self, x_t: Tensor, t: Tensor, s: Tensor, **cond: Tensor) -> Tensor:
        """The probabilities of every dimension's state after a step t -> s: (B, *event) -> (B, *event, n).

        Of a step with several stages it is the first one's; `stages` has them all.
        """

    def stages(self, t: Tensor, s: Tensor, **cond: Tensor) -> list[Stage]:
        """The step t -> s as a list of stages, each a law given where the one before it ended."""
        return [lambda x: self.law(x, t, s, **cond)]

    def finish(self, state: State, **cond: Tensor) -> State:
        posterior, state = self.evaluate(state, state.t, **cond)
        x = posterior.mode() if self.argmax else posterior.sample(state.randomness)
        return replace(state, x=x, t=torch.zeros_like(state.t))

    def finish_law(self, x_t: Tensor, **cond: Tensor) -> Tensor:
        """The probabilities of every dimension's clean value: x_tmin (B, *event) -> (B, *event, S)."""
        posterior = self.denoiser(x_t, torch.tensor(self.grid.t_min, dtype=torch.float64, device=x_t.device), **cond)
        if not self.argmax:
            return posterior.probs
        probs = posterior.probs
        return torch.nn.functional.one_hot(posterior.mode(), probs.shape[-1]).to(probs.dtype)
