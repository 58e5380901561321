"""The score parameterisation with the exact ratios of enumerated marginals: bounds, laws, draws, and what is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import mpmath
import pytest
import torch
from torch import Tensor, nn

from backbones import OneHotInput, PixelLogits, TruncatedLogisticHead, UNet
from benchmarks.guidance import PROCESSES, Chains, class_laws
from diffusion_core import ConstantScale, NotFiniteError, QuadraticGrid, Sample, UniformGrid
from discrete_diffusion import (
    CTMC,
    ELBO,
    ClassifierGuidance,
    CrossEntropy,
    ELBOAndCrossEntropy,
    EnumeratedCTMC,
    LeaveOneOutDenoiser,
    PosteriorGuidance,
    RateGuidance,
    ScoreDenoiser,
    WeightedSum,
    bits_per_dim,
    learn_times,
)
from discrete_diffusion.oracle import labelled_network, total_variation
from discrete_diffusion.rates import AbsorbingRates, GaussianTargetRates, UniformRates
from discrete_diffusion.samplers import Ancestral, CategoricalLeap, Euler, OrdinalLeap, PredictorCorrector, TauLeaping
from discrete_diffusion.samplers.correctors import ForwardBackward
from discrete_diffusion.schedules import CosineSurvival, Exponential, LinearSurvival

from ..devices import ABSENT, fake_tensors
from .chi_squares import chi_square

CHAINS = ["uniform", "absorbing", "birth_death", "gaussian_target", "non_reversible"]
REFUSED = r"a score model has no p\(x_0 \| x_t\)"


def neighbours(oracle: EnumeratedCTMC, x: Tensor) -> Tensor:
    """The number of `x with d -> y` in the list of states, for every data value y: (B, D) -> (B, D, S)."""
    place = oracle.num_states ** torch.arange(oracle.dimensions - 1, -1, -1)
    change = torch.arange(oracle.data_states) - x[..., None]
    return (x * place).sum(-1)[:, None, None] + change * place[:, None]


def ratio_network(oracle: EnumeratedCTMC) -> Callable[..., Tensor]:
    """log q_t(x with d -> y) / q_t(x) from the enumerated marginals; 0 where x cannot occur."""

    def network(x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        q, place = oracle.marginal(float(t[0])), oracle.num_states ** torch.arange(oracle.dimensions - 1, -1, -1)
        here = q[(x * place).sum(-1)][:, None, None]
        return torch.where(here > 0, q[neighbours(oracle, x)].log() - here.log(), 0.0)

    return network


def score(oracle: EnumeratedCTMC) -> ScoreDenoiser:
    return ScoreDenoiser(oracle.process, ratio_network(oracle), (oracle.dimensions,))


def leave_one_out(oracle: EnumeratedCTMC) -> LeaveOneOutDenoiser:
    return LeaveOneOutDenoiser(oracle.process, oracle.leave_one_out_network(), (oracle.dimensions,))


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", CHAINS)
def test_the_bound_is_that_of_the_leave_one_out_reading(name, n, chain):
    """The ratios, the integrand for every pair (x_0, x_t), and its mean."""
    oracle = chain(name, n)
    for t in (1e-3, 0.02, 0.3, 0.7, 0.99):
        x_0, x_t, _ = oracle._pairs(t)
        time = torch.tensor(t, dtype=torch.float64)
        here, there = (make(oracle)(x_t, time).rate_divergence(x_0) for make in (score, leave_one_out))
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)
        ratios = [make(oracle)(x_t, time).ratio[..., : oracle.data_states] for make in (score, leave_one_out)]
        torch.testing.assert_close(*ratios, rtol=1e-9, atol=1e-9)
        expected = oracle.integrand(leave_one_out(oracle), t)
        assert oracle.integrand(score(oracle), t) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", CHAINS)
def test_samplers_of_rates_have_the_laws_of_the_leave_one_out_reading(name, chain):
    oracle, grid = chain(name), QuadraticGrid(6, t_min=0.02, t_max=0.9)

    def samplers(denoiser):
        yield Euler(denoiser, grid)
        yield TauLeaping(denoiser, grid, leap=CategoricalLeap())
        yield PredictorCorrector(Euler(denoiser, grid), ForwardBackward(denoiser, leap=CategoricalLeap()))
        if name != "absorbing":
            yield TauLeaping(denoiser, grid, leap=OrdinalLeap())

    for here, there in zip(samplers(score(oracle)), samplers(leave_one_out(oracle)), strict=True):
        laws = [oracle.sampler_law(sampler, finish=False) for sampler in (here, there)]
        torch.testing.assert_close(*laws, rtol=0, atol=1e-10)


@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("t_min", [0.02, 0.3])
@pytest.mark.parametrize("name", CHAINS)
def test_the_last_step_is_an_euler_step_onto_clean_states(name, t_min, factor, chain):
    """Number by number, from the marginals and the rate matrix, with ratios too small, exact and too large.

    With a mask and exact ratios `h Lambda` is 1 for a linear survival: only others tell whether what is masked has to jump.
    """
    oracle = chain(name, 3)
    states, values = oracle.num_states, oracle.data_states
    q = oracle.marginal(t_min).reshape(states, states)
    beta = oracle.process.beta(torch.tensor(t_min, dtype=torch.float64))
    rates = beta * oracle.process.rates.rates_from(torch.arange(states), torch.float64)
    expected = torch.zeros(states**2, 2, values, dtype=torch.float64)
    for i, x in enumerate(oracle.noisy.tolist()):
        for d in range(2):
            for y in set(range(values)) - {x[d]}:
                moved = [y if e == d else x[e] for e in range(2)]
                expected[i, d, y] = factor * t_min * rates[y, x[d]] * q[tuple(moved)] / q[tuple(x)]
            total = expected[i, d].sum()
            if x[d] == values or total > 1:
                expected[i, d] /= total
            else:
                expected[i, d, x[d]] = 1 - total
    exact = ratio_network(oracle)
    denoiser = ScoreDenoiser(oracle.process, lambda x, t: exact(x, t) + math.log(factor), (2,))
    law = Euler(denoiser, UniformGrid(2, t_min)).finish_law(oracle.noisy)
    torch.testing.assert_close(law, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CHAINS)
def test_the_law_after_the_last_step_tends_to_the_data(name, chain):
    oracle = chain(name)
    errors = []
    for steps, t_min in ((16, 0.04), (64, 0.01), (256, 0.0025)):
        for make in (Euler, TauLeaping):
            law = oracle.sampler_law(make(score(oracle), QuadraticGrid(steps, t_min, 0.99)))
            assert law.shape == oracle.data_law.shape
            assert law.sum().item() == pytest.approx(1, abs=1e-12)
            errors.append(total_variation(oracle.data_law, law))
    euler, tau = errors[::2], errors[1::2]
    assert all(math.log(coarse / fine, 4) > 0.85 for row in (euler, tau) for coarse, fine in itertools.pairwise(row)), errors
    assert max(euler[-1], tau[-1]) < 0.02


@pytest.mark.parametrize("name", CHAINS)
def test_draws_have_their_law(name, chain):
    """The last step from every state, and whole runs."""
    oracle = chain(name, 3)
    sampler = Euler(score(oracle), QuadraticGrid(5, t_min=0.15, t_max=0.9))
    copies = 2000
    state = sampler.start(oracle.noisy.repeat_interleave(copies, 0), torch.Generator().manual_seed(0))
    state = replace(state, t=torch.tensor(sampler.grid.t_min, dtype=torch.float64))
    drawn = sampler.finish(state).x.reshape(-1, copies, 2)
    p_values = [
        chi_square(draws[:, d], row[d])
        for draws, row in zip(drawn, sampler.finish_law(oracle.noisy), strict=True)
        for d in range(2)
    ]
    assert min(p_values) > 1e-4
    start = oracle.prior_law()
    for walker in (sampler, TauLeaping(sampler.denoiser, sampler.grid, leap=CategoricalLeap())):
        x = walker.sample(20_000, generator=torch.Generator().manual_seed(1))
        assert chi_square((x * torch.tensor([3, 1])).sum(-1), oracle.sampler_law(walker, start)) > 1e-4


@pytest.mark.parametrize("name", CHAINS)
def test_a_seed_is_a_sample_whatever_its_batch(name, chain):
    oracle = chain(name)
    for make in (Euler, TauLeaping):
        sampler = make(score(oracle), QuadraticGrid(3, t_min=0.1, t_max=0.95))
        together = sampler.sample(40, seeds=range(40))
        assert torch.equal(together, torch.cat([sampler.sample(7, seeds=range(7)), sampler.sample(33, seeds=range(7, 40))]))


def test_what_needs_the_law_of_clean_data_is_refused(chain):
    oracle = chain("uniform")
    denoiser, grid = score(oracle), UniformGrid(4)
    plain = ScoreDenoiser(oracle.process, lambda x, t, y=None: torch.zeros(*x.shape, 4), (2,))
    guided = RateGuidance(plain, ConstantScale(2.0), {"y": 0})
    for refused in (denoiser, guided):
        with pytest.raises(ValueError, match=f"{REFUSED}: Ancestral needs"):
            Ancestral(refused, grid)
        with pytest.raises(ValueError, match=f"{REFUSED}: argmax needs"):
            Euler(refused, grid, argmax=True)
        for measure in (bits_per_dim, learn_times):
            with pytest.raises(ValueError, match=f"{REFUSED}: the reconstruction term of bits per dimension needs"):
                measure(refused, oracle.clean)
    with pytest.raises(ValueError, match=f"{REFUSED}: PosteriorGuidance needs"):
        PosteriorGuidance(denoiser, ConstantScale(2.0), {"y": 0})
    for loss in (CrossEntropy(), WeightedSum((ELBO(), CrossEntropy()), (1.0, 0.1)), ELBOAndCrossEntropy()):
        sample = loss.draw(oracle.process, oracle.clean, torch.tensor(0.5))
        with pytest.raises(ValueError, match=f"{REFUSED}: CrossEntropy needs"):
            loss(denoiser, sample)


def test_a_head_without_logits_and_an_output_that_says_nothing_are_refused(chain):
    process = chain("uniform").process
    head, inputs = TruncatedLogisticHead(1, 4), OneHotInput(1, 4)
    backbone = UNet(inputs.out_channels, head.in_channels, widths=(8,), blocks=1, patch_size=1, num_heads=1)
    denoiser = ScoreDenoiser(process, PixelLogits(backbone, head, inputs, 4), (1, 8, 8))
    with pytest.raises(ValueError, match="the network gives a TruncatedLogistic, expected a logit for each value"):
        denoiser(torch.zeros(1, 1, 8, 8, dtype=torch.int64), torch.tensor(0.5))
    broken = ScoreDenoiser(process, lambda x, t: torch.full((*x.shape, 4), torch.nan), (2,))
    with pytest.raises(NotFiniteError, match="the network's output at t = 1 is not finite"):
        Euler(broken, UniformGrid(2)).sample(2)


class Table(nn.Module):
    """A logit for every state, dimension and value."""

    def __init__(self, oracle: EnumeratedCTMC) -> None:
        super().__init__()
        self.place = oracle.num_states ** torch.arange(oracle.dimensions - 1, -1, -1)
        shape = (len(oracle.noisy), oracle.dimensions, oracle.data_states)
        self.logits = nn.Parameter(torch.zeros(shape, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.logits[(x * self.place).sum(-1)]


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", CHAINS)
def test_the_elbo_trains_the_ratios(name, n, chain):
    """Of the expected loss, a finite sum: no slope at the exact ratios, and descent from anywhere leads there."""
    oracle, t = chain(name, n), 0.3
    x_0, x_t, weight = oracle._pairs(t)
    table, time = Table(oracle), torch.tensor(t, dtype=torch.float64)
    denoiser = ScoreDenoiser(oracle.process, table, (2,))

    def loss() -> Tensor:
        return (weight * ELBO()(denoiser, Sample(x_0, x_t, time))).sum()

    exact = ratio_network(oracle)(oracle.noisy, time[None])
    with torch.no_grad():
        table.logits.copy_(exact)
    least = loss()
    (slope,) = torch.autograd.grad(least, [table.logits])
    assert slope.abs().max() < 1e-8
    assert least.item() == pytest.approx(oracle.integrand(leave_one_out(oracle), t), rel=1e-9)
    with torch.no_grad():
        table.logits.zero_()
    (slope,) = torch.autograd.grad(loss(), [table.logits])
    assert slope.abs().max() > 1e-3
    optimizer = torch.optim.LBFGS(
        table.parameters(), max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    used = oracle.process.rates_into(oracle.noisy, time, torch.float64)[..., : oracle.data_states] > 0
    assert used.any()
    torch.testing.assert_close(table.logits.detach()[used], exact[used], rtol=0, atol=1e-4)


LARGE: dict[str, Callable[[int], CTMC]] = {
    "uniform": lambda values: CTMC(UniformRates(values), CosineSurvival()),
    "absorbing": lambda values: CTMC(AbsorbingRates(values), LinearSurvival()),
    "gaussian_target": lambda values: CTMC(GaussianTargetRates(values), Exponential()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [2, 3, 256])
@pytest.mark.parametrize("name", LARGE)
def test_the_integrand_is_right_at_its_extremes(name, values, dtype):
    """Logits scaled by 1, 8 and 20 at the smallest and the largest times, against 60 digits."""
    made = LARGE[name](values)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, values, generator=generator, dtype=torch.float64)
    for scale, t in itertools.product((1, 8, 20), (1e-4, 0.5, 0.999)):
        time = torch.tensor(t, dtype=torch.float64)
        x_0 = torch.randint(values, (1, 1), generator=generator)
        x_t = made.sample(x_0, time, generator)
        told = (scale * logits).to(dtype)
        found = ScoreDenoiser(made, lambda x, c, told=told: told, (1,))(x_t, time).rate_divergence(x_0)
        w = made.conditional_ratio(x_0, x_t, time, torch.float64)[0, 0, :values].tolist()
        rates = made.rates_into(x_t, time, torch.float64)[0, 0, :values].tolist()
        with mpmath.workdps(60):
            expected = mpmath.mpf(0)
            for rate, a, b in zip(rates, told[0, 0].tolist(), w, strict=True):
                r = mpmath.exp(mpmath.mpf(a))
                expected += rate * (r - b - (b * (a - mpmath.log(b)) if b > 0 else 0)) if rate else 0
        # In float32 a ratio has seven digits, and its terms are of the size of R r + R w |log w|.
        assert found.isfinite().all()
        assert found.item() == pytest.approx(float(expected), rel=1e-11 if dtype == torch.float64 else 2e-5, abs=1e-11)


@pytest.mark.parametrize("name", PROCESSES)
def test_guided_rates_are_those_of_the_leave_one_out_reading(name):
    here, t = Chains(PROCESSES[name](), class_laws()), torch.tensor(0.2, dtype=torch.float64)
    everything, x = [*here.classes, here.mean], here.mean.noisy
    denoiser = ScoreDenoiser(here.process, labelled_network([ratio_network(one) for one in everything]), (2,))
    y = torch.zeros(len(x), dtype=torch.int64)
    grid = QuadraticGrid(6, t_min=0.02, t_max=0.9)
    for g in (0.0, 1.0, 2.5):
        scale = ConstantScale(g)
        pairs = [
            (RateGuidance(one, scale, {"y": 2}), ClassifierGuidance(one, here.classifier, scale))
            for one in (denoiser, here.denoiser())
        ]
        for guided, expected in zip(*pairs, strict=True):
            assert (guided.has_x0, expected.has_x0) == (False, True)
            rates, known = (one(x, t, y=y).reverse_rates for one in (guided, expected))
            torch.testing.assert_close(rates, known, rtol=1e-9, atol=1e-9)
            laws = [here.mean.sampler_law(Euler(one, grid), finish=False, y=0) for one in (guided, expected)]
            torch.testing.assert_close(*laws, rtol=0, atol=1e-9)
            law = here.mean.sampler_law(Euler(guided, grid), y=0)
            assert law.shape == here.mean.data_law.shape
            assert law.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", CHAINS)
def test_it_runs_on_an_accelerator(name, process):
    """Nothing looks at a value, and no tensor is left on the CPU."""
    with fake_tensors(), torch.device(ABSENT):
        made = process(name, 8)
        table = nn.Parameter(torch.zeros(made.rates.num_states, 8))
        denoiser = ScoreDenoiser(made, lambda x, t: table[x], (1, 8, 8))
        x_0 = torch.zeros(4, 1, 8, 8, dtype=torch.int64, device=ABSENT)
        loss = ELBO()(denoiser, ELBO().draw(made, x_0, torch.rand(4, device=ABSENT)))
        assert loss.requires_grad
        assert loss.shape == (4,)
        t, s = (torch.tensor(time, dtype=torch.float64) for time in (0.5, 0.4))
        for sampler in (Euler(denoiser, QuadraticGrid(4, t_max=0.9)), TauLeaping(denoiser, QuadraticGrid(4, t_max=0.9))):
            with torch.no_grad():
                state = sampler.finish(sampler.step(sampler.start(x_0), t, s))
            assert state.x.device.type == ABSENT
            assert state.x.shape == x_0.shape
