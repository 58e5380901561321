"""A transition kernel that stores P_tau as a matrix. All dimensions of an example use the same matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_core import readable
from diffusion_core.lazy import lazy_property
from discrete_diffusion.rates.base import RateMatrix, TransitionKernel
from discrete_diffusion.rates.fast.inflow import BlockedInflow
from discrete_diffusion.rates.fast.products import ProductSampler
from discrete_diffusion.rates.inflow import Inflow
from discrete_diffusion.rates.tables import narrowed

__all__ = ["MatrixKernel", "take_rows"]


def take_rows(table: Tensor, x: Tensor) -> Tensor:
    """Return rows of a table: (m, n), (...) -> (..., n)."""
    return table.index_select(0, x.long().flatten()).view(*x.shape, table.shape[-1])


class MatrixKernel(TransitionKernel):
    """A kernel with one matrix P (n, n), or one matrix per example (B, n, n). Other tables are made on first use.

    Arguments:
        rates: the rate matrix. All its states are data states.
        tau: the integral of the schedule's rate beta(t), () or (B,).
        exact: P_tau in float64.
        dtype: the dtype of all results.
    """

    def __init__(self, rates: RateMatrix, tau: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
        super().__init__(rates, tau, dtype)
        with torch.inference_mode(False):  # a cached kernel can be used later in training
            self.matrix = narrowed(exact, dtype)
        self._exact = exact

    def _own(self, table: Tensor, x: Tensor) -> Tensor:
        """Return row x of the table, (n, n), or of the table of the example, (B, n, n): (B, *event, n)."""
        if table.ndim == 2:
            return take_rows(table, x)
        batch = torch.arange(len(table), device=x.device).reshape(-1, *(1,) * (x.ndim - 1))
        return take_rows(table.flatten(0, 1), x + table.shape[-1] * batch)

    def rows(self, x: Tensor) -> Tensor:
        return self._own(self.matrix, x)

    def columns(self, x: Tensor) -> Tensor:
        return self._own(self._columns, x)

    @lazy_property
    def _columns(self) -> Tensor:
        """P, transposed."""
        return self.matrix.mT.contiguous()

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
        if len(matrix) == 1:  # a batched product with a batch of one is slow
            return w @ matrix[0]
        return torch.bmm(w.reshape(len(matrix), w.shape[1:-1].numel(), w.shape[-1]), matrix).view(w.shape)

    def inflow(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        w = w.to(self.dtype)
        return torch.linalg.vecdot(w, self.columns(x)), torch.linalg.vecdot(w, self.inflow_columns(x))

    def inflow_draws(self, scores: Tensor, x: Tensor) -> Inflow:
        scores = scores.to(self.dtype)
        if not readable(x) or scores.shape[-1] % 64:  # on an accelerator or with few values, blocks are not faster
            return Inflow(self, scores, x)
        return BlockedInflow(self, scores.contiguous(), x.long(), self._columns, self._inflows)

    def inflow_columns(self, x: Tensor) -> Tensor:
        return self._own(self._inflows, x)

    @lazy_property
    def _inflows(self) -> Tensor:
        """`H[x_0, x]`, transposed."""
        return narrowed((self._exact @ self._jumps()).mT, self.dtype).contiguous()

    @lazy_property
    def _draws(self) -> ProductSampler:
        return ProductSampler(self._exact, self._jumps())

    def _jumps(self) -> Tensor:
        """Return R without its diagonal, in float64."""
        states = torch.arange(self.matrix.shape[-1], device=self.matrix.device)
        return self.rates.rates_from(states, torch.float64).scatter(-1, states[:, None], 0.0)

    def draw_inflow(self, x_0: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return self._draws.draw(x_0.long(), x.long(), u)

    def select(self, index: slice, dtype: torch.dtype) -> MatrixKernel:
        every = self.tau.ndim == 0
        tau, exact = (self.tau, self._exact) if every else (self.tau[index], self._exact[index])
        return MatrixKernel(self.rates, tau, exact, dtype)
