"""What a rate matrix is: the generator R of a Markov chain on n states.

    R[x, y] >= 0  rate of the jump x -> y (x != y),   R[x, x] = -sum_{y != x} R[x, y]
    P_tau = exp(tau R),   P_tau[x_0, x_t]

Dimensions of the data evolve independently, so one small matrix describes the noise of them
all. A `RateMatrix` makes a `TransitionKernel`, P_tau at given times as a linear operator.

To write a rate matrix of your own, define `kernel`, `rates_from` and `rates_to`, and for its kernel `rows`, `columns`,
`matmul` and `rmatmul`. Everything else follows from these: the methods below say how, in the plainest way, which is
right for any generator. Override what your generator can do faster.

Everything divides by P, so P should be non-negative and relatively accurate in every entry: 1e-6
wherever P > 1e-38.

Shapes: x is (B, *event) integer, or any shape where tau has none; tau is () or (B,), the
integral of the rate over time, and may be infinite (P is then the stationary limit).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn

from diffusion_core import Generator, as_randomness
from diffusion_core.distributions import inverse_cdf
from diffusion_core.ranges import Range, check_arguments
from discrete_diffusion.rates.checks import check_bridge, check_states, check_tau
from discrete_diffusion.rates.inflow import Inflow
from discrete_diffusion.rates.structure import checked_generator, stationary_law
from discrete_diffusion.rates.tables import Array, Tables

__all__ = ["RateMatrix", "TransitionKernel", "draw_product"]


def draw_product(row: Tensor, column: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """`k ~ row[k] column[k]`, from column alone where that is zero, b where it is zero too: (..., n), (...) -> (...)."""
    weights = row * column
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, column)
    return torch.where(weights.sum(-1) > 0, inverse_cdf(weights, u), b)


class TransitionKernel(ABC):
    """P_tau for one tau, (), or for one tau an example, (B,), as a linear operator; made by `RateMatrix.kernel`.

    All results are in `dtype`. x is (B, *event) integer, or any shape where tau is ().

    Arguments:
        rates: the generator whose kernel it is.
        tau: () or (B,).
        dtype: of all results.
    """

    def __init__(self, rates: RateMatrix, tau: Tensor, dtype: torch.dtype) -> None:
        self.rates = rates
        self.tau = tau
        self.dtype = dtype

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """P[x, .]: (B, *event, n)."""

    @abstractmethod
    def columns(self, x: Tensor) -> Tensor:
        """P[x_0, x] for every data state x_0: (B, *event, S)."""

    @abstractmethod
    def matmul(self, w: Tensor) -> Tensor:
        """w P for weights over the data states, or over all: (B, *event, S or n) -> (B, *event, n)."""

    @abstractmethod
    def rmatmul(self, g: Tensor) -> Tensor:
        """g P^T restricted to the data states, the transpose of `matmul`: (B, *event, n) -> (B, *event, S)."""

    def entries(self, x: Tensor, y: Tensor) -> Tensor:
        """P[x, y]: (B, *event)."""
        return self.rows(x).gather(-1, y.long()[..., None])[..., 0]

    def inflow(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(w P)_x` and `sum_{y != x} (w P)_y R[y, x]`, both (B, *event).

        Arguments:
            w: weights over the data states (B, *event, S).
            x: states (B, *event).
        """
        flow = self.matmul(w)
        return flow.gather(-1, x.long()[..., None])[..., 0], torch.linalg.vecdot(flow, self._jumps_to(x))

    def inflow_columns(self, x: Tensor) -> Tensor:
        """`sum_{y != x} P[x_0, y] R[y, x]` for every data state x_0: (B, *event) -> (B, *event, S)."""
        return self.rmatmul(self._jumps_to(x))

    def inflow_draws(self, scores: Tensor, x: Tensor) -> Inflow:
        """The two numbers of `inflow` for `w = exp(scores - shift)`, and draws of where it comes from; scalar tau only."""
        return Inflow(self, scores.to(self.dtype), x)

    def draw_inflow(self, x_0: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """`y ~ P[x_0, y] R[y, x]`, y != x, for lists x_0, x (M,) and uniforms u (M,) in float64; scalar tau only.

        Where the law is empty, since x_0 leads to no neighbour of x, y is drawn from R[y, x] alone.
        """
        exact = self.select(slice(None), torch.float64)
        return draw_product(exact.rows(x_0), exact._jumps_to(x), x.long(), u)

    def select(self, index: slice, dtype: torch.dtype) -> TransitionKernel:
        """The kernel of some examples (of all, where tau is ()), in another dtype."""
        return self.rates.kernel(self.tau if self.tau.ndim == 0 else self.tau[index], dtype)

    def _jumps_to(self, x: Tensor) -> Tensor:
        """R[., x], zero at x: (...) -> (..., n)."""
        return self.rates.rates_to(x, self.dtype).scatter(-1, x.long()[..., None], 0.0)


NumStates = Annotated[int, Range(least=2)]
"""How many states there are: with one alone nothing happens."""


class RateMatrix(nn.Module, ABC):
    """A rate matrix: a generator R on n states, of which S can be data.

    Results are in float32 or float64, computed in float64: rates take a `dtype`, transitions
    are in tau's dtype unless another one is asked for.

    Arguments:
        num_states: n, the number of states, with the mask where there is one.
        data_states: S, the number of values of the data: n, or n - 1 where the last state is a mask; None means n.
        stationary: the law (n,) that every start leads to, where it is known in closed form; None computes it from the rates.
    """

    ordered: bool = False
    """Whether the values are levels on a scale, so that a jump of two is twice a jump of one."""
    _place: Tensor

    def __init__(self, num_states: NumStates, data_states: NumStates | None = None, stationary: Array | None = None) -> None:
        check_arguments(RateMatrix, locals())
        super().__init__()
        self.num_states = num_states
        self.data_states = num_states if data_states is None else data_states
        self._tables = Tables()
        if stationary is not None:
            self._tables["stationary"] = stationary
        self.register_buffer("_place", torch.empty(0, dtype=torch.float64), persistent=False)  # follows the module's device

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

    def exit_rates(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """-R[x, x]: (...) -> (...)."""
        return -self.rates_from(x, dtype).gather(-1, x.long()[..., None])[..., 0]

    def sample_from(self, x: Tensor, tau: Tensor, generator: Generator = None) -> Tensor:
        """Draw from P_tau[x, .]: (B, *event) -> (B, *event), int64."""
        check_states(x, self.num_states)
        check_tau(tau, len(x))
        u = as_randomness(generator).uniform(x.shape, torch.float64, x.device)
        return inverse_cdf(self.transition_from(x, tau, torch.float64), u)

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
        rest = check_bridge(x_0, x_t, tau_s, tau_t, self.num_states)
        u = as_randomness(generator).uniform(x_0.shape, torch.float64, x_0.device)
        row, column = self.transition_from(x_0, tau_s, torch.float64), self.transition_to(x_t, rest, torch.float64)
        return draw_product(row, column, x_t.long(), u)

    @property
    def float32_range(self) -> tuple[float, float]:
        """The values of tau between which float32 is enough for ratios of transition probabilities; (inf, inf) for none.

        Below, some P_tau is under 1e-18 and products of such leave float32. Above, all
        `P_tau[x, y] / stationary[y]` are within 0.03 of 1, and differences of ratios cancel.
        """
        return math.inf, math.inf

    @property
    def stationary(self) -> Tensor:
        """The law with `pi R = 0` that every start leads to: (n,), in float64.

        Raises:
            ValueError: the rates are no generator, or its chain has several closed classes.
        """
        return self._stationary_on(self._place.device)

    def _stationary_on(self, device: torch.device) -> Tensor:
        if "stationary" not in self._tables:
            states = torch.arange(self.num_states, device=self._place.device)
            self._tables["stationary"] = stationary_law(checked_generator(self.rates_from(states, torch.float64)))
        return self._tables.on("stationary", device)

    def prior(self, tau_1: Tensor) -> Tensor:
        """The law (n,), in float64, from which sampling starts after a forward process of length tau_1, ()."""
        return self._stationary_on(tau_1.device)

    def transition_from(self, x: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """P_tau[x, .]: (B, *event) -> (B, *event, n)."""
        return self.kernel(tau, dtype).rows(x)

    def transition_to(self, x: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """P_tau[., x]: (B, *event) -> (B, *event, n)."""
        kernel = self.kernel(tau, dtype)
        columns = kernel.columns(x)
        if self.num_states == self.data_states:
            return columns
        last = torch.full_like(x, self.num_states - 1, dtype=torch.int64)
        return torch.cat([columns, kernel.entries(last, x)[..., None]], -1)

    def matmul(self, w: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """w P_tau for weights over the data states, or over all: (B, *event, S or n) -> (B, *event, n)."""
        return self.kernel(tau, dtype).matmul(w)

    def entry(self, x: Tensor, y: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """P_tau[x, y]: (B, *event) -> (B, *event)."""
        return self.kernel(tau, dtype).entries(x, y)
