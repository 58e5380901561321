"""Reverse and forward jump rates as objects that samplers draw from.

At a fixed time every dimension d of a chain jumps from x^d to y with some rate. A sampler
needs three things of these rates: their total, a destination for a jump that happens, and,
for the exact law of a step, all of them. A `Jumps` gives the three, and only the last one
costs a vector of n rates for every dimension:

    total   Lambda_d = sum_{y != x^d} rate_d(y)
    draw    y ~ rate_d(y) / Lambda_d
    rows    rate_d(.)

With weights w over the clean value (p_loo for the leave-one-out reading, p / P[., x] for the
x0 reading) the reverse rates are `R_t[y, x] (w P)_y / (w P)_x`. Their total is an inner
product with one column of `H = P R_offdiagonal`, and a destination is drawn in two stages,
`x_0 ~ w(x_0) H[x_0, x]`, then `y ~ P[x_0, y] R[y, x]`: no product (w P) is ever formed.

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_core import per_example
from diffusion_core.distributions import inverse_cdf
from diffusion_core.distributions.numerics import flushed_exp
from discrete_diffusion.process import CTMC

__all__ = ["ForwardJumps", "Jumps", "ListedJumps", "ReverseJumps", "SumJumps", "UnmaskingJumps", "unmasking_rate"]


class Jumps(ABC):
    """The jump rates of every dimension of a batch at one time, in 1 / unit of t.

    Arguments:
        x: the current states (B, *event).
        num_states: the number n of states.
    """

    def __init__(self, x: Tensor, num_states: int) -> None:
        self.x = x
        self.num_states = num_states

    @property
    @abstractmethod
    def total(self) -> Tensor:
        """The total rate of every dimension: (B, *event)."""

    @abstractmethod
    def rows(self, positions: Tensor) -> Tensor:
        """All rates of some dimensions, zero for staying: flat positions (M,) -> (M, n)."""

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        """Destinations of jumps that happen: flat positions (M,), uniforms (M, 3) in float64 -> (M,)."""
        return inverse_cdf(self.rows(positions), u[:, 0])

    def matrix(self) -> Tensor:
        """All rates of all dimensions: (B, *event, n)."""
        positions = torch.arange(self.x.numel(), device=self.x.device)
        return self.rows(positions).reshape(*self.x.shape, self.num_states)


class ListedJumps(Jumps):
    """Rates that are all written down.

    Arguments:
        x: the current states (B, *event).
        rates: the rates (B, *event, n), zero for staying.
    """

    def __init__(self, x: Tensor, rates: Tensor) -> None:
        super().__init__(x, rates.shape[-1])
        self._rates = rates
        self._total = rates.sum(-1)

    @property
    def total(self) -> Tensor:
        return self._total

    def rows(self, positions: Tensor) -> Tensor:
        return self._rates.flatten(0, -2).index_select(0, positions)


class ReverseJumps(Jumps):
    """`R_t[y, x] (w P)_y / (w P)_x` for scalar t, or without the division.

    Arguments:
        process: the forward process.
        x: x_t (B, *event).
        t: the time, ().
        scores: log w (B, *event, S) over the clean value; up to a constant a dimension where a ratio is taken.
        divided: whether (w P)_y is divided by (w P)_x; else w is taken as it is.
    """

    def __init__(self, process: CTMC, x: Tensor, t: Tensor, scores: Tensor, divided: bool = True) -> None:
        super().__init__(x, process.rates.num_states)
        self._rates = process.rates
        self._kernel = process.kernel(t, scores.dtype)
        self._scores = scores
        self._inflow = self._kernel.inflow_draws(scores, x)
        beta = process.schedule(t)[0].to(scores.dtype)
        self._scale = beta / self._inflow.at_x if divided else beta * self._inflow.shift.exp()
        self._total = self._inflow.total * self._scale

    @property
    def total(self) -> Tensor:
        return self._total

    def rows(self, positions: Tensor) -> Tensor:
        # A matrix product of few rows is rounded in another way than one of many: rounded up to 64 rows, what one
        # chain draws does not depend on the others.
        padded = F.pad(positions, (0, -len(positions) % 64))
        shift = self._inflow.shift.flatten().index_select(0, padded)
        weights = self._scores.flatten(0, -2).index_select(0, padded).sub_(shift[:, None])
        flushed_exp(weights, out=weights)
        flow = self._kernel.matmul(weights)[: len(positions)]
        x = self.x.flatten()[positions]
        rates = self._rates.rates_to(x, weights.dtype).scatter(-1, x[:, None], 0.0)
        return flow.mul_(rates).mul_(self._scale.flatten()[positions, None])

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        if u.shape != (len(positions), 3):
            raise ValueError(f"u has shape {tuple(u.shape)}, expected ({len(positions)}, 3)")
        return self._inflow.draw(positions, u)


class UnmaskingJumps(Jumps):
    """Absorbing processes: a masked dimension becomes y with rate `-alpha'/(1 - alpha) p(y | x_t)`.

    Arguments:
        x: x_t (B, *event).
        mask: the mask state, which is also the number of data states.
        rate: -alpha'/(1 - alpha), ().
        probs: p(x_0 | x_t) (B, *event, S).
    """

    def __init__(self, x: Tensor, mask: int, rate: Tensor, probs: Tensor) -> None:
        super().__init__(x, mask + 1)
        self._probs = probs
        self._total = (x == mask) * rate.to(probs.dtype)

    @property
    def total(self) -> Tensor:
        return self._total

    def rows(self, positions: Tensor) -> Tensor:
        probs = self._probs.flatten(0, -2).index_select(0, positions)
        return F.pad(probs * self._total.flatten()[positions, None], (0, 1))


class ForwardJumps(Jumps):
    """The forward process itself: `R_t[x, y]`.

    Arguments:
        process: the forward process.
        x: x_t (B, *event).
        t: the time, ().
        dtype: the dtype of the rates.
    """

    def __init__(self, process: CTMC, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(x, process.rates.num_states)
        self._rates = process.rates
        self._beta = process.schedule(t)[0].to(dtype)
        self._total = self._beta * self._rates.exit_rates(x, dtype)

    @property
    def total(self) -> Tensor:
        return self._total

    def rows(self, positions: Tensor) -> Tensor:
        x = self.x.flatten()[positions]
        return self._beta * self._rates.rates_from(x, self._total.dtype).scatter(-1, x[:, None], 0.0)


class SumJumps(Jumps):
    """Two sets of jumps at once: the rates add.

    Arguments:
        first, second: jumps of the same batch.
    """

    def __init__(self, first: Jumps, second: Jumps) -> None:
        super().__init__(first.x, first.num_states)
        self._first = first
        self._second = second

    @property
    def total(self) -> Tensor:
        return self._first.total + self._second.total

    def rows(self, positions: Tensor) -> Tensor:
        return self._first.rows(positions) + self._second.rows(positions)

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        first = self._first.total.flatten()[positions].to(u.dtype)
        second = self._second.total.flatten()[positions].to(u.dtype)
        v = u[:, 0] * (first + second)
        use_first = v < first
        # The uniform that chose between the two is uniform again within its half.
        u_first = torch.where(use_first, v / first, 0.5)
        u_second = torch.where(use_first, 0.5, (v - first) / second)
        below_one = 1 - 2.0**-53
        from_first = self._first.draw(positions, torch.cat([u_first.clamp(0, below_one)[:, None], u[:, 1:]], -1))
        from_second = self._second.draw(positions, torch.cat([u_second.clamp(0, below_one)[:, None], u[:, 1:]], -1))
        return torch.where(use_first, from_first, from_second)


def unmasking_rate(process: CTMC, t: Tensor, like: Tensor) -> Tensor:
    """`-alpha'/(1 - alpha)` of an absorbing process, finite where beta is not; broadcasts over `like`."""
    # 1 - alpha from tau: near t = 0 the difference has no digits.
    return per_example(process.schedule.survival(t.double())[1] / torch.expm1(-process.tau(t)), like)
