"""The forward process: every dimension is an independent continuous-time Markov chain.

    q(x_t^d | x_0^d) = P_t[x_0^d, x_t^d],   P_t = exp(tau(t) R),   R_t = beta(t) R

R is the rate matrix (generator). beta(t) is the rate factor of the schedule and tau(t) its integral from 0 to t. The
following holds for one dimension. x_0 is the clean state, x = x_t the noisy state and y any state.

    w_y = P_t[x_0, y] / P_t[x_0, x]                          conditional ratio
    r_y = sum_{x_0} p(x_0 | x) w_y(x_0)                      posterior ratio of the x0 parameterisation
    R_t[y, x] w_y,   R_t[y, x] r_y                           reverse rates given x_0, and of the model
    q(x_s | x_0, x_t)                                        bridge, proportional to P_s[x_0, x_s] P_{s -> t}[x_s, x_t]

tau and P are computed in float64 for every dtype of t. Ratios are in float32 where this is accurate enough
(see `rate_dtype`). Elsewhere they are in float64, because transition probabilities underflow at small t.
No epsilon is added to a denominator: a ratio with the denominator 0 is set to 0.

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

__all__ = ["CTMC", "draw_independent"]


def draw_independent(law: Tensor, shape: Sequence[int], generator: Generator = None) -> Tensor:
    """Draw all dimensions independently from one law (n,), float64. The result is int64 and has the given shape."""
    # All dimensions have the same law, so one binary search is enough. `inverse_cdf` needs a copy of the law for each.
    cumulative = law.cumsum(0)
    u = as_randomness(generator).uniform(shape, torch.float64, law.device)
    # v stays below the last cumulative value. Otherwise rounding could select a state of probability zero.
    v = torch.minimum(u * cumulative[-1], torch.nextafter(cumulative[-1], torch.zeros_like(cumulative[-1])))
    return torch.searchsorted(cumulative, v, right=True)


class CTMC(diffusion_core.Process):
    """A continuous-time Markov chain for each dimension, given by a rate matrix and a schedule.

    Arguments:
        rates: the rate matrix (generator) R on n states. The first S states are the values of the data.
        schedule: the rate factor beta(t) and its integral tau(t).
    """

    def __init__(self, rates: RateMatrix, schedule: Schedule) -> None:
        super().__init__()
        self.rates = rates
        self.schedule = schedule

    def sample(self, x_0: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_t ~ q(x_t | x_0): (B, *event) -> (B, *event), int64.

        Raises:
            ValueError: x_0 does not have an integer dtype, or has values outside 0 .. S - 1.
            ValueError: t does not have the shape () or (B,), or has values outside [0, 1].
        """
        self.check_data(x_0)
        check_time(t, len(x_0))
        return self.rates.sample_from(x_0, self.tau(t), generator)

    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Add noise from time s to a later time t: draw `x_t ~ P_{s -> t}[x_s, .]`, (B, *event) -> (B, *event), int64.

        s and t have the shape () or (B,).
        """
        check_time(s, len(x_s))
        check_time(t, len(x_s))
        return self.rates.sample_from(x_s, remaining(self.tau(s), self.tau(t)), generator)

    def prior(self, shape: Sequence[int], generator: Generator = None) -> Tensor:
        """Draw the noise x_1 from which sampling starts. The result is int64 and has the given shape."""
        return draw_independent(self.prior_law(self.rates.stationary.device), shape, generator)

    def prior_law(self, device: torch.device) -> Tensor:
        """Return the law of one dimension of x_1 from which sampling starts: (n,), float64."""
        return self.rates.prior(self.tau(torch.ones((), dtype=torch.float64, device=device)))

    def check_data(self, x_0: Tensor) -> None:
        """Raise an error if clean data are not integers in 0 .. S - 1.

        Raises:
            ValueError: x_0 has no batch axis, does not have an integer dtype, or has a value out of range.
        """
        if x_0.ndim < 1:
            raise ValueError("x_0 has shape (), expected (B, *event)")
        check_states(x_0, self.rates.data_states, "x_0")

    def beta(self, t: Tensor) -> Tensor:
        """Return the rate factor of the schedule in 1 / unit of t, in float64 for every dtype of t."""
        return self.schedule(t.double())[0]

    def tau(self, t: Tensor) -> Tensor:
        """Return the integral of the rate factor from 0 to t, in float64 for every dtype of t."""
        return self.schedule(t.double())[1]

    def kernel(self, t: Tensor, dtype: torch.dtype = torch.float32) -> TransitionKernel:
        """Return P_t as a linear operator that returns tensors of the given dtype. t has the shape () or (B,)."""
        return self.rates.kernel(self.tau(t), dtype)

    def needs_float64(self, t: Tensor) -> Tensor:
        """Return a bool tensor with the shape of t: True where ratios need float64.

        Ratios need float64 where a transition probability is below 1e-18.
        """
        return self.tau(t) <= self.rates.float32_range[0]

    def nearly_mixed(self, t: Tensor) -> Tensor:
        """Return a bool tensor with the shape of t: True where the noise is so strong that all ratios w are near 1.

        The differences between such ratios lose their digits in float32, so they need float64.
        """
        return self.tau(t) > self.rates.float32_range[1]

    def rate_dtype(self, t: Tensor) -> torch.dtype:
        """Return the dtype for ratios and rates at the times t: float64 if any of the times needs it, else float32.

        On an accelerator the dtype is always float64. A choice would need the values of t. To read them, the program would
        have to wait until the accelerator has finished its work.
        """
        return torch.float32 if least(self.tau(t)) > self.rates.float32_range[0] else torch.float64

    def divergence_dtypes(self, t: Tensor) -> list[torch.dtype]:
        """Return a dtype for each time of t (B,). In this dtype, the difference of two ratios has about 4 correct digits."""
        wide = listed(self.needs_float64(t) | self.nearly_mixed(t), unseen=True)
        return [torch.float64 if needed else torch.float32 for needed in wide]

    def forward_rates(self, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the forward rates out of x: R_t[x, y] for every y, and zero at y = x. (B, *event) -> (B, *event, n)."""
        return self._scaled(self.rates.rates_from(x, dtype), x, t)

    def rates_into(self, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the forward rates into x: R_t[y, x] for every y, and zero at y = x. (B, *event) -> (B, *event, n)."""
        return self._scaled(self.rates.rates_to(x, dtype), x, t)

    def _scaled(self, rates: Tensor, x: Tensor, t: Tensor) -> Tensor:
        rates = rates.scatter(-1, x.long()[..., None], 0.0)
        beta = per_example(self.beta(t), rates).to(rates.dtype)
        # An impossible jump has rate zero even where beta is infinite.
        return torch.where(rates > 0, rates * beta, 0.0)

    def conditional_ratio(self, x_0: Tensor, x_t: Tensor, t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the conditional ratio `w_y = P_t[x_0, y] / P_t[x_0, x_t]`: (B, *event, n).

        The ratio is zero where x_t cannot be reached from x_0.

        Arguments:
            x_0: clean states (B, *event).
            x_t: noisy states (B, *event).
            t: the time, () or (B,).
            dtype: the dtype of the result; None means `rate_dtype(t)`.
        """
        rows = self.kernel(t, self.rate_dtype(t) if dtype is None else dtype).rows(x_0)
        at_x = rows.gather(-1, x_t.long()[..., None])
        return torch.where(at_x > 0, rows / at_x, 0.0)

    def posterior_ratio(self, p: Tensor, x_t: Tensor, t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the posterior ratio `r_y = sum_{x_0} p(x_0) P_t[x_0, y] / P_t[x_0, x_t]`: (B, *event, n).

        The sum leaves out each x_0 from which x_t cannot be reached.

        Arguments:
            p: p(x_0 | x_t) of every dimension (B, *event, S).
            x_t: noisy states (B, *event).
            t: the time, () or (B,).
            dtype: the dtype of the result; None means `rate_dtype(t)`.
        """
        kernel = self.kernel(t, self.rate_dtype(t) if dtype is None else dtype)
        evidence = kernel.columns(x_t)
        possible = evidence > 0
        # Unused quotients have the denominator 1, because 0 would make their gradients undefined.
        weights = torch.where(possible, p.to(kernel.dtype) / torch.where(possible, evidence, 1.0), 0.0)
        return kernel.matmul(weights)

    def conditional_rates(self, x_0: Tensor, x_t: Tensor, t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the reverse rates given x_0, `R_t[y, x_t] w_y`, and zero at y = x_t: (B, *event, n)."""
        return self.reverse_rates(self.conditional_ratio(x_0, x_t, t, dtype), x_t, t)

    def reverse_rates(self, r: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the reverse rates `R_t[y, x_t] r_y`, and zero at y = x_t: (B, *event, n) -> (B, *event, n).

        The result has the dtype of r.
        """
        rates = self.rates_into(x_t, t, r.dtype)
        return torch.where(rates > 0, rates * r, 0.0)

    def bridge(self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_s ~ q(x_s | x_0, x_t): (B, *event), int64.

        If x_t cannot be reached from x_0, then x_0 is ignored, and x_s is drawn with a probability proportional to
        `P_{s -> t}[x_s, x_t]`.

        Arguments:
            x_0: clean states (B, *event).
            x_t: noisy states (B, *event).
            s: the earlier time, () or (B,), at most t.
            t: the later time, () or (B,).
            generator: the source of randomness.
        """
        return self.rates.sample_bridge(x_0, x_t, self.tau(s), self.tau(t), generator)

    def bridge_law(self, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Return q(x_s | x_0, x_t) for every clean x_0, in float64: (B, *event) -> (B, *event, S, n).

        The result needs much memory. Use it only for processes with few states and dimensions.

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
