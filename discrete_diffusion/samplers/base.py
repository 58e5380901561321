"""The base class of samplers of the discrete engine: the last step, and the exact law of a step.

The chain ends at t_min. The last step draws `x_0 ~ p(x_0 | x_tmin)`. With `argmax`, it takes the most probable value
instead, which is biased. A score model has no p(x_0 | x_tmin). Its last step is an Euler step from t_min to 0 with the
rates at t_min. In this step, a masked dimension jumps with probability 1.

Each sampler defines the step and also its exact law. `law(x_t, t, s)` returns the probabilities of all states of each
dimension after the step. Dimensions are independent given x_t. So the oracle can compute the exact law of a whole run,
and tests compare the step with its law.
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
from discrete_diffusion.jumps import still
from discrete_diffusion.rates.checks import check_states
from discrete_diffusion.samplers.leaps import BernoulliLeap

__all__ = ["Sampler", "Stage"]

Stage = Callable[[Tensor], Tensor]
"""The law of one stage of a step: x (B, *event) -> probabilities of every dimension's next state (B, *event, n)."""


class Sampler(diffusion_core.Sampler[P]):
    """The base class of samplers of the discrete engine.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit; the last step goes from grid.t_min to clean data.
        sub_batch: the number of chains in one network call when `sample` gets seeds; without seeds all chains share one call.
        argmax: whether the last step takes the mode of p(x_0 | x_tmin) instead of a draw. This is biased.

    Raises:
        ValueError: argmax is True and the denoiser is a score model.
    """

    denoiser: Denoiser[P]

    steps_by_rates: ClassVar[bool] = False
    """Whether a step needs the reverse rates at its first time. They are infinite at a time with alpha(t) = 0."""

    def __init__(self, denoiser: Denoiser[P], grid: TimeGrid, *, sub_batch: Count = 16, argmax: bool = False) -> None:
        super().__init__(denoiser, grid, sub_batch=sub_batch)
        if argmax:
            check_x0(denoiser, "argmax")
        self.argmax = argmax

    def start(self, n: int | Tensor, generator: Generator = None, seeds: Sequence[int] | None = None) -> State:
        """Return the state at t_max: n draws from the prior, or a given x (B, *event) of any integer dtype, as int64.

        Raises:
            ValueError: as in `diffusion_core.Sampler.start`, or x is not integer or has values that are not states.
        """
        state = super().start(n, generator, seeds)
        if isinstance(n, Tensor):
            check_states(n, self.denoiser.process.rates.num_states, "x_t")
        return replace(state, x=state.x.long())

    @abstractmethod
    def law(self, x_t: Tensor, t: Tensor, s: Tensor, **cond: Tensor) -> Tensor:
        """Return the probabilities of every dimension's state after a step t -> s: (B, *event) -> (B, *event, n).

        If a step has several stages, this is the law of the first stage. `stages` returns all of them.
        """

    def stages(self, t: Tensor, s: Tensor, **cond: Tensor) -> list[Stage]:
        """Return the step t -> s as a list of stages. Each stage is a law given the state after the stage before."""
        return [lambda x: self.law(x, t, s, **cond)]

    def finish(self, state: State, **cond: Tensor) -> State:
        posterior, state = self.evaluate(state, state.t, **cond)
        if isinstance(posterior, X0Posterior):
            x = posterior.mode() if self.argmax else posterior.sample(state.randomness)
        else:
            u = state.randomness.uniform(state.x.shape, torch.float64, state.x.device)
            x = inverse_cdf(self._last_leap(posterior, cond.get("known")), u)
        return replace(state, x=x, t=torch.zeros_like(state.t))

    def finish_law(self, x_t: Tensor, **cond: Tensor) -> Tensor:
        """Return the probabilities of every dimension's clean value: x_tmin (B, *event) -> (B, *event, S)."""
        posterior = self.denoiser(x_t, torch.tensor(self.grid.t_min, dtype=torch.float64, device=x_t.device), **cond)
        if not isinstance(posterior, X0Posterior):
            return self._last_leap(posterior, cond.get("known"))
        probs = posterior.probs
        return torch.nn.functional.one_hot(posterior.mode(), probs.shape[-1]).to(probs.dtype) if self.argmax else probs

    def _last_leap(self, posterior: Posterior, known: Tensor | None) -> Tensor:
        """Return the law of an Euler step from the posterior's time to 0: (B, *event, S).

        A masked dimension jumps with probability 1.
        """
        values, jumps = self.denoiser.process.rates.data_states, still(posterior.jumps(), known)
        h = torch.where(jumps.x < values, posterior.t, torch.inf)
        return BernoulliLeap().law(jumps, h[..., None])[..., :values]
