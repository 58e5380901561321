"""The forward process: every dimension is an independent continuous-time Markov chain.

    q(x_t^d | x_0^d) = P_t[x_0^d, x_t^d],   P_t = exp(tau(t) R),   R_t = beta(t) R

and what follows from it for one dimension, with x_0 clean, x = x_t noisy and y any state:

    w_y = P_t[x_0, y] / P_t[x_0, x]                          conditional ratio
    r_y = sum_{x_0} p(x_0 | x) w_y(x_0)                      posterior ratio of the x0 reading
    R_t[y, x] w_y,   R_t[y, x] r_y                           reverse rates given x_0, and of the model
    q(x_s | x_0, x_t) ~ P_s[x_0, x_s] P_{s -> t}[x_s, x_t]   bridge

Times become tau in float64, whatever the dtype of t, and P is built in float64. Ratios are in
float32 where that is enough (`rate_dtype`), in float64 elsewhere: at small t transition
probabilities underflow. Ratios are exact or zero: there is no epsilon in a denominator.

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import diffusion_core
from diffusion_core import Generator, as_randomness, check_time, per_example
from diffusion_core.values import least, listed
from discrete_diffusion.rates.base import RateMatrix, TransitionKernel
from discrete_diffusion.rates.checks import check_states, remaining
from discrete_diffusion.schedules import Schedule

__all__ = ["CTMC"]


class CTMC(diffusion_core.Process):
    """A rate matrix and a schedule.

    Arguments:
        rates: the generator R on n states, S of them data.
        schedule: beta(t) and its integral tau(t).
    """

    def __init__(self, rates: RateMatrix, schedule: Schedule) -> None:
        super().__init__()
        self.rates = rates
        self.schedule = schedule

    def sample(self, x_0: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_t ~ q(x_t | x_0): (B, *event) -> (B, *event), int64.

        Raises:
            ValueError: x_0 is not integer or leaves 0 .. S - 1, or t is not () or (B,) in [0, 1].
        """
        self.check_data(x_0)
        check_time(t, len(x_0))
        return self.rates.sample_from(x_0, self.tau(t), generator)

    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw `x_t ~ P_{s -> t}[x_s, .]` for s <= t, each () or (B,): (B, *event) -> (B, *event), int64."""
        check_time(s, len(x_s))
        check_time(t, len(x_s))
        return self.rates.sample_from(x_s, remaining(self.tau(s), self.tau(t)), generator)

    def prior(self, shape: Sequence[int], generator: Generator = None) -> Tensor:
        """Draw x_1 from the law that sampling starts from: a tensor of the given shape, int64."""
        # One law for all dimensions: a binary search in it, where `inverse_cdf` would take a row of it for each.
        device = self.rates.stationary.device
        cumulative = self.prior_law(device).cumsum(0)
        u = as_randomness(generator).uniform(shape, torch.float64, device)
        # Below the last value, so that rounding never reaches a state of probability zero.
        v = torch.minimum(u * cumulative[-1], torch.nextafter(cumulative[-1], torch.zeros_like(cumulative[-1])))
        return torch.searchsorted(cumulative, v, right=True)

    def prior_law(self, device: torch.device) -> Tensor:
        """The law of one dimension of x_1 that sampling starts from: (n,), float64."""
        return self.rates.prior(self.tau(torch.ones((), dtype=torch.float64, device=device)))

    def check_data(self, x_0: Tensor) -> None:
        """Refuse clean data that are not integers in 0 .. S - 1.

        Raises:
            ValueError: naming the dtype or a value.
        """
        if x_0.ndim < 1:
            raise ValueError("x_0 has shape (), expected (B, *event)")
        check_states(x_0, self.rates.data_states, "x_0")

    def beta(self, t: Tensor) -> Tensor:
        """The rate factor in 1 / unit of t, in float64 whatever the dtype of t."""
        return self.schedule(t.double())[0]

    def tau(self, t: Tensor) -> Tensor:
        """The integral of the rate factor, in float64 whatever the dtype of t."""
        return self.schedule(t.double())[1]

    def kernel(self, t: Tensor, dtype: torch.dtype = torch.float32) -> TransitionKernel:
        """P_t as a linear operator with results in dtype; t is () or (B,)."""
        return self.rates.kernel(self.tau(t), dtype)

    def needs_float64(self, t: Tensor) -> Tensor:
        """Where some transition probability is below 1e-18, so that ratios need float64: bool, like t."""
        return self.tau(t) <= self.rates.float32_range[0]

    def nearly_mixed(self, t: Tensor) -> Tensor:
        """Where all ratios w are so near 1 that their differences need float64: bool, like t."""
        return self.tau(t) > self.rates.float32_range[1]

    def rate_dtype(self, t: Tensor) -> torch.dtype:
        """The dtype in which ratios and rates at times t are computed: float64 where any of them needs it.

        On an accelerator, where looking at the times would stall it, float64.
        """
        return torch.float32 if least(self.tau(t)) > self.rates.float32_range[0] else torch.float64

    def divergence_dtypes(self, t: Tensor) -> list[torch.dtype]:
        """For each time of t (B,), the dtype in which differences of ratios keep 4 digits."""
        wide = listed(self.needs_float64(t) | self.nearly_mixed(t), unseen=True)
        return [torch.float64 if needed else torch.float32 for needed in wide]

    def forward_rates(self, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """R_t[x, y] for every y, zero at y = x: (B, *event) -> (B, *event, n)."""
        return self._scaled(self.rates.rates_from(x, dtype), x, t)

    def rates_into(self, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """R_t[y, x] for every y, zero at y = x: (B, *event) -> (B, *event, n)."""
        return self._scaled(self.rates.rates_to(x, dtype), x, t)

    def _scaled(self, rates: Tensor, x: Tensor, t: Tensor) -> Tensor:
        rates = rates.scatter(-1, x.long()[..., None], 0.0)
        beta = per_example(self.beta(t), rates).to(rates.dtype)
        # Where beta is infinite, what cannot happen still cannot.
        return torch.where(rates > 0, rates * beta, 0.0)

    def conditional_ratio(self, x_0: Tensor, x_t: Tensor, t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`w_y = P_t[x_0, y] / P_t[x_0, x_t]`, zero where x_0 cannot have led to x_t: (B, *event, n).

        Arguments:
            x_0: clean states (B, *event).
            x_t: noisy states (B, *event).
            t: () or (B,).
            dtype: of the result; None means `rate_dtype(t)`.
        """
        rows = self.kernel(t, self.rate_dtype(t) if dtype is None else dtype).rows(x_0)
        at_x = rows.gather(-1, x_t.long()[..., None])
        return torch.where(at_x > 0, rows / at_x, 0.0)

    def posterior_ratio(self, p: Tensor, x_t: Tensor, t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`r_y = sum_{x_0} p(x_0) P_t[x_0, y] / P_t[x_0, x_t]`: (B, *event, n).

        Mass of p on an x_0 that cannot have led to x_t contributes nothing.

        Arguments:
            p: p(x_0 | x_t) of every dimension (B, *event, S).
            x_t: noisy states (B, *event).
            t: () or (B,).
            dtype: of the result; None means `rate_dtype(t)`.
        """
        kernel = self.kernel(t, self.rate_dtype(t) if dtype is None else dtype)
        evidence = kernel.columns(x_t)
        possible = evidence > 0
        # Divided by 1 where it is not used, so that no gradient there is undefined.
        weights = torch.where(possible, p.to(kernel.dtype) / torch.where(possible, evidence, 1.0), 0.0)
        return kernel.matmul(weights)

    def conditional_rates(self, x_0: Tensor, x_t: Tensor, t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`R_t[y, x_t] w_y`: the reverse rates given x_0, zero at y = x_t: (B, *event, n)."""
        return self.reverse_rates(self.conditional_ratio(x_0, x_t, t, dtype), x_t, t)

    def reverse_rates(self, r: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """`R_t[y, x_t] r_y`, zero at y = x_t, in the dtype of r: (B, *event, n) -> (B, *event, n)."""
        rates = self.rates_into(x_t, t, r.dtype)
        return torch.where(rates > 0, rates * r, 0.0)

    def bridge(self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_s ~ q(x_s | x_0, x_t) for s <= t, each () or (B,): (B, *event) -> (B, *event), int64.

        Where x_0 cannot have led to x_t, x_s is drawn from `P_{s -> t}[., x_t]` alone.
        """
        return self.rates.sample_bridge(x_0, x_t, self.tau(s), self.tau(t), generator)

    def bridge_law(self, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """q(x_s | x_0, x_t) for every clean x_0, in float64: (B, *event) -> (B, *event, S, n); for enumeration only.

        Arguments:
            x_t: noisy states (B, *event).
            s: the earlier time, ().
            t: the later time, ().
        """
        tau_s, tau_t = self.tau(s), self.tau(t)
        clean = torch.arange(self.rates.data_states, device=x_t.device)
        column = self.rates.transition_to(x_t, remaining(tau_s, tau_t))[..., None, :]  # (B, *event, 1, n)
        law = self.rates.transition_from(clean, tau_s) * column  # (B, *event, S, n)
        itself = torch.zeros_like(column).scatter_(-1, x_t.long()[..., None, None], 1.0)
        law = torch.where(law.sum(-1, keepdim=True) > 0, law, column)
        law = torch.where(law.sum(-1, keepdim=True) > 0, law, itself)
        return law / law.sum(-1, keepdim=True)
