"""The base classes of parameterisations: the posterior, and the denoiser that makes it from a network's output.

For one dimension, p(x_0 | x_t) is its posterior and x its noisy value. `P = P_t` is the transition matrix.

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
from diffusion_core.tensors import parameter_dtype
from discrete_diffusion.divergence import conditional_divergence
from discrete_diffusion.jumps import Jumps
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates.checks import check_states

__all__ = ["Denoiser", "P", "Posterior", "X0Posterior", "check_x0"]


class Posterior(ABC):
    """The result of a denoiser at (x_t, t): the ratios of p_t and the rates of the reverse process.

    p_t is the model's distribution of x_t. n is the number of states, and `x_t with d -> y` is x_t with the value y in
    dimension d.

    Arguments:
        process: the forward process.
        x_t: the noisy states (B, *event), of any integer dtype. They are stored as int64, because indexing needs it.
        t: the time, () or (B,).
    """

    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor) -> None:
        self.process = process
        self.x_t = x_t.long()
        self.t = t

    def rate_dtype(self, output: Tensor) -> torch.dtype:
        """Return the dtype of ratios and rates: the dtype of the network's output, or float64 if the times need it."""
        return torch.promote_types(self.process.rate_dtype(self.t), output.dtype)

    @property
    @abstractmethod
    def ratio(self) -> Tensor:
        """The ratio `r_y = p_t(x_t with d -> y) / p_t(x_t)` for every state y: (B, *event, n)."""

    @abstractmethod
    def jumps(self) -> Jumps:
        """Return the reverse rates as an object from which jumps are drawn. All examples must have the same time."""

    @property
    def reverse_rates(self) -> Tensor:
        """The reverse rates `Rhat(x_t, y) = R_t[y, x_t] r_y` for y != x_t, and zero at y = x_t: (B, *event, n)."""
        return self.process.reverse_rates(self.ratio, self.x_t, self.t)

    def rate_divergence(self, x_0: Tensor) -> Tensor:
        """Return the ELBO integrand of every dimension in nats / unit of t: (B, *event).

        The integrand is `sum_{y != x} R_t[y, x] w_y phi(r_y / w_y)` with `phi(z) = z - 1 - log z`. It is the divergence, per
        unit of t, of the model's reverse process from the reverse process given x_0.
        """
        return conditional_divergence(self.process, x_0, self.x_t, self.t, self.ratio)


class X0Posterior(Posterior):
    """A posterior that also has the probabilities p(x_0^d | x_t) of every dimension d."""

    @property
    @abstractmethod
    def distribution(self) -> Distribution:
        """The distribution p(x_0^d | x_t) of every dimension d over the S data values."""

    @property
    def logits(self) -> Tensor:
        """The normalised log p(x_0^d | x_t), in nats: (B, *event, S)."""
        return self.distribution.logits

    @property
    def probs(self) -> Tensor:
        """The probabilities p(x_0^d | x_t): (B, *event, S)."""
        return self.distribution.probs

    def log_prob(self, x_0: Tensor) -> Tensor:
        """Return log p(x_0^d | x_t) in nats for every dimension d: (B, *event) -> (B, *event)."""
        return self.distribution.log_prob(x_0)

    def sample(self, generator: Generator = None) -> Tensor:
        """Draw every dimension of x_0 from p(x_0^d | x_t): (B, *event)."""
        u = as_randomness(generator).uniform(self.x_t.shape, torch.float64, self.x_t.device)
        return self.distribution.sample(u)

    def mode(self) -> Tensor:
        """Return the most probable value of every dimension: (B, *event)."""
        return self.distribution.mode()


P = TypeVar("P", bound=Posterior, covariant=True)
"""The kind of posterior that a denoiser returns."""


class Denoiser(diffusion_core.Denoiser[P]):
    """A parameterisation: it defines how the posterior is computed from the output of a network.

    This is the base class. A subclass defines in its method `posterior` what the network's output means.

    Arguments:
        process: the forward process.
        network: any callable (x_t, t, **cond) -> logits (B, *event, S). t has shape (B,) and the dtype of the network's
            parameters. If the network has a method `distribution` with the same arguments, as `PixelLogits` has, this
            method is called instead. It returns a `Distribution`, which can do without logits for all S values.
        event_shape: the shape of one example, such as (1, 28, 28).
    """

    process: CTMC
    network: nn.Module | Callable[..., Tensor]
    has_x0: bool = True
    """Whether the posterior is an `X0Posterior`. A parameterisation that gives only ratios sets this to False."""

    def __init__(self, process: CTMC, network: nn.Module | Callable[..., Tensor], event_shape: Sequence[int]) -> None:
        super().__init__(process, event_shape)
        self.network = network

    def distribution(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Distribution:
        """Check the arguments, call the network, and return its distribution over the S data values: (B, *event).

        The network gets x_t as int64. The method `posterior` defines what this distribution means.

        Raises:
            ValueError: x_t does not have an integer dtype, or not the shape (B, *event_shape).
            ValueError: t does not have the shape () or (B,), or has values outside [0, 1].
            ValueError: the logits have a wrong shape.
            NotFiniteError: the network's output has numbers that are not finite, so it does not define a distribution. This
                is checked only if the output needs no gradient.
        """
        self.check_event(x_t)
        check_time(t, len(x_t))
        check_states(x_t, self.process.rates.num_states, "x_t")
        # Times have the dtype of the parameters, so the network gets the same dtype in training and in sampling.
        c = batch_time(t.to(parameter_dtype(self.network, t.dtype)), len(x_t))
        distribution = _evaluated(self.network, x_t.long(), c, cond)
        expected = (*x_t.shape, self.process.rates.data_states)
        if (*distribution.shape, distribution.num_values) != expected:
            found = (*distribution.shape, distribution.num_values)
            raise ValueError(f"the network's logits have shape {found}, expected {expected}")
        if not distribution.parameters()[0].requires_grad:  # in training, the loss and the gradient are checked instead
            check_finite(distribution.defined(), x_t, t)
        return distribution

    @abstractmethod
    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> P:
        """Compute the posterior from the network's distribution at (x_t, t). This method defines the parameterisation.

        Arguments:
            x_t: the noisy states (B, *event).
            t: the time, () or (B,).
            distribution: the network's distribution over the S data values (B, *event).
        """

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> P:
        """Return the posterior given x_t (B, *event) at time t, () or (B,), with the conditions of the network."""
        return self.posterior(x_t, t, self.distribution(x_t, t, **cond))


def _evaluated(network: Callable[..., Tensor], x_t: Tensor, c: Tensor, cond: Mapping[str, Tensor]) -> Distribution:
    named: Callable[..., Distribution] | None = getattr(network, "distribution", None)
    return Categorical(network(x_t, c, **cond)) if named is None else named(x_t, c, **cond)


def check_x0(given: Denoiser[Posterior] | Posterior, what: str) -> None:
    """Raise an error if a denoiser or a posterior has no p(x_0 | x_t).

    Arguments:
        given: a denoiser or a posterior.
        what: the name of the part that needs p(x_0 | x_t), for the message.

    Raises:
        ValueError: the denoiser or the posterior has only ratios of p_t.
    """
    if given.has_x0 if isinstance(given, Denoiser) else isinstance(given, X0Posterior):
        return
    raise ValueError(
        f"a score model has no p(x_0 | x_t): {what} needs a denoiser with this distribution, such as X0Denoiser. "
        "With a score model, use the ELBO loss and a sampler that draws from rates: Euler or TauLeaping"
    )
