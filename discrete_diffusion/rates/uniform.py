"""Uniform noise: with the rate `scale`, a value is replaced by a new value, drawn uniformly from all S values.

    R = scale (1 1^T / S - I),   P_tau = a I + b 1 1^T,   a = exp(-scale tau),   b = (1 - a) / S

References:
    Argmax flows and multinomial diffusion (Hoogeboom et al., 2021) | https://arxiv.org/abs/2102.05379
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from diffusion_core import Generator, as_randomness, per_example
from diffusion_core.ranges import Positive, check_arguments
from discrete_diffusion.rates.base import NumStates, RateMatrix, TransitionKernel
from discrete_diffusion.rates.checks import check_bridge, check_states, check_tau

__all__ = ["UniformRates"]


class UniformRates(RateMatrix):
    """Uniform noise: every value jumps to every other value with the same rate.

    Every operation costs O(1) or O(S) per dimension.

    Arguments:
        num_states: S, the number of values of the data.
        scale: the rate at which a value is replaced by a uniform draw from all values, in 1 / unit of tau.
    """

    def __init__(self, num_states: NumStates, scale: Positive = 1.0) -> None:
        check_arguments(UniformRates, locals())
        super().__init__(num_states, stationary=np.full(num_states, 1 / num_states))
        self.scale = float(scale)

    def kernel(self, tau: Tensor, dtype: torch.dtype | None = None) -> TransitionKernel:
        check_tau(tau)
        return _UniformKernel(self, tau.double(), tau.dtype if dtype is None else dtype)

    def rates_from(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        rates = torch.full((*x.shape, self.num_states), self.scale / self.num_states, dtype=dtype, device=x.device)
        return rates.scatter_(-1, x.long()[..., None], -self._exit_rate)

    def rates_to(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.rates_from(x, dtype)

    def exit_rates(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full(x.shape, self._exit_rate, dtype=dtype, device=x.device)

    @property
    def _exit_rate(self) -> float:
        return self.scale * (1 - 1 / self.num_states)

    @property
    def float32_range(self) -> tuple[float, float]:
        return self.num_states * 1e-18 / self.scale, math.log(self.num_states / 0.03) / self.scale

    def sample_from(self, x: Tensor, tau: Tensor, generator: Generator = None) -> Tensor:
        check_states(x, self.num_states)
        check_tau(tau, len(x))
        u = as_randomness(generator).uniform(x.shape, torch.float64, x.device)
        forgotten = per_example(-torch.expm1(-self.scale * tau.double()), x)
        # Given u < forgotten, u / forgotten is uniform on [0, 1).
        return torch.where(u < forgotten, _index(u / forgotten, self.num_states), x.long())

    def sample_bridge(self, x_0: Tensor, x_t: Tensor, tau_s: Tensor, tau_t: Tensor, generator: Generator = None) -> Tensor:
        rest = check_bridge(x_0, x_t, tau_s, tau_t, self.num_states)
        # (a_s [k = x_0] + b_s) (a_r [k = x_t] + b_r) is a mixture of x_0, x_t and the uniform law.
        a_s, b_s = (per_example(value, x_0) for value in self._coefficients(tau_s.double()))
        a_r, b_r = (per_example(value, x_0) for value in self._coefficients(rest))
        at_x_0 = a_s * b_r + torch.where(x_0 == x_t, a_s * a_r, 0.0)
        at_x_t = a_r * b_s
        anywhere = self.num_states * b_s * b_r
        v = as_randomness(generator).uniform(x_0.shape, torch.float64, x_0.device) * (at_x_0 + at_x_t + anywhere)
        x_s = torch.where(v < at_x_0 + at_x_t, x_t.long(), _index((v - at_x_0 - at_x_t) / anywhere, self.num_states))
        x_s = torch.where(v < at_x_0, x_0.long(), x_s)
        return torch.where(at_x_0 + at_x_t + anywhere > 0, x_s, x_t.long())

    def _coefficients(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        return torch.exp(-self.scale * tau), -torch.expm1(-self.scale * tau) / self.num_states


def _index(u: Tensor, size: int) -> Tensor:
    """Map uniform numbers in [0, 1) to integers in 0 .. size - 1. Other numbers give an arbitrary one of these integers."""
    return (torch.nan_to_num(u, 0.0, 0.0, 0.0) * size).long().clamp(0, size - 1)


class _UniformKernel(TransitionKernel):
    def __init__(self, rates: UniformRates, tau: Tensor, dtype: torch.dtype) -> None:
        super().__init__(rates, tau, dtype)
        self._num_states = n = rates.num_states
        self._scale = rates.scale
        self._forgotten = -torch.expm1(-rates.scale * tau)
        self._a = torch.exp(-rates.scale * tau).to(dtype)
        self._b = (self._forgotten / n).to(dtype)
        self._same = (1 - self._forgotten * ((n - 1) / n)).to(dtype)

    def rows(self, x: Tensor) -> Tensor:
        b, same = per_example(self._b, x), per_example(self._same, x)
        rows = b[..., None].expand(*x.shape, self._num_states).clone()
        return rows.scatter_(-1, x.long()[..., None], same.expand(x.shape)[..., None])

    def columns(self, x: Tensor) -> Tensor:
        return self.rows(x)

    def entries(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(x == y, per_example(self._same, x), per_example(self._b, x))

    def matmul(self, w: Tensor) -> Tensor:
        w = w.to(self.dtype)
        return per_example(self._a, w) * w + per_example(self._b, w) * w.sum(-1, keepdim=True)

    def rmatmul(self, g: Tensor) -> Tensor:
        return self.matmul(g)

    def inflow(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        w = w.to(self.dtype)
        a, b = per_example(self._a, x), per_example(self._b, x)
        total = w.sum(-1)
        w_x = w.gather(-1, x.long()[..., None])[..., 0]
        elsewhere = a * (total - w_x) + (self._num_states - 1) * b * total
        return a * w_x + b * total, self._scale / self._num_states * elsewhere

    def inflow_columns(self, x: Tensor) -> Tensor:
        # sum_{y != x} P[x_0, y] = 1 - P[x_0, x]
        b, rate = per_example(self._b, x), self._scale / self._num_states
        at_x = rate * per_example((self._forgotten * ((self._num_states - 1) / self._num_states)).to(self.dtype), x)
        columns = (rate * (1 - b))[..., None].expand(*x.shape, self._num_states).clone()
        return columns.scatter_(-1, x.long()[..., None], at_x.expand(x.shape)[..., None])

    def draw_inflow(self, x_0: Tensor, x: Tensor, u: Tensor) -> Tensor:
        n = self._num_states
        x_0, x = x_0.long(), x.long()
        b, same = self._forgotten / n, 1 - self._forgotten * ((n - 1) / n)
        # If x_0 = x: uniformly one of the other n - 1 values. If not: x_0 itself, or one of the remaining n - 2 values.
        other = _index(u, n - 1)
        other = other + (other >= x)
        v = u * (same + (n - 2) * b)
        third = _index((v - same) / (b * max(n - 2, 1)), max(n - 2, 1))
        third = third + (third >= torch.minimum(x_0, x))
        third = third + (third >= torch.maximum(x_0, x))
        return torch.where(x_0 == x, other, torch.where(v < same, x_0, third))
