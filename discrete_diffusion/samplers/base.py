"""What all samplers of the discrete engine share: the last step, and their exact law.

The chain ends at t_min, and the last step draws `x_0 ~ p(x_0 | x_tmin)`. Taking the most
probable value instead is an option; it is biased. A score model has no p(x_0 | x_tmin). Its last step is an Euler step
from t_min to 0 with the rates at t_min, and with a mask what is masked surely jumps.

A sampler states its law beside its step: `law(x_t, t, s)` gives the probabilities with which
every dimension lands on every state. Dimensions are independent given x_t, so the oracle can
compose the exact law of a whole run from it, and a test holds the step to it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

import diffusion_core
from diffusion_core import Generator, State, TimeGrid
from diffusion_core.distributions import inverse_cdf
from diffusion_core.ranges import Count
from discrete_diffusion.denoisers.base import Denoiser, P, Posterior, X0Posterior, check_x0
from discrete_diffusion.rates.checks import check_states
from discrete_diffusion.samplers.leaps import BernoulliLeap

__all__ = ["Sampler", "Stage"]

Stage = Callable[[Tensor], Tensor]
"""One stage of a step: x (B, *event) -> probabilities of every dimension's next state (B, *event, n)."""


class Sampler(diffusion_core.Sampler[P]):
    """Walks a denoiser of the discrete engine down a time grid.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit; the last step goes from grid.t_min to clean data.
        sub_batch: with seeds, how many chains the network sees at once.
        argmax: take the mode of p(x_0 | x_tmin) in the last step instead of a draw (biased).

    Raises:
        ValueError: argmax with a score model.
    """

    denoiser: Denoiser[P]

    steps_by_rates: ClassVar[bool] = False
    """Whether a step needs the reverse rates at the time it begins at, which are infinite where nothing is left of the data."""

    def __init__(self, denoiser: Denoiser[P], grid: TimeGrid, *, sub_batch: Count = 16, argmax: bool = False) -> None:
        super().__init__(denoiser, grid, sub_batch=sub_batch)
        if argmax:
            check_x0(denoiser, "argmax")
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
        if isinstance(posterior, X0Posterior):
            x = posterior.mode() if self.argmax else posterior.sample(state.randomness)
        else:
            u = state.randomness.uniform(state.x.shape, torch.float64, state.x.device)
            x = inverse_cdf(self._last_leap(posterior), u)
        return replace(state, x=x, t=torch.zeros_like(state.t))

    def finish_law(self, x_t: Tensor, **cond: Tensor) -> Tensor:
        """The probabilities of every dimension's clean value: x_tmin (B, *event) -> (B, *event, S)."""
        posterior = self.denoiser(x_t, torch.tensor(self.grid.t_min, dtype=torch.float64, device=x_t.device), **cond)
        if not isinstance(posterior, X0Posterior):
            return self._last_leap(posterior)
        probs = posterior.probs
        return torch.nn.functional.one_hot(posterior.mode(), probs.shape[-1]).to(probs.dtype) if self.argmax else probs

    def _last_leap(self, posterior: Posterior) -> Tensor:
        """The law of an Euler step from the posterior's time to 0, in which what is masked surely jumps: (B, *event, S)."""
        values, jumps = self.denoiser.process.rates.data_states, posterior.jumps()
        h = torch.where(jumps.x < values, posterior.t, torch.inf)
        return BernoulliLeap().law(jumps, h[..., None])[..., :values]
