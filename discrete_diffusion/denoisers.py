"""Readings of a network as a posterior over clean values, and the reverse rates they imply.

With `P = P_t`, `p` the posterior of one dimension and x its noisy value,

    w_y(x_0) = P[x_0, y] / P[x_0, x]                conditional ratio
    r_y(x)   = sum_{x_0} p(x_0 | x_t) w_y(x_0)      posterior ratio = p_t(x with d -> y) / p_t(x)
    Rhat(x, y) = R_t[y, x] r_y(x)                   reverse rate

Two readings of the same network:

- x0: the network's logits are `log p(x_0 | x_t)`. Simple, and with the truncated-logistic
  head O(1) a pixel. But r divides the network's mass by P[x_0, x]: mass on an x_0 that cannot
  have reached x gives an astronomical rate at small t.
- leave-one-out: the logits are `log p_loo(x_0)`, the posterior without the dimension's own
  evidence. Then `p(x_0 | x_t) ~ p_loo(x_0) P[x_0, x]` and `r_y = (p_loo P)_y / (p_loo P)_x`:
  nothing is divided by P entry by entry, and a fresh network has a finite likelihood.

An absorbing process has its own: dimensions that are not masked are carried over, the masked
ones have `Rhat(m, y) = -alpha'/(1 - alpha) p(y | x_t)`, finite wherever alpha < 1.

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    Score-based continuous-time discrete diffusion models (Sun et al., 2023) | https://arxiv.org/abs/2211.16750
    Simplified and generalized masked diffusion for discrete data (Shi et al., 2024) | https://arxiv.org/abs/2406.04329
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import diffusion_core
from diffusion_core import Generator, as_randomness, batch_time, check_time, readable
from diffusion_core.checks import check_finite
from diffusion_core.distributions import Categorical, Distribution
from discrete_diffusion.divergence import conditional_divergence, rate_divergence
from discrete_diffusion.jumps import Jumps, ReverseJumps, UnmaskingJumps, unmasking_rate
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates.absorbing import AbsorbingRates
from discrete_diffusion.rates.checks import check_states

__all__ = ["AbsorbingDenoiser", "Denoiser", "LeaveOneOutDenoiser", "Posterior", "X0Denoiser"]


class Posterior(diffusion_core.Posterior):
    """p(x_0^d | x_t) of every dimension d, and what it implies for the reverse process.

    Arguments:
        process: the forward process.
        x_t: the noisy states (B, *event), of any integer dtype; kept as int64, which indexing takes.
        t: the time, () or (B,).
    """

    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor) -> None:
        self.process = process
        self.x_t = x_t.long()
        self.t = t

    def rate_dtype(self, probs: Tensor) -> torch.dtype:
        """The dtype of ratios and rates: that of the probabilities, or float64 where the time needs it."""
        return torch.promote_types(self.process.rate_dtype(self.t), probs.dtype)

    @property
    @abstractmethod
    def distribution(self) -> Distribution:
        """p(x_0^d | x_t) over the S data values."""

    @property
    def logits(self) -> Tensor:
        """Normalised log p(x_0^d | x_t) in nats: (B, *event, S)."""
        return self.distribution.logits

    @property
    def probs(self) -> Tensor:
        """p(x_0^d | x_t): (B, *event, S)."""
        return self.distribution.probs

    def log_prob(self, x_0: Tensor) -> Tensor:
        return self.distribution.log_prob(x_0)

    def sample(self, generator: Generator = None) -> Tensor:
        u = as_randomness(generator).uniform(self.x_t.shape, torch.float64, self.x_t.device)
        return self.distribution.sample(u)

    def mode(self) -> Tensor:
        return self.distribution.mode()

    @property
    @abstractmethod
    def ratio(self) -> Tensor:
        """The posterior ratio r_y(x_t) for every state y, from probabilities in its own dtype: (B, *event, n)."""

    @abstractmethod
    def jumps(self) -> Jumps:
        """The reverse rates, to draw jumps from; needs one time for the whole batch."""

    @abstractmethod
    def rate_divergence(self, x_0: Tensor) -> Tensor:
        """The ELBO integrand of every dimension in nats / unit of t: (B, *event).

        `sum_{y != x} R_t[y, x] w_y phi(r_y / w_y)` with `phi(z) = z - 1 - log z`: the rate at
        which the reverse process of x_0 and the model's drift apart.
        """

    @property
    def reverse_rates(self) -> Tensor:
        """Rhat(x_t, y) = R_t[y, x] r_y for y != x, zero on the diagonal: (B, *event, n)."""
        return self.process.reverse_rates(self.ratio, self.x_t, self.t)


class _X0Posterior(Posterior):
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
        # Mass on an x_0 that cannot have led to x_t contributes nothing.
        scores = torch.where(evidence > 0, self.logits.to(dtype) - evidence.log(), -torch.inf)
        return ReverseJumps(self.process, self.x_t, self.t, scores, divided=False)

    def rate_divergence(self, x_0: Tensor) -> Tensor:
        return conditional_divergence(self.process, x_0, self.x_t, self.t, self.ratio)


class _LeaveOneOutPosterior(Posterior):
    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor, network: Distribution) -> None:
        super().__init__(process, x_t, t)
        self._network = network

    @property
    def _prior(self) -> Distribution:
        """p_loo up to a constant a dimension."""
        return self._network

    @cached_property
    def distribution(self) -> Distribution:
        evidence = self.process.kernel(self.t, self.rate_dtype(self._prior.scores)).columns(self.x_t).log()
        return Categorical(self._prior.scores + evidence.to(self._prior.scores.dtype))

    def log_prob(self, x_0: Tensor) -> Tensor:
        # log p_loo(x_0) + log P[x_0, x] - log sum_k p_loo(k) P[k, x]: an axis of S forms a chunk at a time only.
        kernel = self.process.kernel(self.t, torch.float64)

        def evidence(part: slice) -> Tensor:
            dtype = self.process.rate_dtype(self.t[part] if self.t.ndim else self.t)
            return kernel.select(part, dtype).columns(self.x_t[part])

        chosen = self._prior.log_prob(x_0)
        return chosen + kernel.entries(x_0, self.x_t).log().to(chosen.dtype) - self._prior.log_expectation(evidence)

    @property
    def ratio(self) -> Tensor:
        kernel = self.process.kernel(self.t, self.rate_dtype(scores := self._prior.scores))
        u = kernel.matmul(scores.to(kernel.dtype).softmax(-1))
        return u / u.gather(-1, self.x_t[..., None])

    def jumps(self) -> Jumps:
        scores = self._prior.scores
        return ReverseJumps(self.process, self.x_t, self.t, scores.to(self.rate_dtype(scores)))

    def rate_divergence(self, x_0: Tensor) -> Tensor:
        return rate_divergence(self.process, x_0, self.x_t, self.t, self._prior.scores)


class _FlooredX0Posterior(_LeaveOneOutPosterior):
    """`p'(x_0) ~ p(x_0) min(1, P[x_0, x] / floor_x)`: the leave-one-out posterior of `p(x_0) / max(P[x_0, x], floor_x)`.

    The floor of a state x is a share of the largest evidence that x gives for any value: `floor_x = share max_k P[k, x]`.
    """

    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor, distribution: Distribution, share: float) -> None:
        super().__init__(process, x_t, t, distribution)
        self._share = share

    def _floored(self, distribution: Distribution, x_t: Tensor) -> Categorical:
        """`p(x_0) / max(P[x_0, x], floor_x)` of some positions."""
        evidence = self.process.kernel(self.t, self.rate_dtype(distribution.scores)).columns(x_t)
        evidence = torch.maximum(evidence, self._share * evidence.amax(-1, keepdim=True)).log_()
        return Categorical(distribution.scores - evidence.to(distribution.scores.dtype))

    @cached_property
    def _prior(self) -> Distribution:
        return self._floored(self._network, self.x_t)

    def sample(self, generator: Generator = None) -> Tensor:
        """Draw from p and keep a draw with probability `min(1, P / floor_x)`; the others are drawn from p' itself."""
        randomness = as_randomness(generator)
        u, keep, again = (randomness.uniform(self.x_t.shape, torch.float64, self.x_t.device) for _ in range(3))
        if self.t.ndim or not readable(self.x_t):
            return self.distribution.sample(u)
        x_0 = self._network.sample(u)
        kernel = self.process.kernel(self.t, torch.float64)
        states = torch.arange(self.process.rates.num_states, device=self.x_t.device)
        floor = self._share * kernel.columns(states).amax(-1)[self.x_t]
        lost = ~(keep * floor < kernel.entries(x_0, self.x_t))  # few: only for these is an axis of S values formed
        some = self._network.with_parameters([parameter[lost] for parameter in self._network.parameters()])
        posterior = _LeaveOneOutPosterior(self.process, self.x_t[lost], self.t, self._floored(some, self.x_t[lost]))
        x_0[lost] = posterior.distribution.sample(again[lost])
        return x_0


class _AbsorbingPosterior(Posterior):
    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor, distribution: Distribution) -> None:
        super().__init__(process, x_t, t)
        self._masked = self.x_t == process.rates.data_states
        self._distribution = distribution

    @cached_property
    def distribution(self) -> Distribution:
        scores = self._distribution.scores
        value = torch.arange(scores.shape[-1], device=scores.device)
        carried = torch.where(value == self.x_t[..., None], 0.0, -torch.inf).to(scores.dtype)
        return Categorical(torch.where(self._masked[..., None], scores, carried))

    def log_prob(self, x_0: Tensor) -> Tensor:
        carried = torch.where(x_0 == self.x_t, 0.0, -torch.inf)
        return torch.where(self._masked, self._distribution.log_prob(x_0), carried)

    def sample(self, generator: Generator = None) -> Tensor:
        u = as_randomness(generator).uniform(self.x_t.shape, torch.float64, self.x_t.device)
        return torch.where(self._masked, self._distribution.sample(u), self.x_t)

    @property
    def ratio(self) -> Tensor:
        # r_y = p(y | x_t) alpha / (1 - alpha) at a masked dimension; elsewhere no rate of R leads back.
        tau = self.process.tau(self.t)
        odds = diffusion_core.per_example(-(-tau).exp() / torch.expm1(-tau), self.x_t) * self._masked
        ratio = torch.nn.functional.pad(self._distribution.scores.double().softmax(-1) * odds[..., None], (0, 1))
        return ratio.scatter(-1, self.x_t[..., None], 1.0)

    @property
    def reverse_rates(self) -> Tensor:
        return self.jumps().matrix()

    def jumps(self) -> Jumps:
        rate = unmasking_rate(self.process, self.t, self.x_t)
        return UnmaskingJumps(self.x_t, self.process.rates.data_states, rate, self._distribution.probs)

    def rate_divergence(self, x_0: Tensor) -> Tensor:
        surprise = -self._distribution.log_prob(x_0)
        rate = unmasking_rate(self.process, self.t, self.x_t).to(surprise.dtype)
        # Where nothing is masked the rate may be infinite; it is zero there, so that no gradient is undefined.
        return torch.where(self._masked, rate, 0.0) * torch.where(self._masked, surprise, 0.0)


class Denoiser(diffusion_core.Denoiser[Posterior]):
    """Reads a network as a posterior over clean values.

    Arguments:
        process: the forward process.
        network: any callable (x_t, t, **cond) -> logits (B, *event, S) with t of shape (B,), in the
            dtype of its parameters; if it
            has a method `distribution` with the same arguments (as `PixelLogits` has), that is
            called instead, and the axis of length S need not be formed.
        event_shape: the shape of one example, such as (1, 28, 28).
    """

    process: CTMC
    network: nn.Module | Callable[..., Tensor]

    def __init__(self, process: CTMC, network: nn.Module | Callable[..., Tensor], event_shape: Sequence[int]) -> None:
        super().__init__(process, event_shape)
        self.network = network

    def read(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Distribution:
        """Check the arguments and evaluate the network, which sees int64: the distribution it names, (B, *event).

        Raises:
            ValueError: x_t is not integer (B, *event_shape), t is not () or (B,) in [0, 1], or the logits have another shape.
            NotFiniteError: the network's output says no distribution, and no gradient is formed of it.
        """
        self.check_event(x_t)
        check_time(t, len(x_t))
        check_states(x_t, self.process.rates.num_states, "x_t")
        c = batch_time(t.to(self._time_dtype(t)), len(x_t))
        distribution = self._evaluate(self.network, x_t.long(), c, cond)
        expected = (*x_t.shape, self.process.rates.data_states)
        if (*distribution.shape, distribution.num_values) != expected:
            found = (*distribution.shape, distribution.num_values)
            raise ValueError(f"the network's logits have shape {found}, expected {expected}")
        if not distribution.parameters()[0].requires_grad:  # a training looks at its loss and its gradient instead
            check_finite(distribution.defined(), x_t, t)
        return distribution

    def _time_dtype(self, t: Tensor) -> torch.dtype:
        """That of the network's parameters, so that training and sampling hand it the same; without any, that of t."""
        if not isinstance(self.network, nn.Module):
            return t.dtype
        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), t.dtype)

    @staticmethod
    def _evaluate(network: Any, x_t: Tensor, c: Tensor, cond: Mapping[str, Tensor]) -> Distribution:
        if hasattr(network, "distribution"):
            distribution: Distribution = network.distribution(x_t, c, **cond)
            return distribution
        return Categorical(network(x_t, c, **cond))

    @abstractmethod
    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> Posterior:
        """What the network's distribution at (x_t, t) means: the reading itself."""

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Posterior:
        """The posterior given x_t (B, *event) at time t, () or (B,), with the conditions of the network."""
        return self.posterior(x_t, t, self.read(x_t, t, **cond))


class X0Denoiser(Denoiser):
    """The network's logits are `log p(x_0 | x_t)`.

    With an evidence floor, the posterior is `p'(x_0) ~ p(x_0) min(1, P_t[x_0, x_t] / floor)`, where the floor is a share of
    the largest evidence `max_k P_t[k, x_t]`. Samplers and likelihoods then use p' alike: mass on a value that can hardly have
    led to x_t counts less, and no rate is divided by less than the floor. At share 0 it is p; at share 1 it is the
    leave-one-out reading of the same logits.

    Arguments:
        process: the forward process.
        network: as for every denoiser.
        event_shape: the shape of one example.
        evidence_floor: the share, in [0, 1]; 0 takes the network's posterior as it is, which training does.

    Raises:
        ValueError: the floor is not in [0, 1].
    """

    def __init__(
        self,
        process: CTMC,
        network: nn.Module | Callable[..., Tensor],
        event_shape: Sequence[int],
        evidence_floor: float = 0.0,
    ) -> None:
        super().__init__(process, network, event_shape)
        if not 0 <= evidence_floor <= 1:
            raise ValueError(f"evidence_floor = {evidence_floor}, expected a share in [0, 1]")
        self.evidence_floor = evidence_floor

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> Posterior:
        if self.evidence_floor == 0:
            return _X0Posterior(self.process, x_t, t, distribution)
        return _FlooredX0Posterior(self.process, x_t, t, distribution, self.evidence_floor)


class LeaveOneOutDenoiser(Denoiser):
    """The network's logits are `log p_loo(x_0)`: the posterior without the dimension's own evidence."""

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> Posterior:
        return _LeaveOneOutPosterior(self.process, x_t, t, distribution)


class AbsorbingDenoiser(Denoiser):
    """For absorbing processes: masked dimensions get the network's distribution, the others are carried over.

    Both readings coincide here, since a masked dimension carries no evidence of its own.
    """

    def __init__(self, process: CTMC, network: nn.Module | Callable[..., Tensor], event_shape: Sequence[int]) -> None:
        if not isinstance(process.rates, AbsorbingRates):
            raise ValueError(f"the process has {type(process.rates).__name__}, expected AbsorbingRates")
        super().__init__(process, network, event_shape)

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> Posterior:
        return _AbsorbingPosterior(self.process, x_t, t, distribution)
