"""Rate matrices against independent truths: matrix_exp, long-double power series, enumeration, chi-square."""

from __future__ import annotations

import copy
import importlib
import math
import pkgutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import discrete_diffusion.rates
from diffusion_core import PerSampleRandomness
from discrete_diffusion.rates import (
    AbsorbingRates,
    BirthDeathRates,
    DenseRates,
    GaussianTargetRates,
    RateMatrix,
    UniformRates,
)
from discrete_diffusion.rates.fast.alias import alias_table
from discrete_diffusion.rates.fast.inflow import BlockedInflow
from discrete_diffusion.rates.fast.products import ProductSampler

from ..devices import ABSENT, fake_tensors
from .chi_squares import chi_square

F64 = torch.float64


def generator_from(jumps: np.ndarray) -> Tensor:
    np.fill_diagonal(jumps, 0.0)
    return torch.tensor(jumps - np.diag(jumps.sum(1)))


def non_reversible(n: int = 6) -> DenseRates:
    return DenseRates(generator_from(np.random.default_rng(0).gamma(0.3, size=(n, n))))


def pure_death(n: int = 6) -> DenseRates:
    """x -> x - 1 at rate x: state 0 is absorbing, P is lower triangular."""
    return DenseRates(generator_from(np.diag(np.arange(1.0, n), -1)))


def subclasses(cls: type) -> Iterator[type[RateMatrix]]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def every_class() -> list[type[RateMatrix]]:
    for module in pkgutil.iter_modules(discrete_diffusion.rates.__path__, "discrete_diffusion.rates."):
        importlib.import_module(module.name)
    classes = {cls for cls in subclasses(RateMatrix) if cls.__module__.startswith("discrete_diffusion.")}
    return sorted(classes, key=lambda cls: cls.__name__)


def every_example() -> list[tuple[str, RateMatrix]]:
    built = [
        (f"{cls.__name__}-{size}", cls(size))  # type: ignore[call-arg, arg-type]
        for cls in every_class()
        if cls is not DenseRates
        for size in (2, 5)
    ]
    others = [
        ("skewed-2", DenseRates(torch.tensor([[-1.0, 1.0], [3.0, -3.0]]))),
        ("non_reversible-3", non_reversible(3)),
        ("non_reversible-6", non_reversible()),
        ("pure_death-2", pure_death(2)),
        ("pure_death-6", pure_death()),
        ("odd_gaussian-3", GaussianTargetRates(3, sigma_r=1, Q=2)),
        ("odd_gaussian-21", GaussianTargetRates(21, sigma_r=3, Q=8, scale=0.5)),
        ("scaled_uniform-3", UniformRates(3, scale=0.3)),
    ]
    return built + others


EXAMPLES = every_example()
examples = pytest.mark.parametrize("rates", [rates for _, rates in EXAMPLES], ids=[name for name, _ in EXAMPLES])
TAUS = [0.0, 1e-3, 0.3, 2.0, 20.0, 50.0]


def generator_of(rates: RateMatrix) -> Tensor:
    return rates.rates_from(torch.arange(rates.num_states), F64)


def exact(rates: RateMatrix, tau: float) -> Tensor:
    return torch.matrix_exp(generator_of(rates) * tau)


def scalar(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=F64)


def matrix(rates: RateMatrix, tau: float) -> Tensor:
    return rates.transition_from(torch.arange(rates.num_states), scalar(tau))


def test_there_are_rate_matrices() -> None:
    assert len(every_class()) >= 5


@examples
def test_generator(rates: RateMatrix) -> None:
    n = rates.num_states
    generator, states = generator_of(rates), torch.arange(n)
    off = generator - torch.diag(generator.diagonal())
    assert (off >= 0).all()
    assert generator.sum(1).abs().max() < 1e-13
    torch.testing.assert_close(rates.rates_to(states, F64), generator.T, rtol=0, atol=0)
    torch.testing.assert_close(rates.exit_rates(states, F64), -generator.diagonal(), rtol=0, atol=0)
    assert rates.rates_from(states).dtype == torch.float32
    assert rates.stationary.dtype == F64
    assert rates.stationary.sum().sub(1).abs() < 1e-14
    assert (rates.stationary @ generator).abs().max() < 1e-14


@examples
def test_transitions_equal_matrix_exp(rates: RateMatrix) -> None:
    states = torch.arange(rates.num_states).expand(len(TAUS), -1)
    together = rates.transition_from(states, torch.tensor(TAUS, dtype=F64))
    for tau, in_a_batch in zip(TAUS, together, strict=True):
        p = matrix(rates, tau)
        assert (p >= 0).all()
        assert (p.sum(1) - 1).abs().max() < 1e-12
        assert (p - exact(rates, tau)).abs().max() < 1e-9
        assert (in_a_batch - p).abs().max() < 1e-12
        assert (rates.stationary @ p - rates.stationary).abs().max() < 1e-12
    assert (matrix(rates, 0.7) @ matrix(rates, 1.6) - matrix(rates, 2.3)).abs().max() < 1e-12
    limit = matrix(rates, math.inf)
    torch.testing.assert_close(limit, rates.stationary.expand_as(limit), rtol=1e-12, atol=0)


@examples
@pytest.mark.parametrize("batched", [False, True])
def test_operators_agree_with_the_matrix(rates: RateMatrix, batched: bool) -> None:
    n, size = rates.num_states, rates.data_states
    taus = [0.0, 0.4, 3.0, 60.0] if batched else [0.4]
    tau = torch.tensor(taus, dtype=F64) if batched else scalar(0.4)
    x, y = (torch.randint(n, (4, 3, 2), generator=torch.Generator().manual_seed(i)) for i in range(2))
    p = torch.stack([exact(rates, taus[i % len(taus)]) for i in range(4)])
    jumps = generator_of(rates).clone().fill_diagonal_(0)
    example = torch.arange(4)[:, None, None]
    close = {"rtol": 1e-9, "atol": 1e-12}
    kernel = rates.kernel(tau)
    torch.testing.assert_close(rates.transition_from(x, tau), p[example, x], **close)
    torch.testing.assert_close(rates.transition_to(x, tau), p.mT[example, x], **close)
    torch.testing.assert_close(kernel.columns(x), p.mT[example, x][..., :size], **close)
    torch.testing.assert_close(rates.entry(x, y, tau), p[example, x, y], **close)
    w, v = (torch.rand(4, 3, 2, k, dtype=F64, generator=torch.Generator().manual_seed(k)) for k in (size, n))
    pushed = torch.einsum("bijk,bkl->bijl", w, p[:, :size])
    torch.testing.assert_close(rates.matmul(w, tau), pushed, **close)
    torch.testing.assert_close(rates.matmul(v, tau), torch.einsum("bijk,bkl->bijl", v, p), **close)
    torch.testing.assert_close(kernel.rmatmul(v), torch.einsum("bijl,bkl->bijk", v, p[:, :size]), **close)
    at_x, inflow = kernel.inflow(w, x)
    torch.testing.assert_close(at_x, pushed.gather(-1, x[..., None])[..., 0], **close)
    torch.testing.assert_close(inflow, (pushed * jumps.T[x]).sum(-1), **close)
    torch.testing.assert_close(kernel.inflow_columns(x), (p @ jumps).mT[example, x][..., :size], **close)
    part = kernel.select(slice(1, 3), torch.float32).rows(x[1:3])
    assert part.dtype == torch.float32
    torch.testing.assert_close(part, p[example, x][1:3].float(), rtol=1e-6, atol=1e-9)


@examples
def test_results_follow_the_dtype_of_tau(rates: RateMatrix) -> None:
    x = torch.zeros(2, 3, dtype=torch.uint8)
    for dtype in (torch.float32, F64):
        tau = torch.tensor(0.5, dtype=dtype)
        assert rates.transition_from(x, tau).dtype == dtype
        assert rates.entry(x, x, tau).dtype == dtype
        assert rates.matmul(torch.ones(2, 3, rates.data_states), tau).dtype == dtype
    assert rates.transition_from(x, scalar(0.5), torch.float32).dtype == torch.float32
    w = torch.rand(2, 3, rates.data_states, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: rates.matmul(w, scalar(0.5)), (w,))


@examples
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_kernels_made_for_inference_can_train(rates: RateMatrix, dtype: torch.dtype) -> None:
    for tau in (scalar(0.83), torch.tensor([0.83, 0.2], dtype=F64)):
        w = torch.ones(2, rates.data_states, requires_grad=True)
        with torch.inference_mode():
            rates.kernel(tau, dtype).rmatmul(rates.matmul(w, tau, dtype))
        kernel = rates.kernel(tau, dtype)
        kernel.rmatmul(kernel.matmul(w)).sum().backward()
        assert w.grad is not None


@examples
def test_module_keeps_float64_and_copies(rates: RateMatrix) -> None:
    twin = copy.deepcopy(rates).half()
    assert all(buffer.dtype == F64 for buffer in twin.buffers())
    assert not twin.state_dict()
    x = torch.zeros(1, 3, dtype=torch.int64)
    torch.testing.assert_close(twin.transition_from(x, scalar(0.2)), rates.transition_from(x, scalar(0.2)), rtol=0, atol=0)


def dense_twin(rates: RateMatrix) -> DenseRates:
    return DenseRates(generator_of(rates))


@pytest.mark.parametrize("rates", [UniformRates(7, 1.7), AbsorbingRates(7)], ids=["uniform", "absorbing"])
def test_closed_forms_equal_dense(rates: RateMatrix) -> None:
    twin = dense_twin(rates)
    x = torch.arange(rates.num_states)[None]
    for tau in (1e-9, 1e-3, 0.5, 5.0, 40.0):
        torch.testing.assert_close(
            rates.transition_from(x, scalar(tau)), twin.transition_from(x, scalar(tau)), rtol=1e-7, atol=1e-38
        )
    torch.testing.assert_close(rates.stationary, twin.stationary, rtol=1e-13, atol=0)


@examples
@pytest.mark.parametrize("seeded", [False, True])
def test_sample_from(rates: RateMatrix, seeded: bool) -> None:
    taus = torch.tensor([0.0, 0.05, 0.9, 7.0, 300.0, math.inf], dtype=F64)
    x_0 = (torch.arange(6) % rates.data_states)[:, None].expand(6, 20_000)
    randomness = PerSampleRandomness(range(10, 16)) if seeded else torch.Generator().manual_seed(1)
    x_t = rates.sample_from(x_0, taus, randomness)
    assert x_t.dtype == torch.int64
    laws = rates.transition_from(x_0[:, :1], taus)[:, 0]
    assert min(chi_square(draws, law) for draws, law in zip(x_t, laws, strict=True)) > 1e-4
    once = rates.sample_from(x_0[:1].to(torch.uint8), scalar(0.3), randomness if not seeded else None)
    assert chi_square(once[0], rates.transition_from(x_0[0, 0], scalar(0.3))) > 1e-4


def bridge_law(rates: RateMatrix, x_0: int, x_t: int, tau_s: float, tau_t: float) -> Tensor:
    rest = 0.0 if tau_s == tau_t else tau_t - tau_s
    weights = matrix(rates, tau_s)[x_0] * matrix(rates, rest)[:, x_t]
    weights = weights if weights.sum() > 0 else matrix(rates, rest)[:, x_t]
    weights = weights if weights.sum() > 0 else torch.eye(len(weights), dtype=F64)[x_t]
    return weights / weights.sum()


@examples
@pytest.mark.parametrize("batched", [False, True])
def test_sample_bridge(rates: RateMatrix, batched: bool) -> None:
    size, n = rates.data_states, rates.num_states
    pairs = [
        (0, 0.2, 0.9),
        (n - 1, 0.01, 0.02),
        (n // 2, 1.0, math.inf),
        (1, 0.0, 0.5),
        (0, 0.3, 0.3),
        (n - 1, math.inf, math.inf),
    ]
    generator = torch.Generator().manual_seed(2)
    x_0 = (torch.arange(6) % size)[:, None].expand(6, 20_000)
    x_t = torch.tensor([x for x, _, _ in pairs])[:, None].expand(6, 20_000)
    tau_s, tau_t = (torch.tensor([pair[i] for pair in pairs], dtype=F64) for i in (1, 2))
    if batched:
        x_s = rates.sample_bridge(x_0, x_t, tau_s, tau_t, generator)
    else:
        rows = [rates.sample_bridge(x_0[i : i + 1], x_t[i : i + 1], tau_s[i], tau_t[i], generator) for i in range(6)]
        x_s = torch.cat(rows)
    for i, (x, s, t) in enumerate(pairs):
        assert chi_square(x_s[i], bridge_law(rates, int(x_0[i, 0]), x, s, t)) > 1e-4


@examples
def test_draw_inflow(rates: RateMatrix) -> None:
    jumps = generator_of(rates).clone().fill_diagonal_(0)
    p = matrix(rates, 0.4)
    u = torch.rand(20_000, dtype=F64, generator=torch.Generator().manual_seed(3))
    for x_0, x in ((0, rates.num_states - 1), (1, 1), (rates.data_states - 1, 0)):
        weights = p[x_0] * jumps[:, x]
        if weights.sum() > 0:
            ones = torch.ones(20_000, dtype=torch.int64)
            y = rates.kernel(scalar(0.4)).draw_inflow(x_0 * ones, x * ones, u)
            assert chi_square(y, weights / weights.sum()) > 1e-4


def test_reverse_flows_of_scores_of_any_size() -> None:
    """Weights that overflow or vanish in float32, and a row with one possible value, against float64 and whole matrices."""
    rates, generator = GaussianTargetRates(64, 3.0, 16.0), torch.Generator().manual_seed(5)
    scores = torch.randn(300, 64, generator=generator) * 3
    x = torch.randint(64, (300,), generator=generator)
    offsets = torch.tensor([0.0, 95.0, -95.0, 3e4, -3e4, 0.0])[torch.arange(300) % 6, None]
    scores[5::6, 1:] = -torch.inf
    shifted = scores + offsets
    p, jumps = matrix(rates, 0.3), generator_of(rates).clone().fill_diagonal_(0)
    # In float32 a score of 3e4 has three digits after the point: what it stands for is what remains of it.
    w = (shifted.double() - offsets).exp()
    at_x, total = (w * p[:, x].mT).sum(-1), (w * (p @ jumps)[:, x].mT).sum(-1)
    flows = rates.kernel(scalar(0.3), torch.float32).inflow_draws(shifted, x)
    torch.testing.assert_close(flows.total / flows.at_x, (total / at_x).float(), rtol=2e-5, atol=0)
    torch.testing.assert_close(flows.at_x.double().log() + flows.shift, at_x.log() + offsets[:, 0], rtol=1e-6, atol=1e-4)
    rows = torch.arange(6)
    u = torch.rand(6 * 20_000, 3, dtype=F64, generator=generator)
    drawn = flows.draw(rows.repeat_interleave(20_000), u).view(6, -1)
    for row in rows.tolist():
        law = (w[row] @ p) * jumps[:, x[row]]
        assert chi_square(drawn[row], law / law.sum()) > 1e-4
    alone = rates.kernel(scalar(0.3), torch.float32).inflow_draws(shifted[:3], x[:3])
    assert torch.equal(alone.total, flows.total[:3])


def test_an_excluded_value_is_never_drawn() -> None:
    """The first block of values has weight 0 and the others weights as small as go unshifted: u = 0 is still one of those."""
    rates = GaussianTargetRates(64, 3.0, 16.0)
    scores = torch.full((40, 64), -53.0)
    scores[:, :16] = -torch.inf
    scores[::2, 16:40] = -torch.inf
    x = 20 + torch.arange(40) % 24
    flows = rates.kernel(scalar(300.0), torch.float32).inflow_draws(scores, x)
    assert isinstance(flows, BlockedInflow)
    assert (flows.shift == 0).all()
    sources: list[torch.Tensor] = []
    flows._kernel.draw_inflow = lambda x_0, x, u: sources.append(x_0) or x_0  # type: ignore[method-assign, func-returns-value]
    u = torch.zeros(40, 3, dtype=F64)
    flows.draw(torch.arange(40), u)
    flows.draw(torch.arange(40), u + 0.999)
    for drawn in sources:
        assert (scores[torch.arange(40), drawn] > -torch.inf).all()


@examples
def test_seeded_draws_do_not_depend_on_the_batch(rates: RateMatrix) -> None:
    x = torch.randint(rates.data_states, (7, 40), generator=torch.Generator().manual_seed(4))
    taus = torch.linspace(0, 30, 7, dtype=F64)
    whole = rates.sample_from(x, taus, PerSampleRandomness(range(7)))
    parts = [rates.sample_from(x[i:j], taus[i:j], PerSampleRandomness(range(i, j))) for i, j in ((0, 2), (2, 3), (3, 7))]
    assert torch.equal(whole, torch.cat(parts))
    bridge = rates.sample_bridge(x, whole, 0.5 * taus, taus, PerSampleRandomness(range(7)))
    single = rates.sample_bridge(x[3:4], whole[3:4], 0.5 * taus[3], taus[3], PerSampleRandomness([3]))
    assert torch.equal(bridge[3:4], single)


def power_series(generator: Tensor, rows: list[int], taus: list[float]) -> list[np.ndarray]:
    """Rows of exp(tau R) in long double, for each tau: sum_k Poisson(k; lambda tau) A^k, all terms non-negative."""
    jumps = generator.numpy().astype(np.longdouble)
    np.fill_diagonal(jumps, 0)
    exits = jumps.sum(1)
    rate = exits.max()
    step = jumps / rate + np.diag((rate - exits) / rate)
    term = np.zeros((len(rows), len(step)), dtype=np.longdouble)
    term[np.arange(len(rows)), rows] = 1
    means = [rate * np.longdouble(tau) for tau in taus]
    totals, log_weights, k = [np.zeros_like(term) for _ in taus], [-mean for mean in means], 0
    while going := [i for i, mean in enumerate(means) if k <= mean or log_weights[i] > -130]:
        k += 1
        for i in going:
            totals[i] += np.exp(log_weights[i]) * term
            log_weights[i] += np.log(means[i] / k)
        term = term @ step
    return totals


def relative_error(found: Tensor, judge: np.ndarray) -> float:
    assert (found >= 0).all()
    large = judge > 1e-38
    return float(np.abs(found.double().numpy()[large] / judge[large] - 1).max())


def test_gaussian_target_is_accurate_in_every_entry() -> None:
    rates = GaussianTargetRates(256)
    assert matrix(rates, 30.0).min() > 0
    switch = rates._matrices._plan.spectral
    times = [3 * (100**t - 1) for t in (0.001, 0.01, 0.1, 0.5)]
    taus = [*times, 0.1719, switch * (1 - 1e-9), switch * (1 + 1e-9), 1.5 * switch]
    assert math.isfinite(switch)
    batch = torch.tensor(taus, dtype=F64)
    together, blind = rates.transition(batch), rates._matrices._anywhere(batch)
    rows = [3, 255]
    for i, judge in enumerate(power_series(rates.generator_matrix, rows, taus)):
        for found in (rates.transition(batch[i]), together[i], blind[i], rates.transition(batch[i], torch.float32)):
            assert (found >= 0).all()
            assert relative_error(found[rows], judge) < 1e-6
    late = 3 * (100**0.99 - 1)
    (judge,) = power_series(rates.generator_matrix, rows[:1], [late])
    assert relative_error(matrix(rates, late)[rows[:1]], judge) < 1e-6


@pytest.mark.parametrize(
    "rates",
    [
        BirthDeathRates(2),
        BirthDeathRates(48),
        non_reversible(3),
        non_reversible(40),
        pure_death(2),
        pure_death(12),
        GaussianTargetRates(2, Q=0.3),
        GaussianTargetRates(3, sigma_r=1, Q=1),
        GaussianTargetRates(31, sigma_r=2, Q=6),
    ],
    ids=lambda rates: f"{type(rates).__name__}-{rates.num_states}",
)
def test_long_times_are_accurate_in_every_entry(rates: DenseRates) -> None:
    plan = (matrix(rates, 1e3), rates._matrices._plan)[1]
    ends = [value for value in (plan.reach, plan.spectral, plan.end) if math.isfinite(value)]
    top = 3e4 / float(rates.exit_rates(torch.arange(rates.num_states)).max())
    taus = sorted({min(factor * end, top) for end in ends for factor in (0.4, 1 - 1e-9, 1 + 1e-9, 1.7, 3.3)})
    batch, rows = torch.tensor(taus, dtype=F64), [0, min(11, rates.num_states - 1)]
    together, blind = rates.transition(batch), rates._matrices._anywhere(batch)
    for i, judge in enumerate(power_series(rates.generator_matrix, rows, taus)):
        for found in (rates.transition(batch[i]), together[i], blind[i]):
            assert relative_error(found[rows], judge) < 1e-6


def test_chains_on_two_values_are_one_chain() -> None:
    """Two values have one pair to jump between: three kinds of rates are one, its relaxation twice the rate of a jump."""
    kinds = (UniformRates(2, 0.6), BirthDeathRates(2, 0.3), GaussianTargetRates(2, sigma_r=0.1, Q=1e9, scale=0.3))
    for tau in (1e-3, 0.5, 7.0, 50.0, 1e4):
        left = math.exp(-0.6 * tau)
        law = torch.tensor([[1 + left, 1 - left], [1 - left, 1 + left]], dtype=F64) / 2
        for rates in kinds:
            torch.testing.assert_close(matrix(rates, tau), law, rtol=1e-11, atol=0)
    # The Gaussian's centre is the value S / 2 - 1, so that a narrow one prefers 0.
    torch.testing.assert_close(
        matrix(GaussianTargetRates(2, Q=0.5), 50.0)[1], torch.tensor([1, math.exp(-2)], dtype=F64) / (1 + math.exp(-2))
    )


@pytest.mark.parametrize("size", [2, 3, 16, 21, 255, 256])
def test_gaussian_target_is_reversible_and_its_law_exact(size: int) -> None:
    rates = GaussianTargetRates(size, sigma_r=6.0, Q=max(size, 8) / 2)
    flow = rates.stationary[:, None] * rates.generator_matrix
    assert ((flow - flow.T).abs() <= 1e-14 * flow.abs().clamp(min=1e-300)).all() or (flow - flow.T).abs().max() < 1e-16
    x = torch.arange(size, dtype=F64)
    law = torch.exp(-((x + 1 - size / 2) ** 2) / (2 * rates.Q**2))
    torch.testing.assert_close(rates.stationary, law / law.sum(), rtol=1e-14, atol=0)
    # Every pair once, in the direction of the definition.
    for i in range(0, size, 7):
        for j in range(size):
            first = i < size // 2 and i < j < size - i
            second = i > size // 2 and size - 1 - i < j < i
            if first or second:
                rate = math.exp(-((abs(j - i) - 1) ** 2) / 36)
                assert rates.generator_matrix[i, j].item() == pytest.approx(rate, rel=1e-12)


def test_stationary_law_of_a_reducible_chain() -> None:
    jumps = np.zeros((5, 5))
    jumps[0, 1] = jumps[1, 2] = 1.0
    jumps[2, 3] = 3.0
    jumps[3, 2] = 1e-9
    jumps[4, 0] = 2.0
    rates = DenseRates(generator_from(jumps))
    torch.testing.assert_close(rates.stationary, torch.tensor([0, 0, 1e-9, 3, 0], dtype=F64) / (3 + 1e-9), rtol=1e-13, atol=0)
    assert rates.float32_range == (math.inf, math.inf)
    assert pure_death().stationary.tolist() == [1, 0, 0, 0, 0, 0]


def test_float32_range() -> None:
    rates = GaussianTargetRates(64, Q=100)
    low, high = rates.float32_range
    assert 1e-18 <= matrix(rates, low).min() < 1e-17
    deviation = (matrix(rates, high) / rates.stationary - 1).abs().max()
    assert 0.02 < deviation <= 0.03
    low, high = UniformRates(256).float32_range
    assert (matrix(UniformRates(256), high) * 256 - 1).abs().max() == pytest.approx(0.03, rel=0.05)


def test_absorbing_prior_is_a_mixture() -> None:
    law = AbsorbingRates(4).prior(scalar(2.0))
    torch.testing.assert_close(law, matrix(AbsorbingRates(4), 2.0)[:4].mean(0))
    assert AbsorbingRates(4).prior(scalar(math.inf)).tolist() == [0, 0, 0, 0, 1]


def test_alias_tables_hold_their_laws() -> None:
    rng = np.random.default_rng(5)
    laws = np.concatenate([rng.gamma(0.1, size=(50, 13)), np.eye(13), np.full((1, 13), 1 / 13)])
    laws[:20, 3] = 0.0
    laws /= laws.sum(1, keepdims=True)
    thresholds, aliases = alias_table(laws)
    share = thresholds - np.arange(13)
    assert (share >= 0).all()
    assert (share <= 1).all()
    found = share.copy()
    for row in range(len(laws)):
        np.add.at(found[row], aliases[row], 1 - share[row])
    np.testing.assert_allclose(found / 13, laws, atol=1e-14)
    np.testing.assert_array_equal(found[:20, 3], 0)


def test_product_sampler_tables_equal_rows() -> None:
    generator = torch.Generator().manual_seed(6)
    left, right = (torch.rand(50, 50, dtype=F64, generator=generator) ** 30 for _ in range(2))
    left[7] = 0.0
    left[8, 20:], right[:20, 9] = 0.0, 0.0
    sampler = ProductSampler(left, right)
    a, b = (torch.randint(50, (4000,), generator=generator) for _ in range(2))
    a[:5], b[:5] = 8, 9
    u = torch.rand(4000, dtype=F64, generator=generator)
    k = sampler.draw(a, b, u)
    weights = left[a] * right.T[b]
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, right.T[b])
    assert (weights.gather(-1, k[:, None]) > 0).all()
    cumulative = weights.cumsum(-1)
    assert torch.equal(k, torch.searchsorted(cumulative, (u * cumulative[:, -1])[:, None], right=True)[:, 0])
    for edge in (0.0, 1 - 2.0**-53):
        extreme = sampler.draw(a, b, torch.full_like(u, edge))
        assert (weights.gather(-1, extreme[:, None]) > 0).all()
    assert torch.equal(sampler.draw(a[:100], b[:100], u[:100]), k[:100])


def test_unlikely_pairs_have_the_right_bridge() -> None:
    """At small tau the weights of a far pair are near 1e-90; their ratios still decide."""
    rates = GaussianTargetRates(256)
    x_0, x_t = torch.full((1, 20_000), 3), torch.full((1, 20_000), 250)
    x_s = rates.sample_bridge(x_0, x_t, scalar(0.01), scalar(0.02), torch.Generator().manual_seed(7))
    weights = matrix(rates, 0.01)[3] * matrix(rates, 0.01)[:, 250]
    assert 0 < weights.sum() < 1e-60
    assert chi_square(x_s, weights / weights.sum()) > 1e-4


@pytest.mark.parametrize(
    "rates", [GaussianTargetRates(40), *(r for _, r in EXAMPLES)], ids=["large", *(n for n, _ in EXAMPLES)]
)
@pytest.mark.parametrize("inside", [False, True])
def test_runs_on_an_accelerator_that_is_not_there(rates: RateMatrix, inside: bool) -> None:
    with fake_tensors():
        if inside and type(rates) in (UniformRates, AbsorbingRates, BirthDeathRates, GaussianTargetRates):
            with torch.device(ABSENT):
                rates = type(rates)(6)  # type: ignore[call-arg]
            assert rates.stationary.device.type == ABSENT
        n, size = rates.num_states, rates.data_states
        x = torch.zeros(4, 700, dtype=torch.int64, device=ABSENT)
        w = torch.ones(4, 700, size, device=ABSENT)
        for tau in (torch.ones((), device=ABSENT), torch.ones(4, device=ABSENT)):
            kernel = rates.kernel(tau)
            assert rates.transition_from(x, tau).shape == (4, 700, n)
            assert rates.transition_to(x, tau).shape == (4, 700, n)
            assert rates.matmul(w, tau).shape == (4, 700, n)
            assert kernel.rmatmul(rates.matmul(w, tau)).shape == (4, 700, size)
            assert [part.shape for part in kernel.inflow(w, x)] == [(4, 700), (4, 700)]
            for result in (rates.entry(x, x, tau), rates.sample_from(x, tau), rates.sample_bridge(x, x, 0.5 * tau, tau)):
                assert result.shape == x.shape
                assert result.device.type == ABSENT
        u = torch.zeros(2800, dtype=F64, device=ABSENT)
        assert rates.kernel(torch.ones((), device=ABSENT)).draw_inflow(x.flatten(), x.flatten(), u).shape == (2800,)
        assert rates.rates_from(x).device.type == ABSENT
    assert type(matrix(rates, 0.5)) is Tensor


def row(n: int, **changes: float) -> Tensor:
    generator = generator_from(np.ones((n, n)))
    for place, value in changes.items():
        i, j = (int(digit) for digit in place[1:])
        generator[i, j] = value
    return generator


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.zeros(3, 4), r"shape \(3, 4\)"),
        (torch.zeros(3), r"shape \(3,\)"),
        (torch.zeros(3, 3, dtype=torch.int64), "dtype int64"),
        (row(3, r02=float("nan")), r"R\[0, 2\] = nan"),
        (row(3, r00=-1.5), "row 0 of the generator sums to 0.5"),
        (row(3, r10=-1.0, r11=0.0), r"R\[1, 0\] = -1.0"),
        (torch.zeros(3, 3), "states 0 and 1 are in different closed classes"),
    ],
)
def test_refuses_what_is_not_a_generator(matrix: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseRates(matrix)


def test_refuses_bad_arguments() -> None:
    rates = UniformRates(4)
    x = torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"tau has shape \(2,\), expected \(\) or \(3,\)"):
        rates.sample_from(x, torch.ones(2))
    with pytest.raises(ValueError, match=r"tau = -1.0"):
        rates.transition_from(x, torch.tensor(-1.0))
    with pytest.raises(ValueError, match=r"dtype torch.int64"):
        rates.kernel(torch.tensor(1))
    with pytest.raises(ValueError, match=r"tau_s = 2.0 exceeds tau_t = 1.0"):
        rates.sample_bridge(x, x, torch.tensor(2.0), torch.tensor(1.0))
    for make in (
        lambda: UniformRates(1),
        lambda: AbsorbingRates(1),
        lambda: BirthDeathRates(1),
        lambda: GaussianTargetRates(1),
    ):
        with pytest.raises(ValueError, match="expected an integer of at least 2"):
            make()
    for make in (lambda: UniformRates(4, 0.0), lambda: BirthDeathRates(4, -1.0)):
        with pytest.raises(ValueError, match="scale"):
            make()
    with pytest.raises(ValueError, match="sigma_r = -1"):
        GaussianTargetRates(4, sigma_r=-1)
    with pytest.raises(ValueError, match=r"Q = 0.5"):
        GaussianTargetRates(256, Q=0.5)
    with pytest.raises(ValueError, match="stationary R"):
        DenseRates(row(3, r00=-3.0, r01=2.0), torch.full((3,), 1 / 3, dtype=F64))
