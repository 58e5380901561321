"""Reverse and forward jump rates, as objects from which samplers draw jumps.

At a fixed time, dimension d of a chain jumps from its value x^d to another value y with a rate rate_d(y). A sampler needs
the exit rate and a destination for each jump. The exact law of a step also needs the list of all rates. A `Jumps` object
gives these three. Only the last one needs a vector of n rates for each dimension.

    exit_rates   Lambda_d = sum_{y != x^d} rate_d(y)
    draw         y with the probability rate_d(y) / Lambda_d
    rows         rate_d(y) for every y

The reverse rates are `R_t[y, x] (w P)_y / (w P)_x` with weights w over the clean value. w is p_loo in the leave-one-out
parameterisation and p / P[., x] in the x0 parameterisation. The exit rate is an inner product of w with one column of
`H = P R_offdiagonal`. A destination is drawn in two stages: first x_0 with a probability proportional to
`w(x_0) H[x_0, x]`, then y with a probability proportional to `P[x_0, y] R[y, x]`. So the product w P is not computed.

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

__all__ = [
    "ForwardJumps",
    "Jumps",
    "ListedJumps",
    "ReverseJumps",
    "StillJumps",
    "SumJumps",
    "UnmaskingJumps",
    "still",
    "unmasking_rate",
]


class Jumps(ABC):
    """The jump rates of every dimension of a batch at one time, in 1 / unit of t.

    Arguments:
        x: the current states (B, *event).
        num_states: the number n of states.
    """

    exit_rates: Tensor
    """The exit rate of every dimension, the sum of its rates: (B, *event). The constructor of a subclass computes it."""

    def __init__(self, x: Tensor, num_states: int) -> None:
        self.x = x
        self.num_states = num_states

    @abstractmethod
    def rows(self, positions: Tensor) -> Tensor:
        """Return all rates of some dimensions; the rate to the current state is zero. Flat positions (M,) -> (M, n)."""

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        """Draw one jump destination for each position: flat positions (M,), uniform numbers (M, 3) in float64 -> (M,)."""
        return inverse_cdf(self.rows(positions), u[:, 0])

    def matrix(self) -> Tensor:
        """Return all rates of all dimensions, and zero for the current states: (B, *event, n)."""
        positions = torch.arange(self.x.numel(), device=self.x.device)
        return self.rows(positions).reshape(*self.x.shape, self.num_states)


class ListedJumps(Jumps):
    """Jumps with given rates.

    Arguments:
        x: the current states (B, *event).
        rates: the rates (B, *event, n), zero for the current state.
    """

    def __init__(self, x: Tensor, rates: Tensor) -> None:
        super().__init__(x, rates.shape[-1])
        self._rates = rates
        self.exit_rates = rates.sum(-1)

    def rows(self, positions: Tensor) -> Tensor:
        return self._rates.flatten(0, -2).index_select(0, positions)


class ReverseJumps(Jumps):
    """Jumps of the reverse process, with the rates `R_t[y, x] (w P)_y / (w P)_x`, or `R_t[y, x] (w P)_y`.

    Arguments:
        process: the forward process.
        x: the noisy states x_t (B, *event).
        t: the time, ().
        scores: log w (B, *event, S) over the clean value. If `divided`, a constant for each dimension has no effect.
        divided: whether the rates are divided by (w P)_x.
    """

    def __init__(self, process: CTMC, x: Tensor, t: Tensor, scores: Tensor, divided: bool = True) -> None:
        super().__init__(x, process.rates.num_states)
        self._rates = process.rates
        self._kernel = process.kernel(t, scores.dtype)
        self._scores = scores
        self._inflow = self._kernel.inflow_draws(scores, x)
        beta = process.schedule(t)[0].to(scores.dtype)
        self._scale = beta / self._inflow.at_x if divided else beta * self._inflow.shift.exp()
        self.exit_rates = self._inflow.total * self._scale

    def rows(self, positions: Tensor) -> Tensor:
        # Matrix products with few rows and with many rows are rounded differently. The number of rows is rounded up to a
        # multiple of 64, so that the draws of one sample do not depend on the other samples.
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
    """Reverse jumps of absorbing processes: a masked dimension jumps to y with rate `-alpha'/(1 - alpha) p(y | x_t)`.

    Arguments:
        x: the noisy states x_t (B, *event).
        mask: the mask state, which is also the number of data states.
        rate: `-alpha'/(1 - alpha)`, ().
        probs: p(x_0 | x_t) (B, *event, S).
    """

    def __init__(self, x: Tensor, mask: int, rate: Tensor, probs: Tensor) -> None:
        super().__init__(x, mask + 1)
        self._probs = probs
        self.exit_rates = (x == mask) * rate.to(probs.dtype)

    def rows(self, positions: Tensor) -> Tensor:
        probs = self._probs.flatten(0, -2).index_select(0, positions)
        return F.pad(probs * self.exit_rates.flatten()[positions, None], (0, 1))


class ForwardJumps(Jumps):
    """Jumps of the forward process, with the rates `R_t[x, y]`.

    Arguments:
        process: the forward process.
        x: the current states (B, *event).
        t: the time, ().
        dtype: the dtype of the rates.
    """

    def __init__(self, process: CTMC, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(x, process.rates.num_states)
        self._rates = process.rates
        self._beta = process.schedule(t)[0].to(dtype)
        self.exit_rates = self._beta * self._rates.exit_rates(x, dtype)

    def rows(self, positions: Tensor) -> Tensor:
        x = self.x.flatten()[positions]
        return self._beta * self._rates.rates_from(x, self.exit_rates.dtype).scatter(-1, x[:, None], 0.0)


class SumJumps(Jumps):
    """Jumps whose rates are the sum of the rates of two other `Jumps`.

    Arguments:
        first: jumps of a batch.
        second: other jumps of the same batch.
    """

    def __init__(self, first: Jumps, second: Jumps) -> None:
        super().__init__(first.x, first.num_states)
        self._first = first
        self._second = second
        self.exit_rates = first.exit_rates + second.exit_rates

    def rows(self, positions: Tensor) -> Tensor:
        return self._first.rows(positions) + self._second.rows(positions)

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        first = self._first.exit_rates.flatten()[positions].to(u.dtype)
        second = self._second.exit_rates.flatten()[positions].to(u.dtype)
        v = u[:, 0] * (first + second)
        use_first = v < first
        # Given the choice, the rescaled v is uniform on [0, 1) again.
        u_first = torch.where(use_first, v / first, 0.5)
        u_second = torch.where(use_first, 0.5, (v - first) / second)
        below_one = 1 - 2.0**-53
        from_first = self._first.draw(positions, torch.cat([u_first.clamp(0, below_one)[:, None], u[:, 1:]], -1))
        from_second = self._second.draw(positions, torch.cat([u_second.clamp(0, below_one)[:, None], u[:, 1:]], -1))
        return torch.where(use_first, from_first, from_second)


class StillJumps(Jumps):
    """The jumps of another `Jumps`, except in known dimensions, which do not jump.

    Arguments:
        jumps: the jumps of a batch.
        known: the dimensions that do not jump, bool (B, *event).
    """

    def __init__(self, jumps: Jumps, known: Tensor) -> None:
        super().__init__(jumps.x, jumps.num_states)
        self._jumps = jumps
        self._known = known
        self.exit_rates = torch.where(known, 0.0, jumps.exit_rates)

    def rows(self, positions: Tensor) -> Tensor:
        return torch.where(self._known.flatten()[positions, None], 0.0, self._jumps.rows(positions))

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        return self._jumps.draw(positions, u)


def still(jumps: Jumps, known: Tensor | None) -> Jumps:
    """Return the given jumps without those of known dimensions.

    A `State` keeps its known values anyway. Without this function, jumps of known dimensions would be drawn and counted,
    with rates of a network that was never trained on these dimensions.

    Arguments:
        jumps: the jumps of a batch.
        known: the known dimensions, bool (B, *event). None means that no dimension is known.
    """
    return jumps if known is None else StillJumps(jumps, known)


def unmasking_rate(process: CTMC, t: Tensor, like: Tensor) -> Tensor:
    """Return the rate `-alpha'/(1 - alpha)` at which a masked dimension of an absorbing process is unmasked.

    The rate is finite even where beta is infinite. Its shape broadcasts over `like`.
    """
    # 1 - alpha is computed from tau, because the difference loses all digits near t = 0.
    return per_example(process.schedule.survival(t.double())[1] / torch.expm1(-process.tau(t)), like)
