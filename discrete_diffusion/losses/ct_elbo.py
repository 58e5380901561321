"""The continuous-time ELBO as it was published with the method tauLDR (see References).

This loss leaves out a constant of the bound. It is here for comparison with `ELBO`, which leaves out nothing.

The loss draws `x ~ q_t(. | x_0)`, and then one jump of the forward process from x to a state `x~`. Z(x^d) is the exit rate
of the value x^d. The jump changes dimension d with probability `Z(x^d) / sum_d' Z(x^d')`. The new value of this dimension
is y with probability `R_t[x^d, y] / Z(x^d)`.

    regularisation = sum_d sum_{y != x^d} R_t[y, x^d] r_y(x)
    signal = - sum_{d, y} R_t[y, x~^d] w_y log r_y(x~) / sum_{d, y} R_t[y, x~^d] w_y / Z_{d, y}
    Z_{d, y} = sum_d' Z(x~^d') - Z(x~^d) + Z(y),   w_y = P_t[x_0^d, y] / P_t[x_0^d, x~^d],   sums over y != x~^d

r_y(x) is the posterior ratio: the network's estimate of p_t(x with d -> y) / p_t(x). Suppose that x~ was reached by a jump
of dimension d from the value y. Z_{d, y} is the total exit rate of the state before this jump. The signal is zero if x
cannot jump, for example if all dimensions are masked.

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import diffusion_core
from diffusion_core import Generator, Sample, TimeSampler, as_randomness, event_sum, per_example
from diffusion_core.distributions import inverse_cdf
from diffusion_core.ranges import NonNegative
from discrete_diffusion.denoisers.base import Denoiser, Posterior, X0Posterior, check_x0
from discrete_diffusion.losses.base import Loss
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates.base import RateMatrix

__all__ = ["CTELBO"]


@dataclass(frozen=True)
class CTELBO(Loss[Posterior]):
    """The published continuous-time ELBO of tauLDR, in nats / unit of t, plus a small multiple of the cross-entropy.

    Use `ELBO` for new models: it needs one network call and has no bias. The module's docstring has the formula of this
    loss: regularisation plus signal.

    With two network calls and nll_weight = 0, the expectation is that of `ELBO` minus a constant, which does not depend on
    the network: `E[ELBO] - E[CTELBO] = E[sum_d sum_{y != x^d} R_t[y, x^d] w_y (log w_y - 1)]`. So both losses have the same
    minimum. The value of `CTELBO` can be negative. It is not a bound on the likelihood, because the constant is missing.
    With a mask and alpha(1) = 0, the variance of the loss over all times is infinite.

    Let x be the noisy state and x~ the state after the jump. With one network call, the regularisation is evaluated at x~
    instead of x. x~ differs from x in one of the D dimensions. So the expectation is biased. The bias divided by the
    regularisation is O(1/D). The posterior that minimises the loss is not the exact posterior. With a mask, the
    regularisation does not depend on the network. So the value of the loss is biased, but its gradient is not.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022), proposition 2 |
        https://arxiv.org/abs/2205.14987

    Arguments:
        one_forward_pass: whether the network is called only once, at the state after the jump. The published code does
            this. The loss is then biased.
        nll_weight: the weight of the cross-entropy. As in the published code, this cross-entropy is a mean over dimensions.
            In `ELBOAndCrossEntropy` it is a sum over dimensions.

    Raises:
        ValueError: the times have no weights.
        ValueError: nll_weight is positive, and the denoiser is a score model.
        ValueError: tau is infinite at the largest training time, and the process has no mask.
    """

    name: ClassVar[str] = "ct_elbo"

    one_forward_pass: bool = False
    nll_weight: NonNegative = 0.001

    def check(self, denoiser: diffusion_core.Denoiser[Posterior], times: TimeSampler) -> None:
        times.check_weighted("CTELBO")
        if not isinstance(denoiser, Denoiser):
            return
        if self.nll_weight > 0:
            check_x0(denoiser, f"CTELBO with nll_weight = {self.nll_weight}")
        rates = denoiser.process.rates
        tau = denoiser.process.tau(torch.tensor(times.t_max, dtype=torch.float64)).item()
        if not math.isfinite(tau) and rates.num_states == rates.data_states:  # a mask's reverse rates stay finite
            raise ValueError(
                f"{type(times).__name__} draws times up to t_max = {times.t_max}, where tau is {tau}, expected a finite tau, "
                "because the mean of CTELBO over times grows with tau. Use a smaller t_max, or the loss ELBO"
            )

    def draw(
        self,
        process: diffusion_core.Process,
        x_0: Tensor,
        t: Tensor,
        generator: Generator = None,
        active: Tensor | None = None,
    ) -> Sample:
        """Add noise to clean data, and draw one jump of the forward process. `Sample.noise` is the state after the jump.

        For an example in which no jump is possible, `Sample.noise` is x_t itself.

        Raises:
            TypeError: the process is not a `CTMC`.
        """
        if not isinstance(process, CTMC):
            raise TypeError(f"process is a {type(process).__name__}, expected a CTMC")
        randomness = as_randomness(generator)
        sample = super().draw(process, x_0, t, randomness, active)
        u = randomness.uniform((len(x_0), 2), torch.float64, x_0.device)
        return sample._replace(noise=_jumped(process.rates, sample.x_t, u, active))

    def __call__(self, denoiser: diffusion_core.Denoiser[Posterior], sample: Sample, **cond: Tensor) -> Tensor:
        after = denoiser(_after(sample), sample.t, **cond)
        before = after if self.one_forward_pass else denoiser(sample.x_t, sample.t, **cond)
        return self.terms(before, after, sample)

    def evaluate(self, posterior: Posterior, sample: Sample) -> Tensor:
        """Return the loss in its form with one network call: (B,). The posterior is that of the state after the jump."""
        return self.terms(posterior, posterior, sample)

    def terms(self, before: Posterior, after: Posterior, sample: Sample) -> Tensor:
        """Return the loss of each example: (B,).

        Arguments:
            before: the posterior for the regularisation and the cross-entropy. With two network calls, it is the posterior
                at the state before the jump.
            after: the posterior at the state after the jump.
            sample: the result of `draw`.
        """
        value = event_sum(before.reverse_rates.sum(-1), sample.active) + _signal(after, sample)
        if self.nll_weight == 0:
            return value
        check_x0(before, f"CTELBO with nll_weight = {self.nll_weight}")
        assert isinstance(before, X0Posterior)
        nll = -event_sum(before.log_prob(sample.x_0.long()), sample.active)
        dimensions = event_sum(torch.ones_like(sample.x_0, dtype=nll.dtype), sample.active)
        return value + self.nll_weight * nll / dimensions.clamp(min=1)  # an example can have no active position


def _after(sample: Sample) -> Tensor:
    """Return the state after the jump.

    Raises:
        ValueError: the sample was not drawn by `CTELBO.draw`.
    """
    if sample.noise is None:
        raise ValueError("sample.noise = None, expected the state after a jump: draw the sample with CTELBO.draw")
    return sample.noise


def _jumped(rates: RateMatrix, x: Tensor, u: Tensor, active: Tensor | None) -> Tensor:
    """Return x after one forward jump of one active dimension: x (B, *event), u (B, 2) uniform -> (B, *event).

    beta(t) is a common factor of all rates of an example. So it does not change the law of the jump.
    """
    flat = x.flatten(1)
    exits = rates.exit_rates(flat, torch.float64)
    exits = exits if active is None else torch.where(active.flatten(1), exits, 0.0)
    possible = exits.sum(-1, keepdim=True) > 0
    d = inverse_cdf(torch.where(possible, exits, 1.0), u[:, 0])[:, None]
    here = flat.gather(1, d)
    row = rates.rates_from(here[:, 0], torch.float64).scatter(-1, here, 0.0)
    y = inverse_cdf(torch.where(possible, row, 1.0), u[:, 1])[:, None]
    return flat.scatter(1, d, torch.where(possible, y, here)).reshape(x.shape)


def _signal(after: Posterior, sample: Sample) -> Tensor:
    """Return the signal term of each example from the posterior at the state after the jump: (B,)."""
    process, x, active = after.process, after.x_t, sample.active
    ratio = after.ratio
    dtype = ratio.dtype
    w = process.conditional_ratio(sample.x_0, x, sample.t, torch.promote_types(process.rate_dtype(sample.t), dtype))
    rates = process.rates.rates_to(x, w.dtype).scatter(-1, x[..., None], 0.0)
    flow = rates * w  # R[y, x~] w_y, without the factor beta
    flow = flow if active is None else torch.where(active[..., None], flow, 0.0)

    exits = process.rates.exit_rates(x, w.dtype)
    leave = exits if active is None else torch.where(active, exits, 0.0)
    into = process.rates.exit_rates(torch.arange(process.rates.num_states, device=x.device), w.dtype)
    total = (per_example(event_sum(leave, None), leave) - leave)[..., None] + into  # Z_{d, y} / beta, (B, *event, n)

    # A state that needs no jump has no flow. The logarithm and the quotient get the argument 1 there, so that gradients exist.
    used = flow > 0
    logs = torch.where(used, ratio.to(w.dtype), 1.0).log()
    numerator = event_sum((flow * logs).sum(-1), None)
    denominator = event_sum(torch.where(used, flow / torch.where(used, total, 1.0), 0.0).sum(-1), None)
    jumped = (x != sample.x_t).flatten(1).any(-1) & (denominator > 0)
    beta = process.beta(sample.t).to(w.dtype)
    return torch.where(jumped, -beta * numerator / torch.where(jumped, denominator, 1.0), 0.0)
