"""What a parameterisation is made of: its posterior, and the denoiser that reads a network as one.

With `P = P_t`, `p` the posterior of one dimension and x its noisy value,

    w_y(x_0) = P[x_0, y] / P[x_0, x]                conditional ratio
    r_y(x)   = sum_{x_0} p(x_0 | x_t) w_y(x_0)      posterior ratio = p_t(x with d -> y) / p_t(x)
    Rhat(x, y) = R_t[y, x] r_y(x)                   reverse rate

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    Score-based continuous-time discrete diffusion models (Sun et al., 2023) | https://arxiv.org/abs/2211.16750
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

import diffusion_core
from diffusion_core import Generator, as_randomness, batch_time, check_time
from diffusion_core.checks import check_finite
from diffusion_core.distributions import Categorical, Distribution
from discrete_diffusion.divergence import conditional_divergence
from discrete_diffusion.jumps import Jumps
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates.checks import check_states

__all__ = ["Denoiser", "P", "Posterior", "X0Posterior", "check_x0"]


class Posterior(ABC):
    """What a denoiser says at (x_t, t): the ratios of p_t, and so the rates of the reverse process.

    Arguments:
        process: the forward process.
        x_t: the noisy states (B, *event), of any integer dtype; kept as int64, which indexing takes.
        t: the time, () or (B,).
    """

    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor) -> None:
        self.process = process
        self.x_t = x_t.long()
        self.t = t

    def rate_dtype(self, output: Tensor) -> torch.dtype:
        """The dtype of ratios and rates: that of the network's output, or float64 where the time needs it."""
        return torch.promote_types(self.process.rate_dtype(self.t), output.dtype)

    @property
    @abstractmethod
    def ratio(self) -> Tensor:
        """The ratio `r_y = p_t(x_t with d -> y) / p_t(x_t)` for every state y: (B, *event, n)."""

    @abstractmethod
    def jumps(self) -> Jumps:
        """The reverse rates, to draw jumps from; needs one time for the whole batch."""

    @property
    def reverse_rates(self) -> Tensor:
        """Rhat(x_t, y) = R_t[y, x] r_y for y != x, zero on the diagonal: (B, *event, n)."""
        return self.process.reverse_rates(self.ratio, self.x_t, self.t)

    def rate_divergence(self, x_0: Tensor) -> Tensor:
        """The ELBO integrand of every dimension in nats / unit of t: (B, *event).

        `sum_{y != x} R_t[y, x] w_y phi(r_y / w_y)` with `phi(z) = z - 1 - log z`: the rate at
        which the reverse process of x_0 and the model's drift apart.
        """
        return conditional_divergence(self.process, x_0, self.x_t, self.t, self.ratio)


class X0Posterior(Posterior):
    """A posterior that also gives p(x_0^d | x_t) of every dimension d."""

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
        """log p(x_0^d | x_t) in nats for every dimension d: (B, *event) -> (B, *event)."""
        return self.distribution.log_prob(x_0)

    def sample(self, generator: Generator = None) -> Tensor:
        """Draw every dimension of x_0 from p(x_0^d | x_t): (B, *event)."""
        u = as_randomness(generator).uniform(self.x_t.shape, torch.float64, self.x_t.device)
        return self.distribution.sample(u)

    def mode(self) -> Tensor:
        """The most probable value of every dimension: (B, *event)."""
        return self.distribution.mode()


P = TypeVar("P", bound=Posterior, covariant=True)
"""What a denoiser gives: a `Posterior`, or more."""


class Denoiser(diffusion_core.Denoiser[P]):
    """Reads a network as a posterior. This is a parameterisation: a subclass says what the network's output means.

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
    has_x0: bool = True
    """Whether its posterior is an `X0Posterior`. A parameterisation that gives ratios alone says False."""

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
        distribution = _evaluated(self.network, x_t.long(), c, cond)
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

    @abstractmethod
    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> P:
        """What the network's distribution at (x_t, t) means: the reading itself."""

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> P:
        """The posterior given x_t (B, *event) at time t, () or (B,), with the conditions of the network."""
        return self.posterior(x_t, t, self.read(x_t, t, **cond))


def _evaluated(network: Callable[..., Tensor], x_t: Tensor, c: Tensor, cond: Mapping[str, Tensor]) -> Distribution:
    named: Callable[..., Distribution] | None = getattr(network, "distribution", None)
    return Categorical(network(x_t, c, **cond)) if named is None else named(x_t, c, **cond)


def check_x0(given: Denoiser[Posterior] | Posterior, what: str) -> None:
    """Refuse a denoiser, or what it says, that has no p(x_0 | x_t).

    Arguments:
        given: a denoiser or a posterior.
        what: what needs p(x_0 | x_t), for the message.

    Raises:
        ValueError: it gives ratios alone.
    """
    if given.has_x0 if isinstance(given, Denoiser) else isinstance(given, X0Posterior):
        return
    raise ValueError(
        f"a score model has no law of x_0 given x_t: {what} needs a denoiser that gives one, such as X0Denoiser; "
        "with a score model, use the ELBO loss and a sampler that draws from rates, such as Euler or TauLeaping"
    )
