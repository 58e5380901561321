"""Transition matrices `P_tau = exp(tau R)`: non-negative, with a small relative error in every entry.

Entries of P span a hundred orders of magnitude, and many formulas divide by them. So a small error of the whole matrix is
not enough. For example, with 256 states and a small tau, an eigendecomposition gives negative numbers for a fifth of the
entries. The methods below, except the third, only add and multiply non-negative numbers:

- uniformisation: with `lambda = max_x -R[x, x]` and the stochastic matrix `A = I + R / lambda`,

      exp(tau R) = sum_k Poisson(k; lambda tau) A^k

  The powers are computed and stored once. One product of Poisson weights and powers gives the matrices of many times. The
  sum stops when the remaining terms are below 1e-52.
- products: `P_{sigma + tau} = P_sigma P_tau` for long times. With `tau = rho + m tau_0`, the binary digits of m select
  the stored matrices `P_{2^j tau_0}` to multiply. A single time has a small tau_0, so that its sum is short. Many times
  have a larger one, because a sum for many times is one product.
- spectral: the matrix of a reversible chain is symmetric after scaling, `M = D P D^-1`, `D = diag(sqrt(pi))`. An
  eigendecomposition of M has an absolute error of about 1e-15. This is enough if no entry of M is small. `min_x P_tau[x, y]`
  never decreases with tau, because a row of `P_{sigma + tau}` is a mean of rows of P_tau. So a lower bound at one tau holds
  for all larger tau. The decomposition is used from the first tau at which its relative error is proven to be below 2.5e-7,
  if there is such a tau.
- the limit `1 pi^T` for larger tau.

References:
    Markoff chains as an aid in the study of Markoff processes (Jensen, 1953) | https://doi.org/10.1080/03461238.1953.10419459
    Numerical transient analysis of Markov models (Reibman and Trivedi, 1988) | https://doi.org/10.1016/0305-0548(88)90026-3
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_core.values import listed
from discrete_diffusion.rates.structure import is_reversible
from discrete_diffusion.rates.tables import Array, Tables

__all__ = ["TransitionMatrices"]

_TAIL = 1e-52  # the omitted rest of a sum: it does not change entries above 1e-38, even after many products
_FLUSH = 1e-150  # smaller entries of powers are set to zero, so that products are never subnormal
_FEW = 52  # the number of powers that is enough for lambda tau = _UNIT
_UNIT = 2.0  # lambda tau_0 of a single time
_LARGER = 6  # the tau_0 of many times is at most 2^6 times as large
_MEMORY = 2**28  # the most bytes of the stored powers
_LEVELS = 64  # the most doublings of tau


def _powers_needed(mean: float) -> int:
    """Return the number of powers k = 0, 1, .. for which `Poisson(k; mean)` sums to 1 - 1e-52."""
    log_mean, first = math.log(max(mean, 1e-300)), int(mean) + 1

    def exponent(k: int) -> float:
        """Return -log of a bound on the rest of the sum. It grows with k."""
        return mean + math.lgamma(k + 1) - k * log_mean + math.log1p(-mean / (k + 1))

    return first + bisect_left(range(first, 2 * first + 256), -math.log(_TAIL), key=exponent)


def _poisson_weights(mean: Tensor, count: int) -> Tensor:
    """Return `Poisson(k; mean)` for all k < count, with a small relative error: (...) -> (..., count)."""
    k = torch.arange(count, dtype=torch.float64, device=mean.device)
    mean = mean[..., None]
    log_weights = torch.xlogy(k, mean) - mean - torch.lgamma(k + 1)
    return torch.where(log_weights > -600, log_weights.clamp(min=-600).exp(), 0.0)


@dataclass(frozen=True)
class _Plan:
    """The ranges of tau for each method.

    Arguments:
        reach: the largest tau of uniformisation for many times.
        powers: the number of powers that this tau needs.
        level: the first of the stored matrices `P_{2^j tau_0}` that many times use: the one at reach.
        levels: the number of stored matrices from there on.
        spectral: the smallest tau of the eigendecomposition; inf if it is never used.
        cut: modes with `exp(w tau)` below exp(cut) are left out.
        rank: the number of modes that are used at tau = spectral. A plain number, because a compiler cannot count them.
        end: the smallest tau at which P is the limit.
    """

    reach: float
    powers: int
    level: int
    levels: int
    spectral: float
    cut: float
    rank: int
    end: float


class TransitionMatrices:
    """The function that maps tau to exp(tau R), in float64, for one tau or for many.

    Tables are built on first use. Copies share them.

    Arguments:
        generator: the rate matrix R (n, n).
        stationary: its stationary law pi (n,).
    """

    def __init__(self, generator: Array, stationary: Array) -> None:
        self._generator = generator
        self._stationary = stationary
        self._size = len(generator)
        self._rate = float(-generator.diagonal().min())
        self._tables = Tables()
        self._tables["limit"] = np.broadcast_to(stationary, generator.shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> TransitionMatrices:
        return self

    def __call__(self, tau: Tensor) -> Tensor:
        """Return P_tau: (n, n) for tau of shape (), (B, n, n) for tau of shape (B,). tau is float64 and can be infinite."""
        times = listed(tau.flatten(), unseen=None)
        if None in times:
            return self._anywhere(tau)
        return self._many(tau) if tau.ndim else self._one(*times)

    # -- tables, in numpy ----------------------------------------------------------------------

    def _powers(self, count: int) -> str:
        """Return the name of a table with at least `count` powers of A."""
        name = "few powers" if count <= _FEW else "powers"
        if name not in self._tables:
            self._tables[name] = self._build_powers(_FEW if count <= _FEW else self._plan.powers)
        return name

    def _build_powers(self, count: int) -> Array:
        step = np.eye(self._size) + self._generator / self._rate
        step[step < _FLUSH] = 0.0
        powers = np.empty((count, self._size, self._size))
        powers[0] = np.eye(self._size)
        size = 1
        while size < count:
            more = min(size, count - size)
            leap = powers[size - 1] @ step
            leap[leap < _FLUSH] = 0.0
            block = powers[size : size + more]
            np.matmul(powers[:more], leap, out=block)
            block[block < _FLUSH] = 0.0
            size += more
        return powers

    def _matrix(self, tau: float) -> Array:
        """Return P_tau, computed by scaling and squaring."""
        squarings = max(0, math.ceil(math.log2(max(self._rate * tau / _UNIT, 1.0))))
        weights = _poisson_weights_array(self._rate * tau / 2**squarings, _FEW)
        matrix: Array = np.tensordot(weights, self._tables[self._powers(_FEW)], 1)
        for _ in range(squarings):
            matrix = matrix @ matrix
        return _normalised(matrix)

    @cached_property
    def _plan(self) -> _Plan:
        unit, most = _UNIT / self._rate, max(_FEW, min(1024, _MEMORY // (8 * self._size**2)))
        level = max(k for k in range(_LARGER + 1) if _powers_needed(_UNIT * 2**k) <= most)
        spectral, cut = self._find_spectral()
        rank = self._rank(spectral, cut) if math.isfinite(spectral) else 0
        doublings = self._build_doublings(unit, spectral)
        self._tables["doublings"] = doublings
        end = unit * 2.0 ** len(doublings)
        spectral, end = (spectral, math.inf) if end >= spectral else (math.inf, end)
        reach, levels = unit * 2.0**level, len(doublings) - level
        if levels <= 0:
            reach, levels = min(spectral, end), 0
        return _Plan(reach, _powers_needed(reach * self._rate), level, levels, spectral, cut, rank, end)

    def _build_doublings(self, unit: float, spectral: float) -> Array:
        """Return the matrices `P_{2^j unit}`, up to the tau of the eigendecomposition or until P no longer changes."""
        matrix = self._matrix(unit)
        doublings: list[Array] = []
        while len(doublings) < _LEVELS and unit * 2.0 ** len(doublings) < spectral:
            doublings.append(matrix)
            longer = _normalised(matrix @ matrix)
            settled = [np.abs(longer - end) <= 1e-12 * end + 1e-45 for end in (matrix, self._stationary)]
            if any(values.all() for values in settled):
                break
            matrix = longer
        return np.stack(doublings)

    def _find_spectral(self) -> tuple[float, float]:
        """Return (tau, cut) with the first tau at which the eigendecomposition is proven accurate, or (inf, 0) for none."""
        if not is_reversible(self._generator, self._stationary):
            return math.inf, 0.0
        root = np.sqrt(self._stationary)
        symmetric = root[:, None] * self._generator / root
        w, v = np.linalg.eigh((symmetric + symmetric.T) / 2)
        w, v = w[-2::-1], v[:, -2::-1]  # slowest first; the stationary mode is known exactly
        if -w[0] < 1e-7 * self._rate:
            return math.inf, 0.0
        self._tables["modes"], self._tables["left"], self._tables["right"] = w, v / root[:, None], (v * root[:, None]).T
        mean = 16.0
        pair = [self._matrix(mean / self._rate), self._matrix(mean * math.sqrt(2) / self._rate)]
        while mean < 16.0 * 2**20:
            tau, matrix = mean / self._rate, pair.pop(0)
            approximate = self._stationary + (self._tables["left"] * np.exp(w * tau)) @ self._tables["right"]
            error = 4 * max(np.abs(root[:, None] * (approximate - matrix) / root).max(), 2 * np.finfo(np.float64).eps)
            # sqrt(pi_x / pi_y) P[x, y] is never smaller than this, at this tau or a later one.
            smallest = (root[:, None] / root * matrix.min(0)).min()
            if error <= 2.5e-7 * smallest:
                return tau, math.log(1e-9 * smallest / self._size)
            pair.append(_normalised(matrix @ matrix))
            mean *= math.sqrt(2)
        return math.inf, 0.0

    def _rank(self, tau: float, cut: float) -> int:
        """Return the number of modes with `exp(w tau)` above exp(cut), at least 1."""
        return max(1, int((self._tables["modes"] * tau > cut).sum()))

    def find_range(self, smallest: float, mixed: float) -> tuple[float, float]:
        """Return the first tau with `min P_tau >= smallest`, and the first tau with `max |P_tau / pi - 1| <= mixed`.

        Both conditions hold for all larger tau, because a row of P_{sigma + tau} is a mean of rows of P_tau. If pi has
        zeros, they never hold, and the result is (inf, inf).
        """
        if not (self._stationary > 0).all():
            return math.inf, math.inf

        def large(matrix: Array) -> bool:
            return bool(matrix.min() >= smallest)

        def flat(matrix: Array) -> bool:
            return bool(np.abs(matrix / self._stationary - 1).max() <= mixed)

        starts = []
        for holds in (large, flat):
            low, matrix = -20, self._matrix(2.0**-20 / self._rate)
            while not holds(matrix) and low < _LEVELS:
                low, matrix = low + 1, _normalised(matrix @ matrix)
            left, right = 2.0 ** (low - 1), 2.0**low
            for _ in range(4):
                middle = math.sqrt(left * right)
                left, right = (left, middle) if holds(self._matrix(middle / self._rate)) else (middle, right)
            starts.append(right / self._rate)
        return starts[0], starts[1]

    # -- at run time, in torch -----------------------------------------------------------------

    def _one(self, tau: float) -> Tensor:
        """Return P_tau of one time, on the CPU."""
        cpu = torch.device("cpu")
        if self._rate * tau > _UNIT:
            if self._plan.spectral <= tau and math.isfinite(self._plan.spectral):
                rank = self._rank(tau, self._plan.cut)
                return self._spectral(torch.tensor([tau], dtype=torch.float64), rank)[0]
            if tau >= self._plan.end:
                return self._tables.on("limit", cpu).clone()
        unit = _UNIT / self._rate
        whole = math.floor(tau / unit) if self._rate * tau > _UNIT else 0
        mean = torch.tensor(min(max(self._rate * (tau - whole * unit), 0.0), _UNIT), dtype=torch.float64)
        count = _powers_needed(mean.item())
        powers = self._tables.on(self._powers(_FEW), cpu)[:count]
        matrix = (_poisson_weights(mean, count) @ powers.flatten(1)).view(self._size, self._size)
        for level in range(whole.bit_length()):
            if whole >> level & 1:
                matrix = matrix @ self._tables.on("doublings", cpu)[level]
        return matrix.div_(matrix.sum(1, keepdim=True))

    def _many(self, tau: Tensor) -> Tensor:
        """Return P_tau of many times, on the CPU, with the cheapest method for each time."""
        plan, limit = self._plan, self._tables.on("limit", tau.device)
        spectral = (tau >= plan.spectral) & math.isfinite(plan.spectral)
        ended = (tau >= plan.end) & ~spectral
        whole = torch.where(spectral | ended, 0.0, (tau / plan.reach).floor())
        rest = torch.where(spectral | ended, 0.0, (tau - whole * plan.reach).clamp(0, plan.reach))
        result = torch.empty(len(tau), self._size, self._size, dtype=torch.float64)
        left = ~(spectral | ended)
        # Small times need few powers, so the times are divided into groups.
        for bound in (plan.reach / 16, plan.reach / 4, plan.reach):
            group = (left & (rest <= bound)).nonzero()[:, 0]
            left[group] = False
            if len(group):
                count = _powers_needed(self._rate * float(rest[group].max()))
                powers = self._tables.on(self._powers(count), tau.device)[:count].flatten(1)
                sums = _poisson_weights(self._rate * rest[group], count) @ powers
                if len(group) == len(tau):
                    result = sums.view_as(result)
                else:
                    result[group] = sums.view(-1, self._size, self._size)
        for level in range(plan.levels):
            odd = ((whole / 2.0**level).floor() % 2 == 1).nonzero()[:, 0]
            if len(odd):
                result[odd] = result[odd] @ self._tables.on("doublings", tau.device)[plan.level + level]
        late = spectral.nonzero()[:, 0]
        if len(late):
            result[late] = self._spectral(tau[late], self._rank(float(tau[late].min()), plan.cut))
        result[ended] = limit
        return result

    def _spectral(self, tau: Tensor, rank: int) -> Tensor:
        """Return P_tau from the `rank` slowest modes of the eigendecomposition: (B,) -> (B, n, n)."""
        modes = self._tables.on("modes", tau.device)[:rank]
        left = self._tables.on("left", tau.device)[:, :rank]
        right = self._tables.on("right", tau.device)[:rank]
        factors = left * torch.exp(modes * tau[:, None])[:, None, :]  # (B, n, rank)
        return (factors @ right).add_(self._tables.on("limit", tau.device))

    def _anywhere(self, tau: Tensor) -> Tensor:
        """Return P_tau on any device without reading tau. All methods are computed, then one is selected for each time."""
        plan, shape = self._plan, (*tau.shape, 1, 1)
        limit = self._tables.on("limit", tau.device)
        early = tau.clamp(max=min(plan.end, plan.spectral, plan.reach * 2.0**plan.levels))
        whole = (early / plan.reach).floor() if plan.levels else torch.zeros_like(early)
        rest = (early - whole * plan.reach).clamp(0, plan.reach)
        powers = self._tables.on(self._powers(plan.powers), tau.device)[: plan.powers].flatten(1)
        matrix = (_poisson_weights(self._rate * rest, plan.powers) @ powers).reshape(*tau.shape, self._size, self._size)
        for level in range(plan.levels):
            odd = (whole / 2.0**level).floor() % 2 == 1
            longer = matrix @ self._tables.on("doublings", tau.device)[plan.level + level]
            matrix = torch.where(odd.reshape(shape), longer, matrix)
        if math.isfinite(plan.spectral):
            late = tau.clamp(min=plan.spectral)
            spectral = self._spectral(late.reshape(-1), plan.rank).reshape(matrix.shape)
            return torch.where((tau >= plan.spectral).reshape(shape), spectral, matrix)
        return torch.where((tau >= plan.end).reshape(shape), limit, matrix)


def _normalised(matrix: Array) -> Array:
    """Scale rows to the sum 1. Without this, rounding errors of the sums grow with every squaring."""
    rows: Array = matrix / matrix.sum(1, keepdims=True)
    return rows


def _poisson_weights_array(mean: float, count: int) -> Array:
    """Return `_poisson_weights` of one mean, in numpy."""
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count)))])
    weights: Array = np.exp(np.arange(count) * math.log(max(mean, 1e-300)) - mean - log_factorials)
    return weights
