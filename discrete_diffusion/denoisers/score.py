"""The score parameterisation: the network's logits are logarithms of ratios of probabilities.

    r_y(x_t) = exp(logit_y), an estimate of p_t(x_t with d -> y) / p_t(x_t);   r = 1 at the current state

The network gives no p(x_0 | x_t). So the ancestral sampler, cross-entropy and bits per dimension raise an error. Samplers
that use rates can be used. Their last step also uses rates.

Train it with the `ELBO` loss. With this r, the ELBO integrand is the score entropy of Lou et al., weighted by the rates:

    sum_{y != x} R_t[y, x] (r_y - w_y log r_y + w_y (log w_y - 1)),   w_y = P_t[x_0, y] / P_t[x_0, x]

References:
    Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al., 2024) | https://arxiv.org/abs/2310.16834
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from diffusion_core.distributions import Categorical, Distribution
from diffusion_core.lazy import lazy_property
from discrete_diffusion.denoisers.base import Denoiser, Posterior
from discrete_diffusion.jumps import Jumps, ListedJumps
from discrete_diffusion.process import CTMC

__all__ = ["ScoreDenoiser", "ScorePosterior"]


class ScorePosterior(Posterior):
    """The posterior of a score model: the ratios that the network predicts.

    Arguments:
        process: the forward process.
        x_t: the noisy states (B, *event).
        t: the time, () or (B,).
        logits: log r_y for every data value y (B, *event, S). The logit of the current state is not used.
    """

    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor, logits: Tensor) -> None:
        super().__init__(process, x_t, t)
        self._logits = logits

    @lazy_property
    def ratio(self) -> Tensor:
        r = self._logits.double().exp()  # float32 overflows at a logit of 88
        # The mask has no logit. The forward process never leaves the mask, so the reverse process never enters it.
        r = F.pad(r, (0, self.process.rates.num_states - r.shape[-1]))
        return r.scatter(-1, self.x_t[..., None], 1.0)

    def jumps(self) -> Jumps:
        return ListedJumps(self.x_t, self.reverse_rates)


class ScoreDenoiser(Denoiser[ScorePosterior]):
    """The score parameterisation: the network's logits are `log(p_t(x_t with d -> y) / p_t(x_t))` for every data value y.

    `x_t with d -> y` is x_t with the value y in dimension d. Train with the `ELBO` loss, which is the score entropy for this
    parameterisation. Sample with `Euler` or `TauLeaping`. If the schedule ends with alpha(1) = 0, a ratio can be infinite at
    t = 1. Then train and sample with a `t_max` below 1.

    Arguments:
        process: the forward process.
        network: any callable (x_t, t, **cond) -> logits (B, *event, S) with t of shape (B,). If the network has a method
            `distribution`, this method must return one logit for each value.
        event_shape: the shape of one example, such as (1, 28, 28).

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al., 2024) | https://arxiv.org/abs/2310.16834
    """

    has_x0 = False

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> ScorePosterior:
        """Return the posterior whose ratios are the exponentials of the logits.

        Raises:
            ValueError: the network returns a distribution without one logit for each value.
        """
        if not isinstance(distribution, Categorical):
            raise ValueError(
                f"the network gives a {type(distribution).__name__}, expected a logit for each value (a Categorical)"
            )
        return ScorePosterior(self.process, x_t, t, distribution.unnormalised)
