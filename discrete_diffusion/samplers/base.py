"""The base class of samplers of the discrete engine: the last step, and the exact law of a step.

At t_min, the last step draws `x_0 ~ p(x_0 | x_tmin)`. With `argmax`, it takes the most probable value instead. The samples
are then biased. A score model has no p(x_0 | x_tmin). Its last step is an Euler step from t_min to 0 with the rates at
t_min. In this step, a masked dimension jumps with probability 1.

A law is a probability distribution. Each sampler defines the step and also its exact law. `law(x_t, t, s)` returns the
probabilities of all states of each dimension after the step. Given x_t, a step draws the dimensions independently. So
`EnumeratedCTMC.sampler_law` can combine the laws of all steps to the exact law of the samples, and tests compare the random
steps with their laws.
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
"""The law of one stage of a step: x (B, *event) -> the probabilities of the n states of each dimension (B, *event, n)."""


class Sampler(diffusion_core.Sampler[P]):
    """The base class of samplers of the discrete engine.

    The section `Proven:` in the docstring of a sampler lists properties that tests compare with exact results.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times to visit. The last step goes from grid.t_min to clean data.
        sub_batch: the number of samples in one network call if `sample` gets seeds. Without seeds, all samples share
            one call.
        argmax: whether the last step takes the most probable x_0 given x_tmin instead of a draw. The samples are then biased.

    Raises:
        ValueError: argmax is True and the denoiser is a score model.
    """

    denoiser: Denoiser[P]

    steps_by_rates: ClassVar[bool] = False
    """Whether a step from t to s needs the reverse rates at t. They can be infinite if alpha(t) = 0, and very large with the
    x0 parameterisation. So the command starts such a sampler later, and gives its denoiser an evidence floor by default."""

    def __init__(self, denoiser: Denoiser[P], grid: TimeGrid, *, sub_batch: Count = 16, argmax: bool = False) -> None:
        super().__init__(denoiser, grid, sub_batch=sub_batch)
        if argmax:
            check_x0(denoiser, "argmax")
        self.argmax = argmax

    def start(self, n: int | Tensor, generator: Generator = None, seeds: Sequence[int] | None = None) -> State:
        """Return the state at t_max. Its x is int64: n draws from the prior, or a given x (B, *event) of any integer dtype.

        Raises:
            ValueError: see `diffusion_core.Sampler.start`.
            ValueError: a given x does not have an integer dtype, or has values that are not states.
        """
        state = super().start(n, generator, seeds)
        if isinstance(n, Tensor):
            check_states(n, self.denoiser.process.rates.num_states, "x_t")
        return replace(state, x=state.x.long())

    @abstractmethod
    def law(self, x_t: Tensor, t: Tensor, s: Tensor, **cond: Tensor) -> Tensor:
        """Return the law of a step t -> s: the probabilities of the n states of each dimension.

        If a step has several stages, this is the law of the first stage. `stages` returns the laws of all stages.

        Arguments:
            x_t: the states before the step (B, *event).
            t: the time before the step, ().
            s: the time after the step, ().
            cond: the conditions of the network.

        Returns:
            the probabilities (B, *event, n).
        """

    def stages(self, t: Tensor, s: Tensor, **cond: Tensor) -> list[Stage]:
        """Return the laws of all stages of a step t -> s, in order. Each is a function of the state before its stage."""
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
        """Return the law of the last step: x_tmin (B, *event) -> probabilities of the S clean values (B, *event, S)."""
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
