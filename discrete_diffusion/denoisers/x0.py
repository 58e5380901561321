"""The x0 parameterisation: the network's logits are `log p(x_0 | x_t)`.

This parameterisation is simple, and with the truncated-logistic head its cost is O(1) per pixel. But the posterior ratio
divides the network's probability of x_0 by P[x_0, x], the probability of the noisy value x given x_0. If the network gives
a positive probability to an x_0 from which x is very improbable, the reverse rate is extremely large at small t. An
evidence floor keeps this denominator from being too small. The evidence of x_0 is P[x_0, x].

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from diffusion_core import Generator, as_randomness, readable
from diffusion_core.distributions import Categorical, Distribution
from diffusion_core.lazy import lazy_property
from diffusion_core.ranges import Share, check_arguments
from discrete_diffusion.denoisers.base import Denoiser, X0Posterior
from discrete_diffusion.denoisers.leave_one_out import LeaveOneOutPosterior
from discrete_diffusion.jumps import Jumps, ReverseJumps
from discrete_diffusion.process import CTMC

__all__ = ["X0Denoiser"]


class _X0Posterior(X0Posterior):
    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor, distribution: Distribution) -> None:
        super().__init__(process, x_t, t)
        self._distribution = distribution

    @property
    def distribution(self) -> Distribution:
        return self._distribution

    @property
    def ratio(self) -> Tensor:
        dtype = self.rate_dtype(scores := self._distribution.scores)
        return self.process.posterior_ratio(scores.to(dtype).softmax(-1), self.x_t, self.t, dtype)

    def jumps(self) -> Jumps:
        dtype = self.rate_dtype(self.probs)
        evidence = self.process.kernel(self.t, dtype).columns(self.x_t)
        # Probability of an x_0 that cannot have reached x_t contributes nothing.
        scores = torch.where(evidence > 0, self.logits.to(dtype) - evidence.log(), -torch.inf)
        return ReverseJumps(self.process, self.x_t, self.t, scores, divided=False)


class _FlooredX0Posterior(LeaveOneOutPosterior):
    """The posterior with an evidence floor: `p'(x_0) ~ p(x_0) min(1, P[x_0, x] / floor_x)`.

    It is the leave-one-out posterior of `p(x_0) / max(P[x_0, x], floor_x)`. The floor of a state x is a share of the
    largest evidence of any value: `floor_x = share max_k P[k, x]`.
    """

    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor, distribution: Distribution, share: float) -> None:
        super().__init__(process, x_t, t, distribution)
        self._share = share

    def _floored(self, distribution: Distribution, x_t: Tensor) -> Categorical:
        """Return `p(x_0) / max(P[x_0, x], floor_x)` for the given distribution and states."""
        evidence = self.process.kernel(self.t, self.rate_dtype(distribution.scores)).columns(x_t)
        evidence = torch.maximum(evidence, self._share * evidence.amax(-1, keepdim=True)).log_()
        return Categorical(distribution.scores - evidence.to(distribution.scores.dtype))

    @lazy_property
    def _prior(self) -> Distribution:
        return self._floored(self._network, self.x_t)

    def sample(self, generator: Generator = None) -> Tensor:
        """Draw every dimension from p'. A draw from p is kept with probability `min(1, P / floor_x)`, else redrawn from p'."""
        randomness = as_randomness(generator)
        u, keep, again = (randomness.uniform(self.x_t.shape, torch.float64, self.x_t.device) for _ in range(3))
        if self.t.ndim or not readable(self.x_t):
            return self.distribution.sample(u)
        x_0 = self._network.sample(u)
        kernel = self.process.kernel(self.t, torch.float64)
        states = torch.arange(self.process.rates.num_states, device=self.x_t.device)
        floor = self._share * kernel.columns(states).amax(-1)[self.x_t]
        lost = ~(keep * floor < kernel.entries(x_0, self.x_t))  # few: only these need an axis of S values
        some = self._network.with_parameters([parameter[lost] for parameter in self._network.parameters()])
        posterior = LeaveOneOutPosterior(self.process, self.x_t[lost], self.t, self._floored(some, self.x_t[lost]))
        x_0[lost] = posterior.distribution.sample(again[lost])
        return x_0


class X0Denoiser(Denoiser[X0Posterior]):
    """The x0 parameterisation: the network's logits are `log p(x_0 | x_t)`.

    The evidence of a clean value x_0 is `P_t[x_0, x_t]`. With an evidence floor, the network's p(x_0) is replaced by p'(x_0),
    which is proportional to `p(x_0) min(1, P_t[x_0, x_t] / floor)`. The floor is a share of the largest evidence,
    `max_k P_t[k, x_t]`. So p' gives less probability to values with very small evidence, and no rate has a denominator below
    the floor. Samplers and likelihoods both use p'. With share 0, p' is p. With share 1, p' is the posterior of the
    leave-one-out parameterisation with the same logits.

    Arguments:
        process: the forward process.
        network: any callable (x_t, t, **cond) -> logits (B, *event, S) with t of shape (B,).
        event_shape: the shape of one example, such as (1, 28, 28).
        evidence_floor: the floor, as a share of the largest evidence of any clean value. 0 means no floor: the network's
            distribution is not changed. Use 0 in training.
    """

    def __init__(
        self,
        process: CTMC,
        network: nn.Module | Callable[..., Tensor],
        event_shape: Sequence[int],
        evidence_floor: Share = 0.0,
    ) -> None:
        check_arguments(X0Denoiser, locals())
        super().__init__(process, network, event_shape)
        self.evidence_floor = evidence_floor

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> X0Posterior:
        if self.evidence_floor == 0:
            return _X0Posterior(self.process, x_t, t, distribution)
        return _FlooredX0Posterior(self.process, x_t, t, distribution, self.evidence_floor)
