"""Rate matrices do what the base class does plainly, and three methods with four of a kernel are enough for a new one."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_core import QuadraticGrid, StratifiedTimes
from discrete_diffusion import ELBO, CrossEntropy, LeaveOneOutDenoiser, bits_per_dim
from discrete_diffusion import rates as module
from discrete_diffusion.oracle import EnumeratedCTMC, total_variation
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates import DenseRates, RateMatrix, TransitionKernel
from discrete_diffusion.samplers import Ancestral, CategoricalLeap, Euler, TauLeaping
from discrete_diffusion.schedules import Constant

from ..losses import scored
from .chi_squares import chi_square
from .conftest import random_generator, toy_law

F64 = torch.float64
PLAIN_KERNEL = ["entries", "inflow", "inflow_columns", "inflow_draws", "draw_inflow", "select"]
PLAIN_RATES = ["exit_rates", "sample_from", "sample_bridge", "float32_range", "stationary", "prior"]
BY_KERNEL = ["transition_from", "transition_to", "matmul", "entry"]  # one line each, and no class overrides them
STATED = {"ordered", "evidence_floor"}  # what a class says of itself, and nothing computes


class PlainKernel(TransitionKernel):
    """The four methods of another kernel: whatever else it answers is the base class's."""

    def __init__(self, rates: RateMatrix, kernel: TransitionKernel) -> None:
        super().__init__(rates, kernel.tau, kernel.dtype)
        self.kernel = kernel

    def rows(self, x: Tensor) -> Tensor:
        return self.kernel.rows(x)

    def columns(self, x: Tensor) -> Tensor:
        return self.kernel.columns(x)

    def matmul(self, w: Tensor) -> Tensor:
        return self.kernel.matmul(w)

    def rmatmul(self, g: Tensor) -> Tensor:
        return self.kernel.rmatmul(g)


class PlainRates(RateMatrix):
    """The three methods of another rate matrix: whatever else it answers is the base class's."""

    def __init__(self, rates: RateMatrix) -> None:
        super().__init__(rates.num_states, rates.data_states)
        self.rates = rates

    def kernel(self, tau: Tensor, dtype: torch.dtype | None = None) -> TransitionKernel:
        return PlainKernel(self, self.rates.kernel(tau, dtype))

    def rates_from(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.rates.rates_from(x, dtype)

    def rates_to(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.rates.rates_to(x, dtype)


def subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def shipped(cls: type) -> list[type]:
    found = {c for c in subclasses(cls) if c.__module__.startswith("discrete_diffusion.") and not inspect.isabstract(c)}
    return sorted(found, key=lambda c: c.__name__)


@functools.cache
def pair(cls: type[RateMatrix], size: int) -> tuple[RateMatrix, RateMatrix]:
    """A rate matrix for S values, and its plain twin."""
    by_matrix = "generator_matrix" in inspect.signature(cls).parameters
    rates = cls(random_generator(size) if by_matrix else size)  # type: ignore[arg-type]
    assert rates.data_states == size
    return rates, PlainRates(rates)


every_pair = pytest.mark.parametrize(
    ("cls", "size"),
    [pytest.param(cls, size, id=f"{cls.__name__}-{size}") for cls in shipped(RateMatrix) for size in (2, 3, 4, 16, 256)],
)
every_dtype = pytest.mark.parametrize(("dtype", "rounding"), [(F64, 1e-11), (torch.float32, 2e-5)])


def scalar(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=F64)


def states(size: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(seed))


def flow_law(rates: RateMatrix, weights: Tensor, x: int, tau: float) -> Tensor:
    """`(w P)_y R[y, x]` over y, normalised, for weights (S,)."""
    p = rates.transition_from(torch.arange(rates.data_states), scalar(tau))
    jumps = rates.rates_to(torch.tensor([x]), F64)[0]
    jumps[x] = 0
    law = (weights @ p) * jumps
    return law / law.sum() if law.sum() > 0 else jumps / jumps.sum()


def test_every_plain_method_is_held_to() -> None:
    """A default that joins the base class joins these tests; classes override nothing else."""
    for base, names in ((TransitionKernel, PLAIN_KERNEL), (RateMatrix, PLAIN_RATES + BY_KERNEL)):
        public = {name for name in vars(base) if not name.startswith("_")} - STATED
        assert public == {*names, *base.__abstractmethods__}
        assert len(shipped(base)) >= 3
    assert RateMatrix.__abstractmethods__ == {"kernel", "rates_from", "rates_to"}
    assert TransitionKernel.__abstractmethods__ == {"rows", "columns", "matmul", "rmatmul"}
    assert [cls.__name__ for cls in shipped(RateMatrix) if set(BY_KERNEL) & set(vars(cls))] == []
    assert {cls.__name__ for cls in shipped(RateMatrix)} == {*module.__all__} - {"RateMatrix", "TransitionKernel"}


@every_pair
@every_dtype
@pytest.mark.parametrize("taus", [0.4, [0.0, 0.02, 0.4, 60.0]], ids=["one", "batch"])
def test_kernels_compute_what_the_plain_one_does(
    cls: type[RateMatrix], size: int, dtype: torch.dtype, rounding: float, taus: float | list[float]
) -> None:
    rates, plain = pair(cls, size)
    tau = torch.tensor(taus, dtype=F64)
    fast, slow = rates.kernel(tau, dtype), plain.kernel(tau, dtype)
    x, y = (states(rates.num_states, 4, 5, 2, seed=seed) for seed in range(2))
    w = torch.rand(4, 5, 2, size, dtype=dtype, generator=torch.Generator().manual_seed(2))
    assert torch.equal(fast.entries(x, y), slow.entries(x, y))
    # Tables of rates in float32 are 0 below 1e-30, and a row of P sums to 1: the plain kernel leaves out so much.
    close = {"rtol": rounding, "atol": 0 if dtype == F64 else 1e-30}
    torch.testing.assert_close(fast.inflow(w, x), slow.inflow(w, x), **close)
    torch.testing.assert_close(fast.inflow_columns(x), slow.inflow_columns(x), **close)
    some, same = fast.select(slice(1, 3), F64), slow.select(slice(1, 3), F64)
    assert some.dtype == same.dtype == F64
    # A mode of the spectrum that adds less than 1e-9 of an entry is left out where the times at hand allow.
    torch.testing.assert_close(some.rows(x[1:3]), same.rows(x[1:3]), rtol=1e-9, atol=0)
    if tau.ndim == 0:
        scores = 3 * w.log()
        one, other = fast.inflow_draws(scores, x), slow.inflow_draws(scores, x)
        torch.testing.assert_close(one.at_x * one.shift.exp(), other.at_x * other.shift.exp(), **close)
        torch.testing.assert_close(one.total * one.shift.exp(), other.total * other.shift.exp(), **close)


@every_pair
def test_states_are_of_any_integer_dtype(cls: type[RateMatrix], size: int) -> None:
    """Pixels in uint8 too, also where the number of states or the mask does not fit into it."""
    rates, _ = pair(cls, size)
    x_0, x = (states(size, 4, 40, seed=seed) for seed in range(2))
    x_0[0, 0] = x[0, 0] = x[0, 1] = 0
    w = torch.rand(4, 40, size, dtype=F64, generator=torch.Generator().manual_seed(2))

    def answers(dtype: torch.dtype) -> list[Tensor]:
        a, b, tau, kernel = x_0.to(dtype), x.to(dtype), scalar(0.4), rates.kernel(scalar(0.4))
        made = [kernel.rows(a), kernel.columns(b), kernel.entries(a, b), *kernel.inflow(w, b), kernel.inflow_columns(b)]
        made += [rates.rates_from(a), rates.rates_to(a), rates.exit_rates(a), rates.transition_to(a, tau)]
        made.append(rates.sample_from(a, tau, torch.Generator().manual_seed(0)))
        return [*made, rates.sample_bridge(a, b, tau, 2 * tau, torch.Generator().manual_seed(0))]

    assert all(torch.equal(one, other) for one, other in zip(answers(torch.uint8), answers(torch.int64), strict=True))


@every_pair
def test_kernels_draw_from_the_law_of_the_plain_one(cls: type[RateMatrix], size: int) -> None:
    rates, plain = pair(cls, size)
    generator, ones = torch.Generator().manual_seed(3), torch.ones(4000, dtype=torch.int64)
    for x_0, x in ((0, rates.num_states - 1), (1, 1), (size - 1, 0), (size // 2, rates.num_states - 1)):
        itself = torch.nn.functional.one_hot(torch.tensor(x_0), size).double()
        leads = plain.rates.rates_to(torch.tensor([x]), F64)[0].clamp(min=0).sum() > 0
        scores = torch.randn(1, size, dtype=F64, generator=generator)
        for kernel in (rates.kernel(scalar(0.4)), plain.kernel(scalar(0.4))):
            if not leads:  # no jump goes to a value that only the data have
                continue
            y = kernel.draw_inflow(x_0 * ones, x * ones, torch.rand(4000, dtype=F64, generator=generator))
            assert chi_square(y, flow_law(rates, itself, x, 0.4)) > 1e-4
            flows = kernel.inflow_draws(scores, torch.tensor([x]))
            y = flows.draw(0 * ones, torch.rand(4000, 3, dtype=F64, generator=generator))
            assert chi_square(y, flow_law(rates, scores[0].exp(), x, 0.4)) > 1e-4


@every_pair
def test_rates_compute_what_the_plain_ones_do(cls: type[RateMatrix], size: int) -> None:
    rates, plain = pair(cls, size)
    x, y = (states(rates.num_states, 4, 5, seed=seed) for seed in range(2))
    for dtype in (torch.float32, F64):
        assert torch.equal(rates.exit_rates(x, dtype), plain.exit_rates(x, dtype))
    torch.testing.assert_close(rates.stationary, plain.stationary, rtol=1e-12, atol=0)
    # At t = 1 an absorbing process may start from a mixture; in the limit all start from the stationary law.
    torch.testing.assert_close(rates.prior(scalar(math.inf)), plain.prior(scalar(math.inf)), rtol=1e-12, atol=0)
    tau, w = torch.tensor([0.0, 0.3, 2.0, 40.0], dtype=F64), torch.rand(4, 5, size, dtype=F64)
    for name, arguments in (("transition_from", [x]), ("transition_to", [x]), ("matmul", [w]), ("entry", [x, y])):
        assert torch.equal(getattr(rates, name)(*arguments, tau), getattr(plain, name)(*arguments, tau)), name


@every_pair
def test_float32_serves_where_no_entry_is_small_and_ratios_differ(cls: type[RateMatrix], size: int) -> None:
    rates, plain = pair(cls, size)
    assert plain.float32_range == (math.inf, math.inf)  # none: always right
    low, high = rates.float32_range
    everywhere = torch.arange(rates.num_states)
    if low == math.inf:  # the definition holds at no tau
        assert (rates.transition_from(everywhere, scalar(50.0)) < 1e-18).any()
        return
    assert rates.transition_from(everywhere, scalar(low)).min() >= 0.99e-18
    # At the end all ratios are within 0.03 of 1, by how much it may be early.
    assert (rates.transition_from(everywhere, scalar(high)) / rates.stationary - 1).abs().max() <= 0.0301


@every_pair
def test_rates_draw_from_the_law_of_the_plain_ones(cls: type[RateMatrix], size: int) -> None:
    rates, plain = pair(cls, size)
    taus = torch.tensor([0.0, 0.05, 0.9, 30.0], dtype=F64)
    x_0 = (torch.arange(4) * 5 % size)[:, None].expand(4, 4000)
    for number, one in enumerate((rates, plain)):
        generator = torch.Generator().manual_seed(number)
        x_t = one.sample_from(x_0, taus, generator)
        for draws, law in zip(x_t, rates.transition_from(x_0[:, :1], taus)[:, 0], strict=True):
            assert chi_square(draws, law) > 1e-4
        x_t = one.sample_from(x_0, taus, generator)[:, :1].expand(4, 4000)
        halves, rests = 0.25 * taus, 0.75 * taus
        laws = rates.transition_from(x_0[:, :1], halves)[:, 0] * rates.transition_to(x_t[:, :1], rests)[:, 0]
        together = one.sample_bridge(x_0, x_t, halves, taus, generator)
        alone = [one.sample_bridge(x_0[i : i + 1], x_t[i : i + 1], halves[i], taus[i], generator)[0] for i in range(4)]
        for draws in (together, alone):
            for x_s, law in zip(draws, laws, strict=True):
                assert chi_square(x_s, law / law.sum()) > 1e-4


# A rate matrix of one's own


class OwnRates(RateMatrix):
    """Any generator as a matrix, by three methods."""

    def __init__(self, generator: np.ndarray) -> None:
        super().__init__(len(generator))
        self.R = torch.from_numpy(generator)

    def kernel(self, tau: Tensor, dtype: torch.dtype | None = None) -> TransitionKernel:
        return OwnKernel(self, tau.double(), tau.dtype if dtype is None else dtype)

    def rates_from(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.R.to(dtype)[x.long()]

    def rates_to(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.R.T.to(dtype)[x.long()]


class OwnKernel(TransitionKernel):
    """Its kernel, by four."""

    def _matrices(self, batch: int) -> Tensor:
        return torch.matrix_exp(self.tau[..., None, None] * self.rates.R).to(self.dtype).expand(batch, -1, -1)

    def rows(self, x: Tensor) -> Tensor:
        return self._matrices(len(x))[torch.arange(len(x)).view(-1, *(1,) * (x.ndim - 1)), x.long()]

    def columns(self, x: Tensor) -> Tensor:
        return self._matrices(len(x)).mT[torch.arange(len(x)).view(-1, *(1,) * (x.ndim - 1)), x.long()]

    def matmul(self, w: Tensor) -> Tensor:
        return torch.einsum("b...i,bij->b...j", w.to(self.dtype), self._matrices(len(w)))

    def rmatmul(self, g: Tensor) -> Tensor:
        return torch.einsum("b...j,bij->b...i", g.to(self.dtype), self._matrices(len(g)))


def test_a_new_rate_matrix_is_short() -> None:
    lines = [line for cls in (OwnRates, OwnKernel) for line in inspect.getsource(cls).splitlines() if line.strip()]
    assert len(lines) < 30


@functools.cache
def own_chains(size: int) -> tuple[EnumeratedCTMC, EnumeratedCTMC, LeaveOneOutDenoiser]:
    """The chain of a new rate matrix, that of the shipped dense one, and the exact denoiser of the first."""
    generator, law = random_generator(size), toy_law(size**2)
    own, dense = (EnumeratedCTMC(CTMC(cls(generator), Constant(3.0)), law, 2) for cls in (OwnRates, DenseRates))
    return own, dense, LeaveOneOutDenoiser(own.process, own.leave_one_out_network(), (2,))


@pytest.mark.parametrize("size", [2, 3])
def test_losses_of_a_new_rate_matrix_have_the_enumerated_mean(size: int) -> None:
    own, dense, denoiser = own_chains(size)
    generator = torch.Generator().manual_seed(0)
    x_0 = own.clean[torch.multinomial(own.data_law, 20_000, replacement=True, generator=generator)]
    x_0_pairs, x_t, weight = dense._pairs(0.4)
    surprise = -LeaveOneOutDenoiser(dense.process, dense.leave_one_out_network(), (2,))(x_t, scalar(0.4)).log_prob(x_0_pairs)
    means = {CrossEntropy(): (weight * surprise.sum(-1)).sum().item(), ELBO(): own.integrand(denoiser, 0.4)}
    for loss, mean in means.items():
        values = scored(loss, denoiser, x_0, torch.full((20_000,), 0.4, dtype=F64), generator=generator)
        error = values.std().item() / math.sqrt(20_000)
        assert values.mean().item() == pytest.approx(mean, abs=4 * error), type(loss).__name__
        assert error < 0.02 * mean
    assert own.bound(denoiser, 0.05) == pytest.approx(dense.exact_bound(0.05), abs=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_samplers_of_a_new_rate_matrix_have_their_exact_laws(size: int) -> None:
    own, dense, denoiser = own_chains(size)
    twin = LeaveOneOutDenoiser(dense.process, dense.leave_one_out_network(), (2,))
    for cls, settings in ((Ancestral, {}), (Euler, {}), (TauLeaping, {"leap": CategoricalLeap()})):
        sampler, grid = cls(denoiser, QuadraticGrid(16), **settings), QuadraticGrid(16)
        law = own.sampler_law(sampler, start=own.prior_law())
        torch.testing.assert_close(law, dense.sampler_law(cls(twin, grid, **settings), dense.prior_law()), rtol=1e-6, atol=1e-9)
        errors = [
            total_variation(dense.marginal(0.05), own.sampler_law(cls(denoiser, fine, **settings), finish=False))
            for fine in (QuadraticGrid(32, t_min=0.05), QuadraticGrid(64, t_min=0.05))
        ]
        assert math.log2(errors[0] / errors[1]) > 0.85
        x_0 = sampler.sample(4000, generator=torch.Generator().manual_seed(1))
        assert chi_square((x_0 * torch.tensor([size, 1])).sum(-1), law / law.sum()) > 1e-4


@pytest.mark.parametrize("size", [2, 3])
def test_bits_per_dim_of_a_new_rate_matrix_are_the_enumerated_ones(size: int) -> None:
    _, dense, denoiser = own_chains(size)
    x_0 = dense.clean.repeat_interleave(100, 0)
    estimate = bits_per_dim(
        denoiser, x_0, times=StratifiedTimes(t_min=0.05), draws=16, generator=torch.Generator().manual_seed(2)
    )
    # Every clean state alike: the bound of a mean over them, each with its own by enumeration.
    alike = EnumeratedCTMC(dense.process, torch.full((size**2,), size**-2, dtype=F64), 2)
    expected = alike.bound(LeaveOneOutDenoiser(dense.process, dense.leave_one_out_network(), (2,)), 0.05) / (2 * math.log(2))
    assert estimate.value == pytest.approx(expected, abs=4 * estimate.standard_error)
    assert estimate.standard_error < 0.03 * expected
