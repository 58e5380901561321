"""What a rate matrix is: the generator R of a Markov chain on n states.

    R[x, y] >= 0  rate of the jump x -> y (x != y),   R[x, x] = -sum_{y != x} R[x, y]
    P_tau = exp(tau R),   P_tau[x_0, x_t]

Dimensions of the data evolve independently, so one small matrix describes the noise of them
all. A `RateMatrix` makes a `TransitionKernel`, P_tau at given times as a linear operator, and
draws from it. Generators with structure do all this in O(n) or O(1) a dimension without any
(n, n) matrix.

Everything divides by P, so P is non-negative and relatively accurate in every entry: 1e-6
wherever P > 1e-38.

Shapes: x is (B, *event) integer, or any shape where tau has none; tau is () or (B,), the
integral of the rate over time, and may be infinite (P is then the stationary limit).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffusion_core import Generator
from discrete_diffusion.rates.inflow import Inflow
from discrete_diffusion.rates.tables import Array, Tables

__all__ = ["RateMatrix", "TransitionKernel"]


class TransitionKernel(ABC):
    """P_tau for one tau, (), or for one tau an example, (B,), as a linear operator; made by `RateMatrix.kernel`.

    All results are in `dtype`. x is (B, *event) integer, or any shape where tau is ().
    """

    dtype: torch.dtype

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """P[x, .]: (B, *event, n)."""

    @abstractmethod
    def columns(self, x: Tensor) -> Tensor:
        """P[x_0, x] for every data state x_0: (B, *event, S)."""

    @abstractmethod
    def entries(self, x: Tensor, y: Tensor) -> Tensor:
        """P[x, y]: (B, *event)."""

    @abstractmethod
    def matmul(self, w: Tensor) -> Tensor:
        """w P for weights over the data states, or over all: (B, *event, S or n) -> (B, *event, n)."""

    @abstractmethod
    def rmatmul(self, g: Tensor) -> Tensor:
        """g P^T restricted to the data states, the transpose of `matmul`: (B, *event, n) -> (B, *event, S)."""

    @abstractmethod
    def inflow(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(w P)_x` and `sum_{y != x} (w P)_y R[y, x]`, both (B, *event), without forming w P.

        Arguments:
            w: weights over the data states (B, *event, S).
            x: states (B, *event).
        """

    def inflow_draws(self, scores: Tensor, x: Tensor) -> Inflow:
        """The two numbers of `inflow` for `w = exp(scores - shift)`, and draws of where it comes from; scalar tau only."""
        return Inflow(self, scores.to(self.dtype), x)

    @abstractmethod
    def inflow_columns(self, x: Tensor) -> Tensor:
        """`sum_{y != x} P[x_0, y] R[y, x]` for every data state x_0: (B, *event) -> (B, *event, S)."""

    @abstractmethod
    def draw_inflow(self, x_0: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """`y ~ P[x_0, y] R[y, x]`, y != x, for lists x_0, x (M,) and uniforms u (M,) in float64; scalar tau only.

        Where the law is empty, since x_0 leads to no neighbour of x, y is drawn from R[y, x] alone.
        """

    @abstractmethod
    def select(self, index: slice, dtype: torch.dtype) -> TransitionKernel:
        """The kernel of some examples (of all, where tau is ()), in another dtype."""


class RateMatrix(nn.Module, ABC):
    """A generator R on n states, of which S can be data.

    Results are in float32 or float64, computed in float64: rates take a `dtype`, transitions
    are in tau's dtype unless another one is asked for.

    Arguments:
        num_states: n, at least 2.
        data_states: S: n, or n - 1 where the last state is a mask.
        stationary: the law (n,) that every start leads to.
    """

    stationary: Tensor

    def __init__(self, num_states: int, data_states: int, stationary: Array) -> None:
        super().__init__()
        if data_states < 2:
            raise ValueError(f"{data_states} states, expected at least 2")
        self.num_states = num_states
        self.data_states = data_states
        self._tables = Tables()
        self._tables["stationary"] = stationary
        self.register_buffer("stationary", torch.tensor(stationary, dtype=torch.float64), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RateMatrix:
        """Follow the module's device, but keep float64: `half()` is about networks."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self

    @abstractmethod
    def kernel(self, tau: Tensor, dtype: torch.dtype | None = None) -> TransitionKernel:
        """P_tau at tau, () or (B,), as an operator; dtype None means tau's."""

    @abstractmethod
    def rates_from(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """R[x, .], the diagonal included: (...) -> (..., n)."""

    @abstractmethod
    def rates_to(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """R[., x], the diagonal included: (...) -> (..., n)."""

    @abstractmethod
    def exit_rates(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """-R[x, x]: (...) -> (...)."""

    @abstractmethod
    def sample_from(self, x: Tensor, tau: Tensor, generator: Generator = None) -> Tensor:
        """Draw from P_tau[x, .]: (B, *event) -> (B, *event), int64."""

    @abstractmethod
    def sample_bridge(self, x_0: Tensor, x_t: Tensor, tau_s: Tensor, tau_t: Tensor, generator: Generator = None) -> Tensor:
        """Draw `x_s ~ P_{tau_s}[x_0, .] P_{tau_t - tau_s}[., x_t]`: (B, *event) -> (B, *event), int64.

        A proposal x_0 that cannot have led to x_t (the product is zero in float64 for every
        x_s) says nothing about x_s, which is then drawn from `P_{tau_t - tau_s}[., x_t]` alone, and
        is x_t where nothing leads there.

        Arguments:
            x_0: clean states.
            x_t: noisy states.
            tau_s: () or (B,), at most tau_t.
            tau_t: () or (B,).
            generator: the source of randomness.
        """

    @property
    @abstractmethod
    def float32_range(self) -> tuple[float, float]:
        """The values of tau between which float32 is enough for ratios of transition probabilities.

        Below, some P_tau is under 1e-18 and products of such leave float32. Above, all
        `P_tau[x, y] / stationary[y]` are within 0.03 of 1, and differences of ratios cancel.
        """

    def prior(self, tau_1: Tensor) -> Tensor:
        """The law (n,), in float64, from which sampling starts after a forward process of length tau_1, ()."""
        return self._tables.on("stationary", tau_1.device)

    def transition_from(self, x: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """P_tau[x, .]: (B, *event) -> (B, *event, n)."""
        return self.kernel(tau, dtype).rows(x)

    def transition_to(self, x: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """P_tau[., x]: (B, *event) -> (B, *event, n)."""
        kernel = self.kernel(tau, dtype)
        columns = kernel.columns(x)
        if self.num_states == self.data_states:
            return columns
        last = torch.full_like(x, self.num_states - 1)
        return torch.cat([columns, kernel.entries(last, x)[..., None]], -1)

    def matmul(self, w: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """w P_tau for weights over the data states, or over all: (B, *event, S or n) -> (B, *event, n)."""
        return self.kernel(tau, dtype).matmul(w)

    def entry(self, x: Tensor, y: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """P_tau[x, y]: (B, *event) -> (B, *event)."""
        return self.kernel(tau, dtype).entries(x, y)
