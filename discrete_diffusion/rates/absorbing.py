"""Absorbing noise: values become masked and stay masked.

The data have S values. The process has S + 1 states; the last state, m = S, is the mask.

    R[x, m] = 1,  R[x, x] = -1  (x != m);   P_tau[x, x] = alpha,  P_tau[x, m] = 1 - alpha,   alpha = exp(-tau)

References:
    Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021) | https://arxiv.org/abs/2107.03006
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusion_core import Generator, as_randomness, per_example
from diffusion_core.ranges import check_arguments
from discrete_diffusion.rates.base import NumStates, RateMatrix, TransitionKernel
from discrete_diffusion.rates.checks import check_bridge, check_states, check_tau

__all__ = ["AbsorbingRates"]


class AbsorbingRates(RateMatrix):
    """Absorbing noise: every value jumps to the mask with the rate 1, in 1 / unit of tau.

    A masked dimension stays masked. Every operation costs O(1) or O(S) per dimension.

    Arguments:
        data_states: S, the number of values of the data. The mask is state S.
    """

    def __init__(self, data_states: NumStates) -> None:
        check_arguments(AbsorbingRates, locals())
        super().__init__(data_states + 1, data_states, np.eye(data_states + 1)[-1])
        self.mask = data_states

    def kernel(self, tau: Tensor, dtype: torch.dtype | None = None) -> TransitionKernel:
        check_tau(tau)
        return _AbsorbingKernel(self, tau.double(), tau.dtype if dtype is None else dtype)

    def rates_from(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        x = x.long()[..., None]
        rate = (x != self.mask).to(dtype)
        rates = torch.zeros(*x.shape[:-1], self.num_states, dtype=dtype, device=x.device)
        rates[..., self.mask :] = rate
        return rates.scatter_(-1, x, -rate)

    def rates_to(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        x = x.long()[..., None]
        rates = (x == self.mask).to(dtype).expand(*x.shape[:-1], self.num_states).clone()
        rates[..., self.mask] = 0
        return rates.scatter_(-1, x, -(x != self.mask).to(dtype))

    def exit_rates(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return (~_at(x, self.mask)).to(dtype)

    def prior(self, tau_1: Tensor) -> Tensor:
        """Return the law (n,) from which sampling starts: the mask has probability 1 - alpha_1, and each value alpha_1 / S.

        `alpha_1 = exp(-tau_1)` is the probability that a value is not masked at t = 1. It is 0 for many schedules.
        """
        alpha = torch.exp(-tau_1.double())
        masked = -torch.expm1(-tau_1.double())
        return torch.cat([(alpha / self.data_states).expand(self.data_states), masked[None]])

    def sample_from(self, x: Tensor, tau: Tensor, generator: Generator = None) -> Tensor:
        check_states(x, self.num_states)
        check_tau(tau, len(x))
        u = as_randomness(generator).uniform(x.shape, torch.float64, x.device)
        masked = per_example(-torch.expm1(-tau.double()), x)
        return torch.where(u < masked, self.mask, x.long())

    def sample_bridge(self, x_0: Tensor, x_t: Tensor, tau_s: Tensor, tau_t: Tensor, generator: Generator = None) -> Tensor:
        rest = check_bridge(x_0, x_t, tau_s, tau_t, self.num_states)
        # A masked x_t was not masked at s with weight alpha_s (1 - alpha_r), and masked with weight 1 - alpha_s.
        open_ = per_example(torch.exp(-tau_s.double()) * -torch.expm1(-rest), x_0)
        closed = per_example(-torch.expm1(-tau_s.double()), x_0)
        u = as_randomness(generator).uniform(x_0.shape, torch.float64, x_0.device)
        return torch.where(_at(x_t, self.mask) & (u * (open_ + closed) < open_), x_0.long(), x_t.long())


def _at(x: Tensor, mask: int) -> Tensor:
    """Return True where x is the mask. The comparison is in int64, because in uint8 the mask 256 would equal 0."""
    return x.long() == mask


class _AbsorbingKernel(TransitionKernel):
    def __init__(self, rates: AbsorbingRates, tau: Tensor, dtype: torch.dtype) -> None:
        super().__init__(rates, tau, dtype)
        self._mask = rates.mask
        self._alpha = torch.exp(-tau).to(dtype)
        self._masked = (-torch.expm1(-tau)).to(dtype)

    def rows(self, x: Tensor) -> Tensor:
        rows = torch.zeros(*x.shape, self._mask + 1, dtype=self.dtype, device=x.device)
        rows[..., self._mask] = per_example(self._masked, x).expand(x.shape)
        stays = torch.where(_at(x, self._mask), 1.0, per_example(self._alpha, x))
        return rows.scatter_(-1, x.long()[..., None], stays[..., None])

    def columns(self, x: Tensor) -> Tensor:
        at_mask = _at(x, self._mask)[..., None]
        value = torch.arange(self._mask, device=x.device)
        alpha, masked = per_example(self._alpha, x)[..., None], per_example(self._masked, x)[..., None]
        return torch.where(at_mask, masked, torch.where(value == x[..., None], alpha, 0.0))

    def entries(self, x: Tensor, y: Tensor) -> Tensor:
        stays = torch.where(_at(x, self._mask), 1.0, per_example(self._alpha, x))
        return torch.where(x == y, stays, torch.where(_at(y, self._mask), per_example(self._masked, x), 0.0))

    def matmul(self, w: Tensor) -> Tensor:
        w = w.to(self.dtype)
        data = w[..., : self._mask]
        # The weight of the mask stays there. Weights over the data states only have no entry for the mask.
        at_mask = per_example(self._masked, w) * data.sum(-1, keepdim=True) + w[..., self._mask :].sum(-1, keepdim=True)
        return torch.cat([per_example(self._alpha, w) * data, at_mask], -1)

    def rmatmul(self, g: Tensor) -> Tensor:
        g = g.to(self.dtype)
        return per_example(self._alpha, g) * g[..., : self._mask] + per_example(self._masked, g) * g[..., self._mask :]

    def inflow(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        w = w.to(self.dtype)
        alpha, masked = per_example(self._alpha, x), per_example(self._masked, x)
        total = w.sum(-1)
        at_mask = _at(x, self._mask)
        w_x = w.gather(-1, x.long().clamp(max=self._mask - 1)[..., None])[..., 0]
        return torch.where(at_mask, masked * total, alpha * w_x), torch.where(at_mask, alpha * total, 0.0)

    def inflow_columns(self, x: Tensor) -> Tensor:
        rate = torch.where(_at(x, self._mask), per_example(self._alpha, x), 0.0)
        return rate[..., None].expand(*x.shape, self._mask)

    def draw_inflow(self, x_0: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return x_0.long()
