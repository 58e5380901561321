"""The base class of rate matrices. A rate matrix is the generator R of a Markov chain on n states.

    R[x, y] >= 0  rate of the jump x -> y (x != y),   R[x, x] = -sum_{y != x} R[x, y]
    P_tau = exp(tau R),   P_tau[x_0, x_t]

Noise is added to all dimensions of the data independently, so one small matrix describes the noise. A `RateMatrix` makes a
`TransitionKernel`, which is P_tau at given times as a linear operator.

To write your own rate matrix, define `kernel`, `rates_from` and `rates_to`. For its kernel, define `rows`, `columns`,
`matmul` and `rmatmul`. All other methods have a default that is correct for any generator. Override the methods that
your generator can compute faster.

Many formulas divide by P. So P must be non-negative, and each entry above 1e-38 must have a relative error of at most 1e-6.

tau is the integral of the schedule's rate beta(t). It has the shape () or (B,). x contains integers and has the shape
(B, *event). If tau has the shape (), x can have any shape. If tau is infinite, P is the limit, in which every row is the
stationary law: the law that the chain does not change.
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
    """Draw k with a probability proportional to `row[k] column[k]`: (...).

    If all these products are zero, k is drawn with a probability proportional to `column[k]`. If all entries of column are
    zero, k = b.

    Arguments:
        row: non-negative weights (..., n).
        column: non-negative weights (..., n).
        b: the result if column is zero, (...).
        u: uniform numbers in [0, 1), (...).
    """
    weights = row * column
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, column)
    return torch.where(weights.sum(-1) > 0, inverse_cdf(weights, u), b)


class TransitionKernel(ABC):
    """The transition matrix P_tau as a linear operator, for one tau or for one tau per example.

    It is the result of `RateMatrix.kernel`. x contains integers and has the shape (B, *event). If tau has the shape (), x
    can have any shape. n is the number of states and S the number of data states.

    Arguments:
        rates: the rate matrix R.
        tau: the integral of the schedule's rate beta(t), () or (B,).
        dtype: the dtype of all results.
    """

    def __init__(self, rates: RateMatrix, tau: Tensor, dtype: torch.dtype) -> None:
        self.rates = rates
        self.tau = tau
        self.dtype = dtype

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """Return the rows P[x, .]: (B, *event) -> (B, *event, n)."""

    @abstractmethod
    def columns(self, x: Tensor) -> Tensor:
        """Return the columns P[x_0, x] for every data state x_0: (B, *event) -> (B, *event, S)."""

    @abstractmethod
    def matmul(self, w: Tensor) -> Tensor:
        """Return w P for weights over the data states or over all states: (B, *event, S or n) -> (B, *event, n)."""

    @abstractmethod
    def rmatmul(self, g: Tensor) -> Tensor:
        """Return g P^T, restricted to the data states: (B, *event, n) -> (B, *event, S). It is the transpose of `matmul`."""

    def entries(self, x: Tensor, y: Tensor) -> Tensor:
        """Return P[x, y]: (B, *event)."""
        return self.rows(x).gather(-1, y.long()[..., None])[..., 0]

    def inflow(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(w P)_x` and `sum_{y != x} (w P)_y R[y, x]`, both (B, *event).

        The exit rate of the reverse process is beta(t) times the second number, divided by the first. In the leave-one-out
        parameterisation w is p_loo.

        Arguments:
            w: weights over the data states (B, *event, S).
            x: states (B, *event).
        """
        flow = self.matmul(w)
        return flow.gather(-1, x.long()[..., None])[..., 0], torch.linalg.vecdot(flow, self._jumps_to(x))

    def inflow_columns(self, x: Tensor) -> Tensor:
        """Return `sum_{y != x} P[x_0, y] R[y, x]` for every data state x_0: (B, *event) -> (B, *event, S)."""
        return self.rmatmul(self._jumps_to(x))

    def inflow_draws(self, scores: Tensor, x: Tensor) -> Inflow:
        """Return the two results of `inflow`, with a method to draw destinations of jumps. tau must have the shape ().

        The weights are `w = exp(scores - shift)`. The result has one `shift` for each dimension, which prevents overflow.

        Arguments:
            scores: the logarithms of weights over the data states (B, *event, S).
            x: states (B, *event).
        """
        return Inflow(self, scores.to(self.dtype), x)

    def draw_inflow(self, x_0: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """Draw y != x with a probability proportional to `P[x_0, y] R[y, x]`: (M,). tau must have the shape ().

        If all these products are zero, y is drawn with a probability proportional to R[y, x].

        Arguments:
            x_0: clean states (M,).
            x: noisy states (M,).
            u: uniform numbers in [0, 1), float64 (M,).
        """
        exact = self.select(slice(None), torch.float64)
        return draw_product(exact.rows(x_0), exact._jumps_to(x), x.long(), u)

    def select(self, index: slice, dtype: torch.dtype) -> TransitionKernel:
        """Return the kernel of a slice of the examples, in another dtype. If tau is one number, they have the same kernel."""
        return self.rates.kernel(self.tau if self.tau.ndim == 0 else self.tau[index], dtype)

    def _jumps_to(self, x: Tensor) -> Tensor:
        """Return R[., x], and zero at x: (...) -> (..., n)."""
        return self.rates.rates_to(x, self.dtype).scatter(-1, x.long()[..., None], 0.0)


NumStates = Annotated[int, Range(least=2)]
"""The number of states, at least 2."""


class RateMatrix(nn.Module, ABC):
    """A rate matrix (generator) R on n states. The first S states are the values of the data.

    Results are computed in float64 and returned in float32 or float64, as the argument `dtype` says. Transition
    probabilities have the dtype of tau if no `dtype` is given.

    Arguments:
        num_states: n, the number of states. It includes the mask, if there is one.
        data_states: S, the number of values of the data. It is n, or n - 1 if the last state is a mask. None means n.
        stationary: the stationary law (n,), if it is known in closed form. None means that it is computed from the rates.
    """

    ordered: bool = False
    """Whether the values are ordered, such as grey levels, so that differences of values can be added."""
    evidence_floor: float = 0.0
    """The usual evidence floor (`X0Denoiser`) where the x0 parameterisation gives rates. It is positive if most jumps are
    short. With rates that jump to any value, a noisy value is improbable given any other clean value, so a floor would
    reduce the correct rates."""
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
        """Move the buffers to a device, but keep float64. Methods like `half()` only concern networks."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self

    @abstractmethod
    def kernel(self, tau: Tensor, dtype: torch.dtype | None = None) -> TransitionKernel:
        """Return P_tau as a linear operator. tau has the shape () or (B,). dtype None means the dtype of tau."""

    @abstractmethod
    def rates_from(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the rows R[x, .], including the diagonal: (...) -> (..., n)."""

    @abstractmethod
    def rates_to(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the columns R[., x], including the diagonal: (...) -> (..., n)."""

    def exit_rates(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the exit rates -R[x, x]: (...) -> (...)."""
        return -self.rates_from(x, dtype).gather(-1, x.long()[..., None])[..., 0]

    def sample_from(self, x: Tensor, tau: Tensor, generator: Generator = None) -> Tensor:
        """Draw the state after tau from P_tau[x, .]: (B, *event) -> (B, *event), int64. tau has the shape () or (B,)."""
        check_states(x, self.num_states)
        check_tau(tau, len(x))
        u = as_randomness(generator).uniform(x.shape, torch.float64, x.device)
        return inverse_cdf(self.transition_from(x, tau, torch.float64), u)

    def sample_bridge(self, x_0: Tensor, x_t: Tensor, tau_s: Tensor, tau_t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_s given x_0 and x_t: (B, *event) -> (B, *event), int64.

        The probability of x_s is proportional to `P_{tau_s}[x_0, x_s] P_{tau_t - tau_s}[x_s, x_t]`. If x_t cannot be
        reached from x_0, this product is zero in float64 for every x_s. Then the probability of x_s is proportional to
        `P_{tau_t - tau_s}[x_s, x_t]`. If this is also zero for every x_s, then x_s = x_t.

        Arguments:
            x_0: clean states (B, *event).
            x_t: noisy states (B, *event).
            tau_s: tau at the earlier time, () or (B,), at most tau_t.
            tau_t: tau at the later time, () or (B,).
            generator: the source of randomness.
        """
        rest = check_bridge(x_0, x_t, tau_s, tau_t, self.num_states)
        u = as_randomness(generator).uniform(x_0.shape, torch.float64, x_0.device)
        row, column = self.transition_from(x_0, tau_s, torch.float64), self.transition_to(x_t, rest, torch.float64)
        return draw_product(row, column, x_t.long(), u)

    @property
    def float32_range(self) -> tuple[float, float]:
        """The range of tau in which float32 is enough for ratios of transition probabilities.

        Below this range, an entry of P_tau is below 1e-18, and products of such entries underflow in float32. Above this
        range, all `P_tau[x, y] / stationary[y]` are within 0.03 of 1, and differences of ratios lose their digits. If
        float32 is never enough, the range is (inf, inf).
        """
        return math.inf, math.inf

    @property
    def stationary(self) -> Tensor:
        """The stationary law pi with `pi R = 0`: (n,), in float64. The chain converges to this law from every state.

        Raises:
            ValueError: the rates are not a generator, or the chain has several closed classes (see `structure.py`).
        """
        return self._stationary_on(self._place.device)

    def _stationary_on(self, device: torch.device) -> Tensor:
        if "stationary" not in self._tables:
            states = torch.arange(self.num_states, device=self._place.device)
            self._tables["stationary"] = stationary_law(checked_generator(self.rates_from(states, torch.float64)))
        return self._tables.on("stationary", device)

    def prior(self, tau_1: Tensor) -> Tensor:
        """Return the law from which sampling starts, for every dimension: (n,), float64. tau_1, (), is tau at t = 1."""
        return self._stationary_on(tau_1.device)

    def transition_from(self, x: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the rows P_tau[x, .]: (B, *event) -> (B, *event, n)."""
        return self.kernel(tau, dtype).rows(x)

    def transition_to(self, x: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the columns P_tau[., x], for all n states: (B, *event) -> (B, *event, n)."""
        kernel = self.kernel(tau, dtype)
        columns = kernel.columns(x)
        if self.num_states == self.data_states:
            return columns
        last = torch.full_like(x, self.num_states - 1, dtype=torch.int64)
        return torch.cat([columns, kernel.entries(last, x)[..., None]], -1)

    def matmul(self, w: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return w P_tau for weights over the data states or over all states: (B, *event, S or n) -> (B, *event, n)."""
        return self.kernel(tau, dtype).matmul(w)

    def entry(self, x: Tensor, y: Tensor, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return P_tau[x, y]: (B, *event) -> (B, *event)."""
        return self.kernel(tau, dtype).entries(x, y)
