"""Any generator, given as a matrix.

    P_tau = exp(tau R)  (n, n),   one matrix for each distinct tau

The matrix is made once for the times at hand (see `transitions`), and rows, columns and
products of it serve all dimensions. Draws need no matrix at all (see `alias`), bridges need
two (see `products`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_core import Generator, as_randomness, readable
from discrete_diffusion.rates.base import RateMatrix, TransitionKernel
from discrete_diffusion.rates.checks import check_states, check_tau, remaining
from discrete_diffusion.rates.fast.alias import JumpSampler
from discrete_diffusion.rates.fast.inflow import BlockedInflow
from discrete_diffusion.rates.fast.products import ProductSampler, draw_product
from discrete_diffusion.rates.fast.transitions import TransitionMatrices
from discrete_diffusion.rates.inflow import Inflow
from discrete_diffusion.rates.structure import checked_generator, checked_stationary, stationary_law
from discrete_diffusion.rates.tables import Recent, Tables, narrowed

__all__ = ["DenseRates"]

_CACHED = 2**23  # entries of a batch of matrices that are kept for the next call
_SMALLEST = 1e-18  # a transition probability below which float32 will not do
_MIXED = 0.03  # a deviation from the stationary law below which float32 will not do


class DenseRates(RateMatrix):
    """A generator as a matrix: reversible or not, irreducible or with states that are left for good.

    Arguments:
        generator_matrix: R (n, n), floating; rows sum to zero, off-diagonals are not negative.
        stationary: the law pi (n,) with pi R = 0 where it is known in closed form; None computes it.

    Raises:
        ValueError: the matrix is not a generator, or its chain has several closed classes.
    """

    generator_matrix: Tensor

    def __init__(self, generator_matrix: Tensor | NDArray[Any], stationary: Tensor | NDArray[Any] | None = None) -> None:
        rates = checked_generator(generator_matrix)
        law = stationary_law(rates) if stationary is None else checked_stationary(stationary, rates)
        super().__init__(len(rates), len(rates), law)
        self.register_buffer("generator_matrix", torch.tensor(rates), persistent=False)
        jumps = rates.copy()
        np.fill_diagonal(jumps, 0.0)
        self._tables["rates"], self._tables["rates to"], self._tables["exit"] = rates, rates.T, -rates.diagonal()
        self._tables["jumps"] = jumps
        self._matrices = TransitionMatrices(rates, law)
        self._jump_sampler = JumpSampler(rates, law)
        self._float32_range: tuple[float, float] | None = None
        self._kernels: Recent[_DenseKernel] = Recent(16)
        self._batches: Recent[_DenseKernel] = Recent(2)
        self._bridges: Recent[ProductSampler] = Recent(4)

    def transition(self, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """P_tau: () -> (n, n), (B,) -> (B, n, n); dtype None means tau's. Not to be changed in place: it may be kept."""
        return self.kernel(tau, dtype).matrix

    def kernel(self, tau: Tensor, dtype: torch.dtype | None = None) -> _DenseKernel:
        check_tau(tau)
        dtype = tau.dtype if dtype is None else dtype
        tau = tau.detach().double()
        if not readable(tau) or tau.numel() * self.num_states**2 > _CACHED:
            return self._make(tau, dtype)
        recent = self._kernels if tau.ndim == 0 else self._batches
        key = tau.item() if tau.ndim == 0 else tuple(tau.tolist())
        exact = recent.get((key, torch.float64), lambda: self._make(tau, torch.float64))
        return exact if dtype == torch.float64 else recent.get((key, dtype), lambda: exact.select(slice(None), dtype))

    def _make(self, tau: Tensor, dtype: torch.dtype) -> _DenseKernel:
        # Ordinary tensors even under inference_mode: a kept kernel may be met again in training.
        with torch.inference_mode(False), torch.no_grad():
            return _DenseKernel(self._matrices(tau), self._tables, dtype)

    def rates_from(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return _take(self._tables.on("rates", x.device, dtype), x)

    def rates_to(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return _take(self._tables.on("rates to", x.device, dtype), x)

    def exit_rates(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._tables.on("exit", x.device, dtype).index_select(0, x.long().flatten()).view(x.shape)

    @property
    def float32_range(self) -> tuple[float, float]:
        # Both conditions are monotone in tau, so a bisection finds where they begin to hold. Built in
        # numpy-backed tables on the CPU, whatever device or mode the caller is in.
        if self._float32_range is None:
            self._float32_range = self._matrices.find_range(_SMALLEST, _MIXED)
        return self._float32_range

    def sample_from(self, x: Tensor, tau: Tensor, generator: Generator = None) -> Tensor:
        check_states(x, self.num_states)
        check_tau(tau, len(x))
        return self._jump_sampler(x, tau.double(), as_randomness(generator))

    def sample_bridge(self, x_0: Tensor, x_t: Tensor, tau_s: Tensor, tau_t: Tensor, generator: Generator = None) -> Tensor:
        check_states(x_0, self.num_states, "x_0")
        check_states(x_t, self.num_states, "x_t")
        check_tau(tau_s, len(x_0))
        check_tau(tau_t, len(x_0))
        u = as_randomness(generator).uniform(x_0.shape, torch.float64, x_0.device)
        tau_s, rest = tau_s.double(), remaining(tau_s.double(), tau_t.double())
        if tau_s.ndim == rest.ndim == 0:
            sampler = self._bridge(tau_s, rest)
            return sampler.draw(x_0.long().flatten(), x_t.long().flatten(), u.flatten()).view(x_0.shape)
        return draw_product(self.kernel(tau_s).rows(x_0), self.kernel(rest).columns(x_t), x_t.long(), u)

    def _bridge(self, tau_s: Tensor, rest: Tensor) -> ProductSampler:
        def make() -> ProductSampler:
            return ProductSampler(self.transition(tau_s), self.transition(rest))

        if not (readable(tau_s) and readable(rest)):
            return make()
        return self._bridges.get((tau_s.item(), rest.item()), make)


def _take(table: Tensor, x: Tensor) -> Tensor:
    """Rows of a table: (m, n), (...) -> (..., n)."""
    return table.index_select(0, x.long().flatten()).view(*x.shape, table.shape[-1])


class _DenseKernel(TransitionKernel):
    """Tables of one P (n, n) or of one P an example (B, n, n); those that are not always needed are made on demand."""

    def __init__(self, exact: Tensor, tables: Tables, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.matrix = narrowed(exact, dtype)
        self._exact = exact
        self._tables = tables
        self._transposed: Tensor | None = None
        self._inflow: Tensor | None = None
        self._draws: ProductSampler | None = None

    def _take(self, table: Tensor, x: Tensor) -> Tensor:
        """Row x of the table, or of the example's own: (n, n) or (B, n, n) -> (B, *event, n)."""
        if table.ndim == 2:
            return _take(table, x)
        batch = torch.arange(len(table), device=x.device).reshape(-1, *(1,) * (x.ndim - 1))
        return _take(table.flatten(0, 1), x + table.shape[-1] * batch)

    def rows(self, x: Tensor) -> Tensor:
        return self._take(self.matrix, x)

    def columns(self, x: Tensor) -> Tensor:
        return self._take(self._columns(), x)

    def _columns(self) -> Tensor:
        """P, transposed."""
        if self._transposed is None:
            self._transposed = self.matrix.mT.contiguous()
        return self._transposed

    def entries(self, x: Tensor, y: Tensor) -> Tensor:
        n = self.matrix.shape[-1]
        place = x.long() * n + y
        if self.matrix.ndim == 3:
            place = place + n * n * torch.arange(len(self.matrix), device=x.device).reshape(-1, *(1,) * (x.ndim - 1))
        return self.matrix.reshape(-1).index_select(0, place.flatten()).view(x.shape)

    def matmul(self, w: Tensor) -> Tensor:
        return self._multiply(w, self.matrix)

    def rmatmul(self, g: Tensor) -> Tensor:
        return self._multiply(g, self.matrix.mT)

    def _multiply(self, w: Tensor, matrix: Tensor) -> Tensor:
        w = w.to(self.dtype)
        if matrix.ndim == 2:
            return w @ matrix
        if len(matrix) == 1:  # a batched product of one is a slow one
            return w @ matrix[0]
        return torch.bmm(w.reshape(len(matrix), w.shape[1:-1].numel(), w.shape[-1]), matrix).view(w.shape)

    def inflow(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        w = w.to(self.dtype)
        return torch.linalg.vecdot(w, self.columns(x)), torch.linalg.vecdot(w, self.inflow_columns(x))

    def inflow_draws(self, scores: Tensor, x: Tensor) -> Inflow:
        scores = scores.to(self.dtype)
        if not readable(x) or scores.shape[-1] % 64:  # few values, or an accelerator: blocks would not pay
            return Inflow(self, scores, x)
        return BlockedInflow(self, scores.contiguous(), x.long(), self._columns(), self._inflows())

    def inflow_columns(self, x: Tensor) -> Tensor:
        return self._take(self._inflows(), x)

    def _inflows(self) -> Tensor:
        """`H[x_0, x]`, transposed."""
        if self._inflow is None:
            inflow = self._exact @ self._tables.on("jumps", self.matrix.device, torch.float64)
            self._inflow = narrowed(inflow.mT, self.dtype).contiguous()
        return self._inflow

    def draw_inflow(self, x_0: Tensor, x: Tensor, u: Tensor) -> Tensor:
        if self._draws is None:
            self._draws = ProductSampler(self._exact, self._tables.on("jumps", self.matrix.device, torch.float64))
        return self._draws.draw(x_0.long(), x.long(), u)

    def select(self, index: slice, dtype: torch.dtype) -> _DenseKernel:
        return _DenseKernel(self._exact if self._exact.ndim == 2 else self._exact[index], self._tables, dtype)
