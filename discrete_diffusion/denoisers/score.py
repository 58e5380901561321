"""The score parameterisation: the network's logits are the logarithms of the ratios themselves.

    r_y(x_t) = exp(logit_y) ~ p_t(x_t with d -> y) / p_t(x_t),   r = 1 at the current state

Nothing is said of x_0, so what needs p(x_0 | x_t) is refused: the ancestral sampler, cross-entropy and bits per dimension.
Samplers that draw from rates work, and their last step is one more step of rates.

Trained by the `ELBO` loss. Its integrand with this r is the score entropy of the reference, weighted by the rates:

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
    """Ratios as a network gives them.

    Arguments:
        process: the forward process.
        x_t: the noisy states (B, *event).
        t: the time, () or (B,).
        logits: log r_y for every data value y (B, *event, S). That of the current state is not used.
    """

    def __init__(self, process: CTMC, x_t: Tensor, t: Tensor, logits: Tensor) -> None:
        super().__init__(process, x_t, t)
        self._logits = logits

    @lazy_property
    def ratio(self) -> Tensor:
        r = self._logits.double().exp()  # single precision would leave its range at logits of 88
        # A mask has no logit. No jump of the forward process leaves it, so the reverse process never enters it.
        r = F.pad(r, (0, self.process.rates.num_states - r.shape[-1]))
        return r.scatter(-1, self.x_t[..., None], 1.0)

    def jumps(self) -> Jumps:
        return ListedJumps(self.x_t, self.reverse_rates)


class ScoreDenoiser(Denoiser[ScorePosterior]):
    """The network predicts ratios of probabilities (SEDD): its logits are `log p_t(x_t with d -> y) / p_t(x_t)` for every
    data value y.

    Train it with the `ELBO` loss, which is score entropy here. Sample with `Euler` or `TauLeaping`. Where everything is masked
    or mixed at t = 1 and a ratio is infinite there, train and sample from a `t_max` below 1.

    Arguments:
        process: the forward process.
        network: any callable (x_t, t, **cond) -> logits (B, *event, S) with t of shape (B,); one with a method `distribution`
            has to give a logit for each value.
        event_shape: the shape of one example, such as (1, 28, 28).

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al., 2024) | https://arxiv.org/abs/2310.16834
    """

    has_x0 = False

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> ScorePosterior:
        """The ratios that the logits say.

        Raises:
            ValueError: the network gives a distribution that is not made of one logit a value.
        """
        if not isinstance(distribution, Categorical):
            raise ValueError(
                f"the network gives a {type(distribution).__name__}, expected a logit for each value (Categorical)"
            )
        return ScorePosterior(self.process, x_t, t, distribution.unnormalised)
