"""Every sampler against its exact law, and the exact laws against theory."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import math
import pkgutil
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from diffusion_core import CosineGrid, QuadraticGrid, State, TimeGrid, UniformGrid, as_randomness
from discrete_diffusion import CrossEntropy, LeaveOneOutDenoiser, X0Denoiser, bits_per_dim
from discrete_diffusion import samplers as module
from discrete_diffusion.jumps import ForwardJumps
from discrete_diffusion.oracle import EnumeratedCTMC, kl_divergence, total_variation
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates import BirthDeathRates, GaussianTargetRates
from discrete_diffusion.samplers import (
    Ancestral,
    BernoulliLeap,
    CategoricalLeap,
    Corrector,
    Euler,
    ForwardBackward,
    GaussianInitialLaw,
    MidpointTauLeaping,
    OrdinalLeap,
    PredictorCorrector,
    Sampler,
    TauLeaping,
    UniformInitialLaw,
)
from discrete_diffusion.schedules import Constant, Exponential

from .conftest import CHAINS, exact_denoiser, make_process, toy_law


def subclasses(base: type) -> list[type]:
    found = []
    for cls in base.__subclasses__():
        found += [cls, *subclasses(cls)]
    return found


def concrete(base: type) -> list[type]:
    found = [cls for cls in subclasses(base) if cls.__module__.startswith("discrete_diffusion.")]
    return sorted((cls for cls in found if not inspect.isabstract(cls)), key=lambda cls: cls.__name__)


for found in pkgutil.walk_packages(module.__path__, f"{module.__name__}."):
    importlib.import_module(found.name)

SAMPLERS, CORRECTORS = concrete(Sampler), concrete(Corrector)


PAIRS = [(cls, name) for name in CHAINS for cls in SAMPLERS if (cls, name) != (MidpointTauLeaping, "absorbing")]
"""Every sampler with every kind of rates, but for those that it refuses."""


def at(*times: float) -> list[torch.Tensor]:
    """Times as samplers take them."""
    return list(torch.tensor(times, dtype=torch.float64))


def build(cls: type, denoiser, grid: TimeGrid) -> Sampler:
    """Any sampler with its defaults; one that wraps another gets an ancestral one, and a corrector."""
    given = {"denoiser": denoiser, "grid": grid, "predictor": Ancestral(denoiser, grid), "corrector": ForwardBackward(denoiser)}
    names = inspect.signature(cls).parameters
    return cls(**{name: value for name, value in given.items() if name in names})


def test_there_are_samplers_to_test():
    assert len(SAMPLERS) >= 5
    assert len(CORRECTORS) >= 1
    assert {cls.__name__ for cls in (*SAMPLERS, *CORRECTORS)} <= set(module.__all__)


PUBLISHED = {
    "Euler": (lambda d, g: Euler(d, g), [1.60e-2, 4.04e-3, 9.96e-4, 2.45e-4, 6.06e-5]),
    "TauLeaping": (lambda d, g: TauLeaping(d, g, leap=CategoricalLeap()), [4.94e-2, 1.52e-2, 4.18e-3, 1.09e-3, 2.76e-4]),
    "Ancestral": (lambda d, g: Ancestral(d, g), [1.17e-2, 2.99e-3, 7.44e-4, 1.84e-4, 4.54e-5]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_divergences_of_the_toy_are_the_known_ones(name, toy, exact):
    """KL(data || law) in nats at 8 .. 128 steps of the grid (1 - i/N)^2, without a last draw, to three digits."""
    make, expected = PUBLISHED[name]
    for steps, value in zip((8, 16, 32, 64, 128), expected, strict=True):
        law = toy.sampler_law(make(exact(toy), QuadraticGrid(steps, t_min=0.0)), finish=False)
        assert float(f"{kl_divergence(toy.data_law, law):.2e}") == value


@pytest.fixture(scope="module")
def remembered():
    """Chains and their exact denoisers, whose posteriors of all states are computed once for all samplers."""

    @functools.cache
    def make(name, n):
        oracle = EnumeratedCTMC(make_process(name, n), toy_law(n**2), 2)
        denoiser = exact_denoiser(oracle)
        posterior = functools.cache(
            lambda t: type(denoiser).forward(denoiser, oracle.noisy, torch.tensor(t, dtype=torch.float64))
        )
        denoiser.forward = lambda x, t: posterior(t.item()) if x is oracle.noisy else type(denoiser).forward(denoiser, x, t)
        return oracle, denoiser

    return make


@pytest.mark.parametrize(("cls", "name"), PAIRS)
@pytest.mark.parametrize("n", [2, 3])
def test_first_order_in_total_variation(cls, n, name, remembered):
    oracle, denoiser = remembered(name, n)
    target = oracle.marginal(0.05)
    grids = (QuadraticGrid(steps, t_min=0.05, t_max=0.95) for steps in (32, 64, 128))
    errors = [total_variation(target, oracle.sampler_law(build(cls, denoiser, grid), finish=False)) for grid in grids]
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert all(slope > 0.85 for slope in slopes), (errors, slopes)
    assert errors[-1] < 0.05


@pytest.mark.parametrize("leap", [OrdinalLeap(), CategoricalLeap()], ids=lambda leap: type(leap).__name__)
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", ["birth_death", "gaussian_target"])
def test_both_leaps_converge(leap, name, n, chain, exact):
    oracle = chain(name, n)
    target = oracle.marginal(0.05)
    grids = (QuadraticGrid(steps, t_min=0.05) for steps in (32, 64, 128))
    errors = [
        total_variation(target, oracle.sampler_law(TauLeaping(exact(oracle), grid, leap=leap), finish=False)) for grid in grids
    ]
    assert all(math.log2(coarse / fine) > 0.85 for coarse, fine in itertools.pairwise(errors)), errors


def test_midpoint_figures_are_those_of_its_docstring(exact):
    """One dimension of 64 values: total variation at 16, 32 and 64 steps, and the figures of plain tau-leaping."""
    value = torch.arange(64, dtype=torch.float64)
    law = torch.exp(-((value - 20) ** 2) / 50) + torch.exp(-((value - 45) ** 2) / 20)
    oracle = EnumeratedCTMC(CTMC(GaussianTargetRates(64, 3.0, 20.0), Exponential(0.3, 20.0)), law / law.sum(), 1)
    target, denoiser = oracle.marginal(0.05), exact(oracle)
    for cls in (MidpointTauLeaping, TauLeaping):
        grids = (QuadraticGrid(steps, t_min=0.05, t_max=0.95) for steps in (16, 32, 64))
        errors = [total_variation(target, oracle.sampler_law(cls(denoiser, grid), finish=False)) for grid in grids]
        found = "{:.4f}, {:.4f} and {:.4f}".format(*errors)
        assert found in " ".join(MidpointTauLeaping.__doc__.split())


@pytest.mark.parametrize("steps", [4, 64])
@pytest.mark.parametrize("name", ["birth_death", "gaussian_target", "non_reversible"])
def test_a_midpoint_step_is_the_published_one(name, steps, chain, exact):
    """Written out by loops: the drift to x' and its rates at t - h/2, and the displacements from x' that are added to x."""
    oracle, n = chain(name, 4), 4
    denoiser, (t, s) = exact(oracle), at(0.6, 0.6 - 0.8 / steps)
    h, R = t - s, oracle.process.rates.rates_from(torch.arange(n), torch.float64)
    law = MidpointTauLeaping(denoiser, UniformGrid(1)).law(oracle.noisy, t, s)

    def rates(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Rhat_t(x, y) from the marginal of the chain: `R_t[y, x] p_t(x with d -> y) / p_t(x)`."""
        p = oracle.marginal(time.item())
        place = [n, 1]
        here = int(x @ torch.tensor(place))
        return torch.stack(
            [
                torch.stack(
                    [oracle.process.beta(time) * R[y, x[d]] * p[here + (y - x[d]) * place[d]] / p[here] for y in range(n)]
                )
                for d in range(2)
            ]
        )

    moved = 0
    for i in range(0, n * n, 3):
        x = oracle.noisy[i]
        drift = (rates(x, t) * (torch.arange(n) - x[:, None])).sum(-1)  # the diagonal has no displacement
        middle = (x + (h / 2 * drift).round().long()).clamp(0, n - 1)
        moved += int((middle != x).any())
        jumps = h * rates(middle, (t + s) / 2)
        for d in range(2):
            expected = torch.zeros(n, dtype=torch.float64)
            counts = [range(9) if y != middle[d] and jumps[d, y] > 0 else (0,) for y in range(n)]
            for K in itertools.product(*counts):
                mass = math.prod(
                    math.exp(-jumps[d, y]) * jumps[d, y].item() ** k / math.factorial(k)
                    for y, k in enumerate(K)
                    if y != middle[d]
                )
                landing = int(x[d]) + sum(k * (y - int(middle[d])) for y, k in enumerate(K))
                expected[min(max(landing, 0), n - 1)] += mass
            torch.testing.assert_close(law[i, d].double(), expected, rtol=0, atol=1e-5)
    assert (moved > 0) == (steps == 4)


def test_midpoint_refuses_a_mask_and_counts_two_calls(chain, exact):
    with pytest.raises(ValueError, match=r"num_states = 5 and data_states = 4, expected equal numbers: OrdinalLeap"):
        MidpointTauLeaping(exact(chain("absorbing")), UniformGrid(2))
    states = list(MidpointTauLeaping(exact(chain("birth_death")), UniformGrid(3)).trajectory(5, seeds=range(5)))
    assert [state.nfe for state in states] == [0, 2, 4, 6, 7]
    assert {*states[-1].counts} == {"clamped"}


@pytest.mark.parametrize("grid", [UniformGrid(256, 0.01), QuadraticGrid(256, 0.01), CosineGrid(256, 0.01)])
def test_every_grid_leads_to_the_data(grid, chain, exact):
    oracle = chain("birth_death")
    law = oracle.sampler_law(Ancestral(exact(oracle), grid))
    assert total_variation(oracle.data_law, law) < 0.02
    times = grid.times()
    assert len(times) == 257
    assert times[0] == 1.0
    assert times[-1] == 0.01
    assert all(t > s for t, s in itertools.pairwise(times))


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("cls", SAMPLERS, ids=lambda cls: cls.__name__)
def test_argmax_ends_on_the_modes(cls, n, chain, exact):
    oracle = chain("birth_death", n)
    sampler = build(cls, exact(oracle), QuadraticGrid(4))
    sampler.argmax = True
    law = oracle.sampler_law(sampler)
    assert law.sum().item() == pytest.approx(1, abs=1e-9)
    x_0 = sampler.sample(200, generator=torch.Generator().manual_seed(0))
    drawn = law[(x_0 * torch.tensor([n, 1])).sum(-1)]
    assert (drawn > 0).all()


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", CHAINS)
def test_forward_and_backward_rates_keep_the_marginal(name, n, chain, exact):
    """`q_s (R_s + Rhat_s) = 0`."""
    oracle, denoiser, (s,) = chain(name, n), exact(chain(name, n)), at(0.4)

    def rates(x):
        return denoiser(x, s).jumps().matrix().double() + ForwardJumps(oracle.process, x, s, torch.float64).matrix()

    assert (oracle.marginal(0.4) @ oracle.generator_at(rates)).abs().max() < 1e-12


@pytest.mark.parametrize("cls", CORRECTORS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", CHAINS)
def test_corrector_keeps_the_marginal(name, n, cls, chain, exact):
    """The defect of a move falls with the square of its length."""
    oracle = chain(name, n)
    (s,), q, corrector = at(0.4), oracle.marginal(0.4), cls(exact(oracle))
    lengths = 0.02 * 2.0 ** -torch.arange(5, dtype=torch.float64)
    defects = [total_variation(q, oracle.compose(q, lambda x, h=h: corrector.law(x, s, h))) for h in lengths]
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(defects)]
    assert min(slopes[-2:]) >= 1.8, (defects, slopes)


LEAPS = {"CategoricalLeap": CategoricalLeap(), "OrdinalLeap": OrdinalLeap(), "BernoulliLeap": BernoulliLeap()}
MOVES = [(name, cls, {}) for name in CHAINS for cls in CORRECTORS]
MOVES += [(name, ForwardBackward, {"leap": leap}) for name in CHAINS for leap in LEAPS]
MOVES.remove(("absorbing", ForwardBackward, {"leap": "OrdinalLeap"}))


@pytest.mark.parametrize(("name", "cls", "given"), MOVES)
def test_a_corrector_moves_by_its_law(name, cls, given, chain, exact):
    """A chi-square test of one long move from a fixed state, in every dimension, against the law that is stated beside it."""
    oracle = chain(name)
    corrector = cls(exact(oracle), **{key: LEAPS[leap] for key, leap in given.items()})
    s, h = at(0.4, 0.1)
    x = torch.tensor([[1, 3 if name != "absorbing" else 4]]).expand(20_000, 2)
    moved = corrector.step(State(x, s, as_randomness(torch.Generator().manual_seed(0))), s, h)
    assert moved.nfe >= 1
    assert moved.t == s
    for drawn, law in zip(moved.x.T, corrector.law(x[:1], s, h)[0].double(), strict=True):
        counts = torch.bincount(drawn, minlength=len(law))
        assert law.sum().item() == pytest.approx(1, abs=1e-6)
        assert counts[law == 0].sum() == 0
        assert (law > 0).sum() > 1
        assert chisquare(counts[law > 0].numpy(), (law[law > 0] / law.sum() * len(x)).numpy()).pvalue > 1e-4


def configurations(denoiser, ordinal: bool) -> list[Sampler]:
    grid = QuadraticGrid(6, t_min=0.02, t_max=0.9)
    listed = [build(cls, denoiser, grid) for cls in SAMPLERS if ordinal or cls is not MidpointTauLeaping]
    listed.append(TauLeaping(denoiser, grid, leap=CategoricalLeap()))
    listed.append(
        PredictorCorrector(
            Euler(denoiser, grid),
            ForwardBackward(denoiser, leap=CategoricalLeap()),
            corrector_steps=2,
            step_multiplier=0.5,
            entry_time=0.5,
        )
    )
    if ordinal:
        listed += [
            TauLeaping(denoiser, grid, leap=OrdinalLeap()),
            TauLeaping(denoiser, grid, leap=OrdinalLeap(dense_above=0.5)),
        ]
        listed.append(
            PredictorCorrector(
                TauLeaping(denoiser, grid, leap=OrdinalLeap()),
                ForwardBackward(denoiser, leap=OrdinalLeap()),
                corrector_steps=1,
                step_multiplier=0.7,
            )
        )
    return listed


@pytest.mark.parametrize("parameterisation", ["leave-one-out", "x0"])
@pytest.mark.parametrize(("n", "chains"), [(2, 2000), (3, 20_000)])
@pytest.mark.parametrize("name", CHAINS)
def test_runs_agree_with_the_exact_law(name, n, chains, parameterisation, chain, exact):
    """A chi-square test of the shipped sampler's output against its exact law; two values are a law of four numbers."""
    oracle = chain(name, n)
    denoiser = exact(oracle)
    if parameterisation == "x0" and name != "absorbing":
        denoiser = X0Denoiser(oracle.process, oracle.x0_network(), (2,))
    for sampler in configurations(denoiser, ordinal=name in ("birth_death", "gaussian_target", "non_reversible")):
        generator = torch.Generator().manual_seed(5)
        rows = torch.multinomial(oracle.marginal(0.9), chains, replacement=True, generator=generator)
        x_0 = sampler.sample(oracle.noisy[rows], generator=generator)
        counts = torch.bincount((x_0 * torch.tensor([n, 1])).sum(-1), minlength=n * n)
        law = oracle.sampler_law(sampler)
        assert law.sum().item() == pytest.approx(1, abs=1e-6)
        p_value = chisquare(counts.numpy(), (law / law.sum() * chains).numpy()).pvalue
        assert p_value > 1e-4, (type(sampler).__name__, p_value)


@pytest.mark.parametrize("values", [2, 3])
@pytest.mark.parametrize("name", CHAINS)
def test_a_run_from_the_prior_begins_at_the_prior(name, values, chain, exact):
    oracle = chain(name, values)
    x = Euler(exact(oracle), UniformGrid(1)).start(20_000, torch.Generator().manual_seed(0)).x
    n = oracle.num_states
    counts = torch.bincount((x * torch.tensor([n, 1])).sum(-1), minlength=n * n)
    law = oracle.prior_law()
    assert counts[law == 0].sum() == 0
    if (law > 0).sum() > 1:
        assert chisquare(counts[law > 0].numpy(), (law[law > 0] * 20_000).numpy()).pvalue > 1e-4


def test_published_initial_laws(chain, exact):
    """Uniform, and the Gaussian that is the stationary law of Gaussian target rates over an even number of values."""
    oracle = chain("gaussian_target", 4)
    denoiser, grid = exact(oracle), UniformGrid(4)
    published = torch.tensor([math.exp(-((x - 2) ** 2) / (2 * 1.5**2)) for x in range(1, 5)], dtype=torch.float64)
    laws = {UniformInitialLaw(): torch.ones(4), GaussianInitialLaw(1.5): published, None: oracle.process.rates.stationary}
    for initial, law in laws.items():
        sampler = TauLeaping(denoiser, grid, initial=initial)
        for given in ({"generator": torch.Generator().manual_seed(0)}, {"seeds": range(20_000)}):
            counts = torch.bincount(sampler.start(20_000, **given).x.flatten(), minlength=4)
            assert chisquare(counts.numpy(), (law.double() / law.sum() * 40_000).numpy()).pvalue > 1e-4
        corrected = PredictorCorrector(sampler, ForwardBackward(denoiser))
        assert torch.equal(corrected.start(50, seeds=range(50)).x, sampler.start(50, seeds=range(50)).x)
        assert torch.equal(sampler.start(oracle.noisy).x, oracle.noisy)
    for states in (2, 4, 256):
        stationary = GaussianTargetRates(states, 6.0, 40.0).stationary
        law = GaussianInitialLaw(40.0)(states, torch.device("cpu"))
        torch.testing.assert_close(law / law.sum(), stationary, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"initial = UniformInitialLaw\(\), expected None: the process has a mask"):
        TauLeaping(exact(chain("absorbing")), grid, initial=UniformInitialLaw())
    with pytest.raises(ValueError, match="std = 0"):
        GaussianInitialLaw(0)


@pytest.mark.parametrize(
    ("cls", "name", "n", "dimensions"),
    [(cls, name, 4, 3) for cls, name in PAIRS if name != "birth_death"]
    + [(cls, name, 2, 5) for cls, name in PAIRS if name in ("absorbing", "gaussian_target")],
)
def test_a_seed_is_a_sample_whatever_its_batch(cls, name, n, dimensions, chain, exact):
    oracle = chain(name, n, dimensions)
    sampler = build(cls, exact(oracle), QuadraticGrid(5, t_max=0.95))
    together = sampler.sample(64, seeds=range(64))
    quarters = torch.cat([sampler.sample(16, seeds=range(i, i + 16)) for i in range(0, 64, 16)])
    uneven = torch.cat([sampler.sample(7, seeds=range(7)), sampler.sample(57, seeds=range(7, 64))])
    assert torch.equal(together, quarters)
    assert torch.equal(together, uneven)
    assert len(together.unique(dim=0)) > 8


def test_ordinal_leaps_with_seeds_do_not_depend_on_the_batch(chain, exact):
    oracle = chain("gaussian_target", n=4, dimensions=3)
    for leap in (OrdinalLeap(), OrdinalLeap(dense_above=0.5)):
        sampler = TauLeaping(exact(oracle), QuadraticGrid(5, t_max=0.95), leap=leap)
        together = sampler.sample(64, seeds=range(64))
        uneven = torch.cat([sampler.sample(7, seeds=range(7)), sampler.sample(57, seeds=range(7, 64))])
        assert torch.equal(together, uneven)


def test_a_run_can_be_watched_and_tells_what_it_cost(chain, exact):
    oracle = chain("gaussian_target")
    denoiser = exact(oracle)
    grid = UniformGrid(5, t_min=0.1)
    tau = list(TauLeaping(denoiser, grid, leap=CategoricalLeap()).trajectory(50, generator=torch.Generator().manual_seed(0)))
    assert [state.nfe for state in tau] == [0, 1, 2, 3, 4, 5, 6]
    assert [state.t for state in tau] == [*grid.times(), 0.0]
    assert all(state.t.dtype == torch.float64 for state in tau)
    assert (tau[-1].count("rejected") >= tau[1].count("rejected")).all()
    assert tau[-1].count("rejected").sum() > 0
    assert tau[-1].count("clamped").sum() == 0
    assert {*tau[0].counts} == set()
    assert {*tau[-1].counts} == {"rejected"}
    ordinal = list(TauLeaping(denoiser, grid, leap=OrdinalLeap()).trajectory(50, seeds=range(50)))[-1]
    assert ordinal.count("clamped").sum() > 0
    assert ordinal.count("rejected").sum() == 0
    corrected = PredictorCorrector(Ancestral(denoiser, grid), ForwardBackward(denoiser), corrector_steps=2, entry_time=0.5)
    calls = [state.nfe for state in corrected.trajectory(4, seeds=range(4))]
    assert calls == [0, 1, 2, 5, 8, 11, 12]


def test_the_last_step_is_the_predictor_s(toy, exact):
    denoiser = exact(toy)
    predictor = Euler(denoiser, UniformGrid(2, 0.05))
    predictor.finish = lambda state, **cond: replace(state, x=torch.full_like(state.x, 3), t=torch.zeros_like(state.t))
    corrected = PredictorCorrector(predictor, ForwardBackward(denoiser))
    assert (corrected.sample(5, generator=torch.Generator().manual_seed(0)) == 3).all()


def test_progress_is_shown_when_asked(chain, exact, capsys):
    sampler = Ancestral(exact(chain("uniform")), UniformGrid(3))
    sampler.sample(2, seeds=[0, 1], progress=True)
    assert "sampling" in capsys.readouterr().err


def test_corrector_leaps_help_unless_they_are_long(exact):
    """The chain and the figures of docs/samplers.md."""
    law = torch.rand(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    oracle = EnumeratedCTMC(CTMC(BirthDeathRates(4), Constant(4.0)), law / law.sum(), 2)
    predictor = TauLeaping(exact(oracle), QuadraticGrid(16), leap=OrdinalLeap())
    given = ({"step_multiplier": m} for m in (0.1, 0.25, 0.5, 1.0, 2.0))
    corrector = ForwardBackward(predictor.denoiser, leap=OrdinalLeap())
    samplers = [PredictorCorrector(predictor, corrector, entry_time=0.5, **m) for m in (*given, {})]
    errors = [total_variation(oracle.data_law, oracle.sampler_law(sampler)) for sampler in (predictor, *samplers)]
    assert [round(float(error), 4) for error in errors] == [0.0319, 0.0270, 0.0236, 0.0224, 0.0259, 0.0348, 0.0236]


def test_bad_arguments_are_named(chain, exact):
    oracle = chain("uniform")
    denoiser = exact(oracle)
    with pytest.raises(ValueError, match="steps = 0"):
        UniformGrid(0)
    with pytest.raises(ValueError, match=r"t_min = 0\.5, t_max = 0\.2"):
        UniformGrid(4, 0.5, 0.2)
    sampler = Ancestral(denoiser, UniformGrid(4))
    with pytest.raises(ValueError, match="0 samples"):
        sampler.sample(0)
    with pytest.raises(ValueError, match="3 seeds were given for 4 samples"):
        sampler.sample(4, seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="not both"):
        sampler.sample(2, generator=torch.Generator(), seeds=[1, 2])
    with pytest.raises(ValueError, match="seed -1"):
        sampler.sample(1, seeds=[-1])
    with pytest.raises(ValueError, match=r"y has shape \(3,\), expected 2 rows"):
        sampler.sample(2, y=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"y is of type list, expected a tensor with 3 rows"):
        sampler.sample(3, y=[0, 1, 2])
    with pytest.raises(TypeError, match=r"seeds = 5, expected one integer for each sample, such as range\(3\)"):
        sampler.sample(3, seeds=5)
    for wrong, message in (
        ({"corrector_steps": -1}, "corrector_steps = -1"),
        ({"step_multiplier": 0.0}, "step_multiplier = 0.0"),
        ({"entry_time": 2.0}, "entry_time = 2.0"),
    ):
        with pytest.raises(ValueError, match=message):
            PredictorCorrector(sampler, ForwardBackward(denoiser), **wrong)
    jumps = denoiser(oracle.noisy, torch.tensor(0.5)).jumps()
    with pytest.raises(ValueError, match=r"u has shape \(3, 2\), expected \(3, 3\)"):
        jumps.draw(torch.arange(3), torch.rand(3, 2, dtype=torch.float64))
    # A survival schedule ends at alpha = 0: its rate is infinite at t = 1, and samplers that need rates say so.
    with pytest.raises(ValueError, match="not finite"):
        Euler(denoiser, UniformGrid(4)).sample(2)


def test_x0_mass_on_the_impossible_is_refused_or_survived(chain):
    """In the x0 parameterisation mass on an unreachable x_0 gives astronomical rates; the ancestral sampler needs none."""
    oracle = chain("birth_death", n=4)
    wrong = X0Denoiser(oracle.process, lambda x, t, **cond: torch.zeros(*x.shape, 4), (2,))
    for sampler in (Ancestral(wrong, UniformGrid(8, 1e-4)), TauLeaping(wrong, UniformGrid(8, 1e-4), leap=OrdinalLeap())):
        x_0 = sampler.sample(100, generator=torch.Generator().manual_seed(0))
        assert ((x_0 >= 0) & (x_0 < 4)).all()


def test_states_outside_the_range_are_named(chain, exact):
    oracle = chain("absorbing", n=4)
    sampler = Ancestral(exact(oracle), UniformGrid(2))
    with pytest.raises(ValueError, match=r"x_t has the value 9, expected values in 0 \.\. 4"):
        sampler.sample(torch.full((3, 2), 9))
    for name in CHAINS:
        rates = chain(name, n=3).process.rates
        wrong = torch.full((1, 2), rates.num_states)
        with pytest.raises(ValueError, match=f"x has the value {rates.num_states}"):
            rates.sample_from(wrong, torch.tensor(0.5, dtype=torch.float64))
        with pytest.raises(ValueError, match=f"x_t has the value {rates.num_states}"):
            rates.sample_bridge(wrong * 0, wrong, *torch.tensor([0.2, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
@pytest.mark.parametrize("name", CHAINS)
def test_any_integer_dtype_is_as_good_as_another(name, dtype, chain, exact):
    """Given states of few bits: posteriors, rates, losses, laws and samples are those of the same states as int64."""
    oracle = chain(name)
    denoiser, n = exact(oracle), oracle.process.rates.num_states
    wide = torch.randint(n, (20, 2), generator=torch.Generator().manual_seed(0))
    x_0 = torch.where(wide < 4, wide, 0)
    narrow, t = wide.to(dtype), torch.tensor(0.4, dtype=torch.float64)
    parameterisations = [denoiser] if name == "absorbing" else [denoiser, X0Denoiser(oracle.process, oracle.x0_network(), (2,))]
    for parameterisation in parameterisations:
        here, there = parameterisation(narrow, t), parameterisation(wide, t)
        for one, other in (
            (here.ratio, there.ratio),
            (here.probs, there.probs),
            (here.reverse_rates, there.reverse_rates),
            (here.jumps().matrix(), there.jumps().matrix()),
            (here.log_prob(x_0.to(dtype)), there.log_prob(x_0)),
            (here.rate_divergence(x_0.to(dtype)), there.rate_divergence(x_0)),
            (here.sample(torch.Generator().manual_seed(0)), there.sample(torch.Generator().manual_seed(0))),
        ):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype
    grid = QuadraticGrid(3, t_max=0.9)
    samplers = [build(cls, denoiser, grid) for cls in SAMPLERS if (cls, name) in PAIRS]
    if name != "absorbing":
        samplers += [
            TauLeaping(denoiser, grid, leap=OrdinalLeap()),
            TauLeaping(denoiser, grid, leap=OrdinalLeap(dense_above=0.1)),
        ]
    for sampler in samplers:
        for given in ({"generator": torch.Generator().manual_seed(1)}, {"seeds": range(20)}):
            drawn = sampler.sample(narrow, **given)
            again = {"generator": torch.Generator().manual_seed(1)} if "generator" in given else given
            assert torch.equal(drawn, sampler.sample(wide, **again))
            assert drawn.dtype == torch.int64
        for one, other in zip(sampler.stages(*at(0.5, 0.4)), sampler.stages(*at(0.5, 0.4)), strict=True):
            assert torch.equal(one(narrow), other(wide))
        assert torch.equal(sampler.finish_law(narrow), sampler.finish_law(wide))
        with pytest.raises(ValueError, match=r"x_t has dtype torch\.float32, expected an integer dtype"):
            sampler.sample(wide.float())


def test_an_ordinal_leap_is_refused_where_a_state_is_a_mask(chain, exact):
    denoiser = exact(chain("absorbing"))
    with pytest.raises(ValueError, match="the last state is a mask"):
        TauLeaping(denoiser, UniformGrid(2), leap=OrdinalLeap())
    with pytest.raises(ValueError, match="the last state is a mask"):
        ForwardBackward(denoiser, leap=OrdinalLeap())


@pytest.mark.parametrize(
    ("name", "leap"),
    [
        ("gaussian_target", OrdinalLeap()),
        ("birth_death", OrdinalLeap()),
        ("uniform", CategoricalLeap()),
        ("absorbing", CategoricalLeap()),
        ("non_reversible", CategoricalLeap()),
    ],
)
def test_jumps_add_up_by_default_where_values_are_ordered(name, leap, chain, exact):
    denoiser = exact(chain(name))
    assert denoiser.process.rates.ordered == isinstance(leap, OrdinalLeap)
    assert TauLeaping(denoiser, UniformGrid(2)).leap == ForwardBackward(denoiser).leap == leap


def test_euler_counts_what_it_clips(chain, exact):
    oracle = chain("birth_death")
    denoiser = exact(oracle)
    coarse = list(Euler(denoiser, UniformGrid(2)).trajectory(50, seeds=range(50)))[-1]
    fine = list(Euler(denoiser, QuadraticGrid(500, 0.01)).trajectory(5, seeds=range(5)))[-1]
    assert coarse.count("clamped").sum() > 0
    assert fine.count("clamped").sum() == 0


def test_networks_that_answer_nonsense_are_refused(chain):
    process = chain("uniform").process
    broken = X0Denoiser(process, lambda x, t, **cond: torch.full((*x.shape, 4), torch.nan), (2,))
    with pytest.raises(ValueError, match="the network's output at t = 1 is not finite"):
        Ancestral(broken, UniformGrid(2)).sample(2)


class TimeNetwork(torch.nn.Module):
    """A network that takes the time as it is given."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, values)

    def forward(self, x, t, y=None):
        return self.layer(t[:, None])[:, None].expand(*x.shape, -1)


def test_a_network_sees_time_in_its_own_dtype(chain):
    """Losses draw times in float32 and grids are float64: a network notices neither."""
    process = chain("uniform").process
    for network in (TimeNetwork(4), TimeNetwork(4).double()):
        denoiser = LeaveOneOutDenoiser(process, network, (2,))
        x_0 = torch.randint(4, (3, 2))
        CrossEntropy()(denoiser, CrossEntropy().draw(process, x_0, torch.rand(3))).sum().backward()
        Ancestral(denoiser, UniformGrid(2)).sample(2)
        bits_per_dim(denoiser, x_0, draws=4)


@pytest.mark.parametrize("values", [48, 256])
@pytest.mark.parametrize("leap", [OrdinalLeap(), OrdinalLeap(dense_above=0.1), CategoricalLeap()])
def test_seeds_at_full_numbers_of_values(values, leap):
    chain = CTMC(GaussianTargetRates(values), Exponential())
    table = torch.randn(values, values, generator=torch.Generator().manual_seed(0))
    denoiser = LeaveOneOutDenoiser(chain, lambda x, t, **cond: table[x.roll(1, -1)], (1, 3, 5))
    for sampler in (TauLeaping(denoiser, UniformGrid(3), leap=leap), Ancestral(denoiser, UniformGrid(3))):
        together = sampler.sample(32, seeds=range(32))
        uneven = torch.cat([sampler.sample(3, seeds=range(3)), sampler.sample(29, seeds=range(3, 32))])
        assert torch.equal(together, uneven)


@pytest.mark.parametrize("parameterisation", [LeaveOneOutDenoiser, X0Denoiser])
def test_jumps_drawn_through_block_sums_have_the_right_law(parameterisation):
    """With 64 values jumps are drawn block by block; judged by the rates that a matrix product gives."""
    chain = CTMC(GaussianTargetRates(64), Exponential())
    table = torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = parameterisation(chain, lambda x, t, **cond: table[x.roll(1, -1)], (3,))
    t = torch.tensor(0.5, dtype=torch.float64)
    posterior = denoiser(torch.tensor([[3, 60, 31]]), t)
    jumps, expected = posterior.jumps(), posterior.reverse_rates[0]
    torch.testing.assert_close(jumps.exit_rates[0], expected.sum(-1))
    positions = torch.arange(3).repeat_interleave(40_000)
    u = torch.rand(len(positions), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = jumps.draw(positions, u).reshape(3, -1)
    for law, values in zip(expected / expected.sum(-1, keepdim=True), drawn, strict=True):
        counts, means = torch.bincount(values, minlength=64).double(), law * 40_000
        assert counts[law == 0].sum() == 0
        rare = means < 5  # collected in one cell, as the test wants
        observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
        predicted = torch.cat([means[~rare], means[rare].sum()[None]])
        assert chisquare(observed.numpy(), predicted.numpy()).pvalue > 1e-4


def test_leave_one_out_reading_is_the_x0_reading(chain):
    for name in ("uniform", "birth_death", "gaussian_target", "non_reversible"):
        oracle = chain(name)
        x0 = X0Denoiser(oracle.process, oracle.x0_network(), (2,))
        loo = LeaveOneOutDenoiser(oracle.process, oracle.leave_one_out_network(), (2,))
        t = torch.tensor(0.3, dtype=torch.float64)
        a, b = x0(oracle.noisy, t), loo(oracle.noisy, t)
        torch.testing.assert_close(a.probs, b.probs)
        torch.testing.assert_close(a.reverse_rates, b.reverse_rates)
        torch.testing.assert_close(a.jumps().matrix().double(), b.jumps().matrix().double())
        torch.testing.assert_close(a.jumps().matrix().double(), a.reverse_rates.double())
        torch.testing.assert_close(a.jumps().exit_rates, a.jumps().matrix().sum(-1))
        # and both are the ratio of the enumerated marginals
        q = oracle.marginal(0.3).reshape(4, 4)
        expected = torch.stack([q.T[oracle.noisy[:, 1]], q[oracle.noisy[:, 0]]], 1)
        torch.testing.assert_close(b.ratio.double(), expected / oracle.marginal(0.3)[:, None, None])
