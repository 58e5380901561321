"""The leave-one-out parameterisation: the network's logits are `log p_loo(x_0)`.

p_loo(x_0) is the posterior of one dimension given the noisy values of the other dimensions only. It does not contain the
evidence `P[x_0, x]` from the noisy value x of the dimension itself. So p(x_0 | x_t) is proportional to
`p_loo(x_0) P[x_0, x]`, and the posterior ratio is `r_y = (p_loo P)_y / (p_loo P)_x`. No formula divides by a single entry of
P. Therefore even an untrained network has a finite likelihood.

References:
    Score-based continuous-time discrete diffusion models (Sun et al., 2023) | https://arxiv.org/abs/2211.16750
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_core.distributions import Categorical, Distribution
from diffusion_core.lazy import lazy_property
from discrete_diffusion.denoisers.base import Denoiser, X0Posterior
from discrete_diffusion.divergence import rate_divergence
from discrete_diffusion.jumps import Jumps, ReverseJumps
from discrete_diffusion.process import CTMC

__all__ = ["LeaveOneOutDenoiser", "LeaveOneOutPosterior"]


class LeaveOneOutPosterior(X0Posterior):
    """The posterior p(x_0 | x_t), proportional to `p_loo(x_0) P_t[x_0, x_t]`, where the network gives p_loo.

    Arguments:
        process: the forward process.
        x_t: the noisy states (B, *event).
        t: the time, () or (B,).
        network: the network's distribution p_loo over the S data values (B, *event).
    """

    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor, network: Distribution) -> None:
        super().__init__(process, x_t, t)
        self._network = network

    @property
    def _prior(self) -> Distribution:
        """p_loo, up to a constant for each dimension."""
        return self._network

    @lazy_property
    def distribution(self) -> Distribution:
        evidence = self.process.kernel(self.t, self.rate_dtype(self._prior.scores)).columns(self.x_t).log()
        return Categorical(self._prior.scores + evidence.to(self._prior.scores.dtype))

    def log_prob(self, x_0: Tensor) -> Tensor:
        # log p_loo(x_0) + log P[x_0, x] - log sum_k p_loo(k) P[k, x]. The axis of length S is formed in chunks only.
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
        if torch.compiler.is_compiling():  # the compiler fuses the general form itself
            return super().rate_divergence(x_0)
        return rate_divergence(self.process, x_0, self.x_t, self.t, self._prior.scores)


class LeaveOneOutDenoiser(Denoiser[X0Posterior]):
    """The leave-one-out parameterisation: the network's logits are `log p_loo(x_0)`.

    p_loo is the posterior of a dimension given the noisy values of all other dimensions. It does not contain the evidence
    `P_t[x_0, x_t]` from the noisy value of the dimension itself.

    Arguments:
        process: the forward process.
        network: any callable (x_t, t, **cond) -> logits (B, *event, S) with t of shape (B,).
        event_shape: the shape of one example, such as (1, 28, 28).
    """

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> X0Posterior:
        return LeaveOneOutPosterior(self.process, x_t, t, distribution)
