"""The forward process: noising, ratios, rates and bridges against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from diffusion_core import PerSampleRandomness
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates import AbsorbingRates, BirthDeathRates, DenseRates, GaussianTargetRates, UniformRates
from discrete_diffusion.schedules import Constant, CosineSurvival, Exponential, LinearSurvival

from ..devices import ABSENT, fake_tensors

F64 = torch.float64


def non_reversible(n: int) -> DenseRates:
    jumps = np.random.default_rng(1).gamma(0.3, size=(n, n))
    np.fill_diagonal(jumps, 0.0)
    return DenseRates(torch.tensor(jumps - np.diag(jumps.sum(1))))


def of_size(n: int) -> list[CTMC]:
    return [
        CTMC(UniformRates(n), LinearSurvival()),
        CTMC(AbsorbingRates(n), CosineSurvival()),
        CTMC(BirthDeathRates(n), Constant(3.0)),
        CTMC(GaussianTargetRates(n), Exponential()),
        CTMC(non_reversible(n), Exponential(0.5, 10.0)),
    ]


PROCESSES = of_size(5)
every_process = pytest.mark.parametrize(
    "process", [*PROCESSES, *of_size(2)], ids=lambda process: f"{type(process.rates).__name__}-{process.rates.data_states}"
)


def tables(process: CTMC, t: float) -> tuple[Tensor, Tensor]:
    """R_t and P_t, the second by matrix_exp."""
    beta, tau = process.schedule(torch.tensor(t, dtype=F64))
    generator = process.rates.rates_from(torch.arange(process.rates.num_states), F64)
    return beta * generator, torch.matrix_exp(tau * generator)


def states(process: CTMC) -> tuple[Tensor, Tensor]:
    """All pairs of a clean and a noisy state that are possible at intermediate times: (2, m)."""
    _, p = tables(process, 0.4)
    x_0, x_t = (p[: process.rates.data_states] > 0).nonzero().T
    return x_0[None].expand(2, -1), x_t[None].expand(2, -1)


@every_process
@pytest.mark.parametrize("batched", [False, True])
def test_ratios_and_rates(process: CTMC, batched: bool) -> None:
    times = [0.2, 0.7] if batched else [0.2, 0.2]
    t = torch.tensor(times) if batched else torch.tensor(0.2)
    x_0, x_t = states(process)
    size, n = process.rates.data_states, process.rates.num_states
    p_0 = torch.rand(*x_t.shape, size, dtype=F64, generator=torch.Generator().manual_seed(0))
    w = process.conditional_ratio(x_0, x_t, t, F64)
    r = process.posterior_ratio(p_0, x_t, t, F64)
    forward, into = process.forward_rates(x_t, t, F64), process.rates_into(x_t, t, F64)
    given, model = process.conditional_rates(x_0, x_t, t, F64), process.reverse_rates(r, x_t, t)
    for b, time in enumerate(torch.tensor(times).double().tolist()):
        rates, p = tables(process, time)
        jumps = rates.clone().fill_diagonal_(0)
        column = p[:size].T[x_t[b]]  # (m, S)
        close = {"rtol": 1e-8, "atol": 1e-10}
        expected_w = p[x_0[b]] / p[x_0[b], x_t[b]][:, None]
        expected_r = torch.where(column > 0, p_0[b] / column, 0.0) @ p[:size]
        torch.testing.assert_close(w[b], expected_w, **close)
        torch.testing.assert_close(r[b], expected_r, **close)
        torch.testing.assert_close(forward[b], jumps[x_t[b]], **close)
        torch.testing.assert_close(into[b], jumps.T[x_t[b]], **close)
        torch.testing.assert_close(given[b], jumps.T[x_t[b]] * expected_w, **close)
        torch.testing.assert_close(model[b], jumps.T[x_t[b]] * expected_r, **close)
    assert n == w.shape[-1]
    narrow = F64 if isinstance(process.rates, AbsorbingRates) else torch.float32  # a mask leaves zeros in P at any time
    assert process.conditional_ratio(x_0, x_t, t).dtype == narrow


@every_process
def test_sample_follows_the_law(process: CTMC) -> None:
    x_0 = (torch.arange(3) % process.rates.data_states)[:, None].expand(3, 20_000)
    t = torch.tensor([0.1, 0.6, 1.0])
    x_t = process.sample(x_0, t, PerSampleRandomness([5, 6, 7]))
    laws = process.kernel(t, F64).rows(x_0[:, :1])[:, 0]
    for draws, law in zip(x_t, laws, strict=True):
        counts = torch.bincount(draws, minlength=len(law))
        assert counts[law == 0].sum() == 0
        if (law > 0).sum() > 1:
            expected = law[law > 0] / law.sum() * 20_000
            assert scipy.stats.chisquare(counts[law > 0].numpy(), expected.numpy()).pvalue > 1e-4
    assert torch.equal(process.sample(x_0, torch.zeros(3)), x_0)


@every_process
def test_prior(process: CTMC) -> None:
    law = process.prior_law(torch.device("cpu"))
    assert law.shape == (process.rates.num_states,)
    draws = process.prior((2, 100, 100), torch.Generator().manual_seed(3))
    assert draws.shape == (2, 100, 100)
    frequencies = torch.bincount(draws.flatten(), minlength=len(law)) / draws.numel()
    assert (frequencies - law).abs().max() < 0.02
    assert frequencies[law == 0].sum() == 0
    one = process.prior((1, 50), PerSampleRandomness([4]))
    assert torch.equal(process.prior((3, 50), PerSampleRandomness([2, 4, 9]))[1:2], one)


@every_process
def test_bridge_agrees_with_its_law(process: CTMC) -> None:
    s, t = torch.tensor(0.3), torch.tensor(0.8)
    size, n = process.rates.data_states, process.rates.num_states
    x_t = torch.arange(n)
    law = process.bridge_law(x_t, s, t)
    _, p_s = tables(process, float(s.double()))
    assert law.shape == (n, size, n)
    torch.testing.assert_close(law.sum(-1), torch.ones(n, size, dtype=F64), rtol=1e-12, atol=0)
    # Averaged over q(x_t | x_0) the bridge gives q(x_s | x_0): Chapman and Kolmogorov.
    _, p_t = tables(process, float(t.double()))
    torch.testing.assert_close(torch.einsum("xt,txs->xs", p_t[:size], law), p_s[:size], rtol=1e-9, atol=1e-12)
    x_0 = torch.arange(n)[:, None].expand(n, 20_000) % size
    x_s = process.bridge(x_0, x_t[:, None].expand_as(x_0), s, t, torch.Generator().manual_seed(6))
    for i in range(n):
        expected = law[i, x_0[i, 0]]
        frequencies = torch.bincount(x_s[i], minlength=n) / 20_000
        assert (frequencies - expected).abs().max() < 0.02


def test_a_proposal_that_is_impossible_says_nothing() -> None:
    jumps = torch.diag(torch.ones(3, dtype=F64), -1)  # 3 -> 2 -> 1 -> 0
    process = CTMC(DenseRates(jumps - torch.diag(jumps.sum(1))), Constant(1.0))
    x_0, x_t = torch.tensor([[0]]), torch.tensor([[2]])
    s, t = torch.tensor(0.4), torch.tensor(0.9)
    column = process.rates.transition_to(x_t, torch.tensor(0.5, dtype=F64))[0]
    torch.testing.assert_close(process.bridge_law(x_t, s, t)[0, 0, 0], column[0] / column.sum(), rtol=1e-6, atol=0)
    assert process.conditional_ratio(x_0, x_t, t).tolist() == [[[0, 0, 0, 0]]]
    assert process.posterior_ratio(torch.eye(4)[x_0], x_t, t).tolist() == [[[0, 0, 0, 0]]]
    draws = process.bridge(x_0.expand(1, 500), x_t.expand(1, 500), s, t, torch.Generator().manual_seed(0))
    assert set(draws.flatten().tolist()) == {2, 3}


def test_precision_is_wide_where_it_must_be() -> None:
    process = CTMC(GaussianTargetRates(256), Exponential())
    low, high = process.rates.float32_range
    t = torch.tensor([0.01, 0.5, 1.0])
    tau = process.tau(t)
    assert tau.dtype == F64
    assert (process.needs_float64(t) == (tau < low)).all()
    assert (process.nearly_mixed(t) == (tau > high)).all()
    assert process.needs_float64(t).tolist() == [True, False, False]
    assert process.rate_dtype(t) == F64
    assert process.rate_dtype(t[1]) == torch.float32
    assert process.divergence_dtypes(t) == [F64, torch.float32, F64]
    absorbing = CTMC(AbsorbingRates(64), LinearSurvival())
    assert absorbing.divergence_dtypes(t) == [F64] * 3


def test_rates_where_the_clock_is_infinite() -> None:
    process = CTMC(UniformRates(4), LinearSurvival())
    x = torch.tensor([[0, 3]])
    rates = process.rates_into(x, torch.tensor(1.0))
    assert rates[0, 0].tolist() == [0, math.inf, math.inf, math.inf]
    torch.testing.assert_close(process.conditional_ratio(x, x, torch.tensor(1.0)), torch.ones(1, 2, 4))
    assert process.sample(x, torch.tensor(1.0)).shape == x.shape


@pytest.mark.parametrize(
    ("x_0", "t", "message"),
    [
        (torch.tensor([[0.0]]), torch.tensor(0.5), "x_0 has dtype torch.float32"),
        (torch.tensor([[True]]), torch.tensor(0.5), "x_0 has dtype torch.bool"),
        (torch.tensor([[0, 5]]), torch.tensor(0.5), r"x_0 has the value 5, expected values in 0 .. 4"),
        (torch.tensor([[0, -1]]), torch.tensor(0.5), r"x_0 has the value -1"),
        (torch.tensor(0), torch.tensor(0.5), r"x_0 has shape \(\)"),
        (torch.tensor([[0]]), torch.tensor([0.5, 0.5]), r"t has shape \(2,\), expected \(\) or \(1,\)"),
        (torch.tensor([[0]]), torch.tensor(1.5), "t = 1.5 is outside"),
        (torch.tensor([[0]]), torch.tensor(float("nan")), "t = nan is outside"),
    ],
)
def test_sample_refuses(x_0: Tensor, t: Tensor, message: str) -> None:
    for process in PROCESSES:
        with pytest.raises(ValueError, match=message):
            process.sample(x_0, t)


@every_process
def test_runs_on_an_accelerator_that_is_not_there(process: CTMC) -> None:
    with fake_tensors():
        n, size = process.rates.num_states, process.rates.data_states
        x = torch.zeros(2, 3, dtype=torch.int64, device=ABSENT)
        p = torch.ones(2, 3, size, device=ABSENT)
        for t in (torch.ones((), device=ABSENT), torch.ones(2, device=ABSENT)):
            assert process.sample(x, t).device.type == ABSENT
            assert process.bridge(x, x, 0.5 * t, t).shape == x.shape
            assert process.conditional_rates(x, x, t).shape == (2, 3, n)
            assert process.reverse_rates(process.posterior_ratio(p, x, t), x, t).shape == (2, 3, n)
            assert process.forward_rates(x, t).device.type == ABSENT
            assert process.rate_dtype(t) == F64
        assert process.divergence_dtypes(torch.ones(2, device=ABSENT)) == [F64, F64]
        assert process.prior_law(torch.device(ABSENT)).shape == (n,)
