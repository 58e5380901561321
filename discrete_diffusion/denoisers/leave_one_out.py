"""The leave-one-out parameterisation: the network's logits are `log p_loo(x_0)`.

`p_loo` is the posterior without the dimension's own evidence. Then `p(x_0 | x_t) ~ p_loo(x_0) P[x_0, x]` and
`r_y = (p_loo P)_y / (p_loo P)_x`: nothing is divided by P entry by entry, and a fresh network has a finite likelihood.

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
    """`p(x_0 | x_t) ~ p_loo(x_0) P_t[x_0, x_t]`, with p_loo what the network gives."""

    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor, network: Distribution) -> None:
        super().__init__(process, x_t, t)
        self._network = network

    @property
    def _prior(self) -> Distribution:
        """p_loo up to a constant a dimension."""
        return self._network

    @lazy_property
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
        if torch.compiler.is_compiling():  # the plain form: a compiler fuses it itself
            return super().rate_divergence(x_0)
        return rate_divergence(self.process, x_0, self.x_t, self.t, self._prior.scores)


class LeaveOneOutDenoiser(Denoiser[X0Posterior]):
    """The network predicts each dimension from the others: its logits are `log p_loo(x_0)`, the posterior without the
    dimension's own evidence.
    """

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> X0Posterior:
        return LeaveOneOutPosterior(self.process, x_t, t, distribution)
