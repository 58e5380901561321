"""The parameterisation of absorbing processes, which mask values.

A masked dimension has the reverse rates `Rhat(m, y) = -alpha'/(1 - alpha) p(y | x_t)`. They are finite where alpha < 1.
Other dimensions keep their value.

References:
    Simplified and generalized masked diffusion for discrete data (Shi et al., 2024) | https://arxiv.org/abs/2406.04329
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import diffusion_core
from diffusion_core import Generator, as_randomness
from diffusion_core.distributions import Categorical, Distribution
from diffusion_core.lazy import lazy_property
from discrete_diffusion.denoisers.base import Denoiser, X0Posterior
from discrete_diffusion.jumps import Jumps, UnmaskingJumps, unmasking_rate
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates.absorbing import AbsorbingRates

__all__ = ["AbsorbingDenoiser"]


class _AbsorbingPosterior(X0Posterior):
    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor, distribution: Distribution) -> None:
        super().__init__(process, x_t, t)
        self._masked = self.x_t == process.rates.data_states
        self._distribution = distribution

    @lazy_property
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
        # r_y = p(y | x_t) alpha / (1 - alpha) at a masked dimension. Elsewhere no reverse jump is possible.
        tau = self.process.tau(self.t)
        odds = torch.where(self._masked, diffusion_core.per_example(-(-tau).exp() / torch.expm1(-tau), self.x_t), 0.0)
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
        # The rate can be infinite. At positions without a mask it is replaced by zero, so that gradients stay defined.
        return torch.where(self._masked, rate, 0.0) * torch.where(self._masked, surprise, 0.0)


class AbsorbingDenoiser(Denoiser[X0Posterior]):
    """The parameterisation of absorbing processes: the network predicts p(x_0 | x_t) of the masked dimensions.

    The other dimensions keep their value, and the network's output for them is not used. The x0 and the leave-one-out
    parameterisation are equal here, because a masked dimension contains no information about its own clean value.

    Arguments:
        process: the forward process, with `AbsorbingRates`.
        network: any callable (x_t, t, **cond) -> logits (B, *event, S) with t of shape (B,).
        event_shape: the shape of one example, such as (1, 28, 28).

    Raises:
        ValueError: the process does not have `AbsorbingRates`.
    """

    def __init__(self, process: CTMC, network: nn.Module | Callable[..., Tensor], event_shape: Sequence[int]) -> None:
        if not isinstance(process.rates, AbsorbingRates):
            raise ValueError(f"process.rates is a {type(process.rates).__name__}, expected AbsorbingRates")
        super().__init__(process, network, event_shape)

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> X0Posterior:
        return _AbsorbingPosterior(self.process, x_t, t, distribution)
