"""Exact draws from P_tau[x, .] for any tau, with a few table look-ups and without the matrix P_tau.

With `lambda >= max_x -R[x, x]` and the stochastic matrix `A = I + R / lambda`,

    N ~ Poisson(lambda tau),   x_tau ~ A^N[x, .]

Write N in base b: `N = sum_i d_i b^i`. Then A^N is a product of powers `A^(d_i b^i)`. For each digit there are b such
powers; they do not depend on tau. Each power has an alias table. One uniform number selects one of n columns, and then one
of the two values in this column. There are so many digits that after the largest N the chain has its stationary law. Larger
N are clamped.

References:
    Markoff chains as an aid in the study of Markoff processes (Jensen, 1953) | https://doi.org/10.1080/03461238.1953.10419459
    An efficient method for generating discrete random variables with general distributions (Walker, 1977) |
    https://doi.org/10.1145/355744.355749
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_core import Randomness, per_example
from diffusion_core.values import ends
from discrete_diffusion.rates.tables import Array, Tables

__all__ = ["JumpSampler", "alias_table"]

_FORGOTTEN = 1e-15  # distance to the stationary law in total variation that is too small to detect in draws
_DIGITS = 40  # the most binary digits, so that N is exact in float64


def alias_table(laws: Array) -> tuple[Array, NDArray[np.int16]]:
    """Return Walker's tables for many laws: (m, n) -> thresholds (m, n), aliases (m, n).

    With `v = n u` and `k = floor(v)`, the drawn value is k if v < threshold[k], else alias[k]. A value of probability zero
    is never drawn.

    Each law is sorted. Large entries give probability mass to small entries, one large entry after the other. When a giving
    entry has become small itself, it gets mass from the next large entry.

    Arguments:
        laws: the probabilities of n values in each row (m, n).
    """
    m, n = laws.shape
    row = np.arange(m)
    order = np.argsort(laws, axis=1)
    mass = np.take_along_axis(laws / laws.sum(1, keepdims=True) * n, order, 1)  # ascending, mean 1
    share, partner = np.ones((m, n)), np.tile(np.arange(n), (m, 1))
    low, high = np.zeros(m, dtype=np.intp), np.full(m, n - 1)
    left = mass[:, -1].copy()  # the remaining mass of the giving entry
    for _ in range(n - 1):
        gives = left > 1
        small = mass[row, low]
        # Either the giving entry fills the smallest remaining column, or the next one fills the column of the giving entry.
        place = np.where(gives, low, high)
        share[row, place] = np.minimum(np.where(gives, small, left), 1.0)
        partner[row, place] = np.where(gives, high, high - 1)
        left = np.where(gives, left - (1 - np.minimum(small, 1.0)), mass[row, high - 1] - (1 - left))
        low, high = low + gives, high - ~gives
    share[row, high] = 1.0
    thresholds, aliases = np.empty((m, n)), np.empty((m, n), dtype=np.int16)
    np.put_along_axis(thresholds, order, share, 1)
    np.put_along_axis(aliases, order, np.take_along_axis(order, partner, 1).astype(np.int16), 1)
    return thresholds + np.arange(n), aliases


class JumpSampler:
    """A sampler of P_tau[x, .] that draws the number of jumps. The distribution of its draws is exact, up to rounding.

    Tables are built on first use. Copies share them.

    Arguments:
        generator: the rate matrix R (n, n).
        stationary: its stationary law pi (n,).
    """

    def __init__(self, generator: Array, stationary: Array) -> None:
        self._generator = generator
        self._stationary = stationary
        self._size = len(generator)
        self._bits = 4 if self._size <= 256 else 2
        # lambda is a little larger than the largest exit rate. Then A is aperiodic, and A^N converges.
        self._rate = 1.125 * float(-generator.diagonal().min())
        self._tables = Tables()

    def __deepcopy__(self, memo: dict[int, Any]) -> JumpSampler:
        return self

    @cached_property
    def _digits(self) -> int:
        """The number of digits of N. The first access builds the tables of all digits."""
        base, n = 2**self._bits, self._size
        step = np.eye(n) + self._generator / self._rate
        digits = 0
        while True:
            powers = [np.eye(n)]
            for _ in range(base):
                product = powers[-1] @ step
                powers.append(product / product.sum(1, keepdims=True))
            laws = np.concatenate(powers[:base])  # (base n, n)
            self._tables[f"thresholds {digits}"], self._tables[f"aliases {digits}"] = alias_table(laws)
            digits += 1
            step = powers[base]
            distance = 0.5 * np.abs(powers[base - 1] - self._stationary).sum(1).max()
            if distance < _FORGOTTEN * n or digits * self._bits >= _DIGITS:
                return digits

    def __call__(self, x: Tensor, tau: Tensor, randomness: Randomness) -> Tensor:
        """Draw from P_tau[x, .]: x (B, *event), tau () or (B,) in float64 -> (B, *event), int64."""
        digits, n, mask = self._digits, self._size, 2**self._bits - 1
        most = 2 ** (digits * self._bits) - 1
        # A Poisson number with mean 4 most + 200 is at most `most` only once in 10^20 draws.
        mean = (self._rate * tau).clamp(max=4.0 * most + 200)
        number = randomness.poisson(per_example(mean, x).expand(x.shape)).clamp_(max=most).long()
        u = randomness.uniform((len(x), digits, *x.shape[1:]), torch.float64, x.device)
        x = x.long()
        # Unused uniforms are also drawn, so that the random stream does not depend on the batch.
        largest = int(ends(number, unseen=(0, most))[1])
        used = -(-largest.bit_length() // self._bits)
        for i in range(used):
            v = u[:, i] * n
            column = v.long().clamp_(max=n - 1)
            place = (number >> (i * self._bits)).bitwise_and_(mask).mul_(n).add_(x).mul_(n).add_(column).flatten()
            thresholds = self._tables.on(f"thresholds {i}", x.device).flatten()
            aliases = self._tables.on(f"aliases {i}", x.device).flatten()
            alias = aliases.index_select(0, place).view(x.shape)
            x = torch.where(v < thresholds.index_select(0, place).view(x.shape), column, alias.long())
        return x
