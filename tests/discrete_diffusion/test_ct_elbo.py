"""The published continuous-time ELBO by enumeration: what it is beside the complete bound, and the bias of one pass."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn

from diffusion_core import Objective, Sample, StratifiedTimes
from discrete_diffusion import (
    CTELBO,
    CTMC,
    ELBO,
    AbsorbingDenoiser,
    Denoiser,
    EnumeratedCTMC,
    LeaveOneOutDenoiser,
    ScoreDenoiser,
    WeightedSum,
    X0Denoiser,
)
from discrete_diffusion.rates import AbsorbingRates, DenseRates, UniformRates
from discrete_diffusion.schedules import Constant, LinearSurvival

from ..losses import scored

CHAINS = ["uniform", "absorbing", "birth_death", "gaussian_target", "non_reversible"]
F64 = torch.float64
TWO, ONE = CTELBO(nll_weight=0), CTELBO(one_forward_pass=True, nll_weight=0)


def generator_of(oracle: EnumeratedCTMC) -> Tensor:
    """R with a zero diagonal, (n, n)."""
    return oracle.process.rates.rates_from(torch.arange(oracle.num_states), F64).fill_diagonal_(0.0)


def every_draw(oracle: EnumeratedCTMC, t: float) -> tuple[Sample, Tensor]:
    """Everything that the loss can draw at one time, and its probabilities: all x_0, x_t and jumps."""
    x_0, x_t, weight = oracle._pairs(t)
    jumps = generator_of(oracle)[x_t]  # (M, D, n)
    total = jumps.sum((1, 2))
    i, d, y = torch.nonzero(jumps, as_tuple=True)
    after = x_t[i].scatter(1, d[:, None], y[:, None])
    stay = torch.nonzero(total == 0)[:, 0]
    rows = torch.cat([i, stay])
    probabilities = torch.cat([weight[i] * jumps[i, d, y] / total[i], weight[stay]])
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)
    sample = Sample(x_0[rows], x_t[rows], torch.tensor(t, dtype=F64), torch.cat([after, x_t[stay]]))
    return sample, probabilities


def expectation(loss: CTELBO, denoiser: Denoiser[object], oracle: EnumeratedCTMC, t: float) -> Tensor:
    sample, probabilities = every_draw(oracle, t)
    return (probabilities * loss(denoiser, sample)).sum()


def constant(oracle: EnumeratedCTMC, t: float) -> float:
    """`E[sum_{d, y} R_t[y, x^d] w_y (log w_y - 1)]`, from the matrix exponential."""
    R, time = generator_of(oracle), torch.tensor(t, dtype=F64)
    P = torch.matrix_exp(oracle.process.tau(time) * (R - torch.diag(R.sum(1))))
    x_0, x_t, weight = oracle._pairs(t)
    w = P[x_0] / P[x_0, x_t][..., None]
    terms = R.T[x_t] * torch.where(w > 0, w * (torch.where(w > 0, w, 1.0).log() - 1), 0.0)
    return float(oracle.process.beta(time) * (weight * terms.sum((1, 2))).sum())


class Table(nn.Module):
    """Logits from a table over all noisy states, added to those of another network."""

    def __init__(self, oracle: EnumeratedCTMC, base=None, seed: int | None = None) -> None:
        super().__init__()
        shape = (len(oracle.noisy), oracle.dimensions, oracle.data_states)
        generator = torch.Generator().manual_seed(seed or 0)
        self.table = nn.Parameter(
            torch.zeros(shape, dtype=F64) if seed is None else torch.randn(shape, generator=generator, dtype=F64)
        )
        self.base = base
        self.places = oracle.num_states ** torch.arange(oracle.dimensions - 1, -1, -1)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        own = self.table[(x_t * self.places).sum(1)]
        return own if self.base is None else own + self.base(x_t, t)


def denoisers(oracle: EnumeratedCTMC, network) -> list[Denoiser[object]]:
    if isinstance(oracle.process.rates, AbsorbingRates):
        kinds = [AbsorbingDenoiser, ScoreDenoiser]
    else:
        kinds = [LeaveOneOutDenoiser, X0Denoiser, ScoreDenoiser]
    return [kind(oracle.process, network, (oracle.dimensions,)) for kind in kinds]


@pytest.mark.parametrize(("n", "dimensions"), [(3, 2), (2, 3)])
@pytest.mark.parametrize("name", CHAINS)
def test_two_passes_are_the_bound_up_to_the_known_constant(name, n, dimensions, chain):
    """For random models of every parameterisation; the constant is computed without the library's ratios."""
    oracle = chain(name, n, dimensions)
    for t in (0.1, 0.6):
        for denoiser in denoisers(oracle, Table(oracle, seed=1)):
            found = expectation(TWO, denoiser, oracle, t).item() + constant(oracle, t)
            assert found == pytest.approx(oracle.integrand(denoiser, t), rel=1e-9, abs=1e-9)


def test_a_chain_that_stops_at_a_data_value(chain):
    """Pure death to the value 0: from there no jump is possible, and the identity still holds."""
    rates = DenseRates(torch.tensor([[0.0, 0, 0], [1, -1, 0], [0, 2, -2]], dtype=F64))
    law = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=F64)
    oracle = EnumeratedCTMC(CTMC(rates, Constant(1.5)), law / law.sum(), 2)
    for denoiser in denoisers(oracle, Table(oracle, seed=1))[:2]:
        found = expectation(TWO, denoiser, oracle, 0.5).item() + constant(oracle, 0.5)
        assert found == pytest.approx(oracle.integrand(denoiser, 0.5), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", CHAINS)
def test_the_gradient_is_zero_at_the_truth_with_two_passes_only(name, chain, exact):
    oracle = chain(name, 3)
    denoiser = exact(oracle)
    denoiser.network = Table(oracle, denoiser.network)
    norms = {}
    for loss in (TWO, ONE):
        (gradient,) = torch.autograd.grad(expectation(loss, denoiser, oracle, 0.4), denoiser.network.table)
        norms[loss] = gradient.norm().item()
    assert norms[TWO] < 1e-9
    if name == "absorbing":  # the regularisation is the rate of unmasking: only its value depends on where it is taken
        assert norms[ONE] < 1e-9
        assert abs(expectation(ONE, denoiser, oracle, 0.4) - expectation(TWO, denoiser, oracle, 0.4)) > 0.1
    else:
        assert norms[ONE] > 1e-3


def test_the_second_moment_with_a_mask_grows_without_bound_towards_the_noise(chain, exact):
    """With alpha = 1 - t it grows faster than 1 / (1 - t), whose integral is infinite; that of `ELBO` stays finite."""
    oracle = chain("absorbing", 3)
    denoiser, moments = exact(oracle), {TWO: [], ELBO(): []}
    for t in (0.99, 0.999):
        sample, probabilities = every_draw(oracle, t)
        for loss, found in moments.items():
            found.append(float((probabilities * loss(denoiser, sample).square()).sum()))
    assert moments[TWO][1] > 10 * moments[TWO][0]
    assert moments[ELBO()][1] == pytest.approx(moments[ELBO()][0], rel=0.1)


def relative_bias(process: CTMC, law: Tensor, dimensions: int, t: float) -> float:
    """The bias of one pass as a share of the regularisation, which is `E[sum_d sum_y R_t[y, x^d] r_y]`, at the truth."""
    oracle = EnumeratedCTMC(process, law, dimensions)
    time, network = torch.tensor(t, dtype=F64), Table(oracle)
    with torch.no_grad():
        network.table.copy_(oracle.leave_one_out_network()(oracle.noisy, time))  # once for each state, not for each draw
    denoiser = LeaveOneOutDenoiser(process, network, (dimensions,))
    rates = denoiser(oracle.noisy, time).reverse_rates.sum((1, 2))
    regularisation = (oracle.marginal(t) * rates).sum()
    with torch.no_grad():
        return float((expectation(ONE, denoiser, oracle, t) - expectation(TWO, denoiser, oracle, t)) / regularisation)


def test_the_bias_of_one_pass_is_one_over_d_for_independent_dimensions():
    """Uniform rates leave all states alike, so that exactly one of D equal terms is at the wrong state."""
    process, biases = CTMC(UniformRates(2), Constant(1.5)), []
    for dimensions in (1, 2, 4, 6):
        law = torch.ones(1, dtype=F64)
        for _ in range(dimensions):
            law = torch.outer(law, torch.tensor([0.9, 0.1], dtype=F64)).flatten()
        biases.append(relative_bias(process, law, dimensions, 0.4) * dimensions)
    assert abs(biases[0]) > 0.1
    assert biases == pytest.approx([biases[0]] * 4, rel=1e-9)


def test_the_bias_of_one_pass_decays_with_dimensions_that_depend_on_each_other():
    """Two patterns, all zeros and all ones: the order of 1/D from 4 to 8 dimensions is within 5 % of 1."""
    process, biases = CTMC(UniformRates(2), Constant(1.5)), []
    for dimensions in (2, 4, 8):
        law = torch.zeros(2**dimensions, dtype=F64)
        law[0], law[-1] = 0.7, 0.3
        biases.append(relative_bias(process, law, dimensions, 0.1))
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(biases)]
    assert orders == sorted(orders)
    assert orders[-1] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("one_forward_pass", [False, True])
@pytest.mark.parametrize("name", CHAINS)
def test_each_draw_has_the_published_value(name, one_forward_pass, chain):
    """The formulas of the paper, written out by loops over dimensions and values, for every draw."""
    oracle = chain(name, 3)
    kind = AbsorbingDenoiser if name == "absorbing" else X0Denoiser
    denoiser = kind(oracle.process, Table(oracle, seed=2), (2,))
    sample, _ = every_draw(oracle, 0.3)
    R = oracle.process.beta(sample.t) * generator_of(oracle)
    P = torch.matrix_exp(oracle.process.tau(sample.t) / oracle.process.beta(sample.t) * (R - torch.diag(R.sum(1))))
    Z = R.sum(1)

    def rate_weights(x: Tensor, p: Tensor, d: int) -> Tensor:
        """r_s for every s."""
        reachable = [k for k in range(3) if P[k, x[d]] > 0]
        return sum(p[d, k] / P[k, x[d]] * P[k] for k in reachable)

    found = CTELBO(one_forward_pass, nll_weight=0.3)(denoiser, sample)
    chosen = torch.arange(0, len(found), max(1, len(found) // 150))
    for i in chosen:
        x_0, after = sample.x_0[i], sample.noise[i]
        before = after if one_forward_pass else sample.x_t[i]
        p_before, p_after = (denoiser(x[None], sample.t).probs[0] for x in (before, after))
        reg = sum(
            R[s, before[d]] * rate_weights(before, p_before, d)[s] for d in range(2) for s in range(len(R)) if s != before[d]
        )
        numerator = denominator = 0.0
        for d, s in itertools.product(range(2), range(len(R))):
            w = P[x_0[d], s] / P[x_0[d], after[d]]
            if s != after[d] and R[s, after[d]] * w > 0:
                numerator += R[s, after[d]] * w * rate_weights(after, p_after, d)[s].log()
                denominator += R[s, after[d]] * w / (Z[after].sum() - Z[after[d]] + Z[s])
        jumped = not torch.equal(after, sample.x_t[i])
        nll = -sum(p_before[d, x_0[d]].log() for d in range(2)) / 2
        expected = reg - (numerator / denominator if jumped else 0.0) + 0.3 * nll
        torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CHAINS)
def test_draws_have_the_enumerated_law(name, chain):
    """A chi-square test of (x_t, x~) given the data law, in the order of the enumeration."""
    oracle, t, many = chain(name, 3), 0.4, 20_000
    sample, probabilities = every_draw(oracle, t)
    n = oracle.num_states
    places = torch.tensor([n**3, n**2, n, 1])
    index = (torch.cat([sample.x_t, sample.noise], 1) * places).sum(1)
    law = torch.zeros(n**4, dtype=F64).index_add_(0, index, probabilities)
    generator = torch.Generator().manual_seed(0)
    x_0 = oracle.clean[torch.multinomial(oracle.data_law, many, replacement=True, generator=generator)]
    drawn = TWO.draw(oracle.process, x_0, torch.full((many,), t), generator)
    counts = torch.bincount((torch.cat([drawn.x_t, drawn.noise], 1) * places).sum(1), minlength=n**4)
    assert counts[law == 0].sum() == 0
    likely = law * many > 5
    observed = torch.cat([counts[likely], counts[~likely].sum()[None]]).numpy()
    expected = (torch.cat([law[likely], law[~likely].sum()[None]]) * many).numpy()
    kept = expected > 0
    assert chisquare(observed[kept], expected[kept] * observed.sum() / expected[kept].sum()).pvalue > 1e-4


def test_nothing_jumps_where_all_is_masked():
    process = CTMC(AbsorbingRates(3), LinearSurvival())
    denoiser = AbsorbingDenoiser(process, lambda x, t, **cond: torch.zeros(*x.shape, 3, dtype=F64), (4,))
    x_0 = torch.randint(3, (5, 4), generator=torch.Generator().manual_seed(0))
    one = torch.ones((), dtype=F64)
    sample = TWO.draw(process, x_0, one, torch.Generator().manual_seed(0))
    assert torch.equal(sample.noise, sample.x_t)
    torch.testing.assert_close(TWO(denoiser, sample._replace(t=one / 2)), torch.full((5,), 8.0, dtype=F64))  # 4 / t


class Padded(LeaveOneOutDenoiser):
    def active(self, x_0, **cond):
        return (torch.arange(x_0.shape[1]) < 3).expand_as(x_0)


@pytest.mark.parametrize("one_forward_pass", [False, True])
def test_fixed_positions_neither_jump_nor_count(one_forward_pass):
    process = CTMC(UniformRates(4), Constant(2.0))
    table = nn.Parameter(torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(0)))
    long, short = (kind(process, lambda x, t: table[x], (D,)) for kind, D in ((Padded, 5), (LeaveOneOutDenoiser, 3)))
    loss = CTELBO(one_forward_pass, nll_weight=0.1)
    x_0 = torch.randint(4, (200, 5), generator=torch.Generator().manual_seed(1))
    sample, _ = Objective(long, loss, StratifiedTimes(0.1)).draw(x_0, torch.Generator().manual_seed(0))
    assert ((sample.noise != sample.x_t).sum(1) == 1).all()
    assert torch.equal(sample.noise[:, 3:], x_0[:, 3:])
    cut = Sample(x_0[:, :3], sample.x_t[:, :3], sample.t, sample.noise[:, :3])
    torch.testing.assert_close(loss(long, sample), loss(short, cut))


@pytest.mark.parametrize("t", [1e-3, 0.5, 0.999])
@pytest.mark.parametrize("name", CHAINS)
def test_values_and_gradients_are_finite(name, t, process):
    """Images, at the ends of time, in float32."""
    table = nn.Parameter(5 * torch.randn(33, 32, generator=torch.Generator().manual_seed(0)))
    kind = AbsorbingDenoiser if name == "absorbing" else LeaveOneOutDenoiser
    denoiser = kind(process(name, 32), lambda x, t, **cond: table[x], (1, 4, 4))
    x_0 = torch.randint(32, (6, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    for loss in (CTELBO(), CTELBO(one_forward_pass=True)):
        values = scored(loss, denoiser, x_0, torch.full((6,), t), torch.Generator().manual_seed(2))
        (gradient,) = torch.autograd.grad(values.sum(), table)
        assert values.shape == (6,)
        assert values.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.any()


def test_what_does_not_fit_is_refused(chain):
    oracle = chain("birth_death", 3)
    score, x0 = (kind(oracle.process, oracle.x0_network(), (2,)) for kind in (ScoreDenoiser, X0Denoiser))
    with pytest.raises(ValueError, match=r"CTELBO with nll_weight = 0\.001 needs a denoiser with this distribution"):
        Objective(score, CTELBO(), StratifiedTimes(0.1))
    Objective(score, TWO, StratifiedTimes(0.1))
    with pytest.raises(ValueError, match=r"t_max = 1\.0, where tau is inf, expected a finite tau"):
        Objective(X0Denoiser(CTMC(UniformRates(3), LinearSurvival()), x0.network, (2,)), CTELBO(), StratifiedTimes(0.1))
    endless = X0Denoiser(CTMC(UniformRates(3), LinearSurvival()), x0.network, (2,))
    Objective(endless, CTELBO(), StratifiedTimes(0.1, 0.99))
    with pytest.raises(ValueError, match="nll_weight = -1"):
        CTELBO(nll_weight=-1)
    with pytest.raises(ValueError, match=r"sample\.noise = None"):
        CTELBO()(x0, ELBO().draw(oracle.process, oracle.clean, torch.tensor(0.5)))
    with pytest.raises(TypeError, match="CTELBO has its own method draw or __call__, expected"):
        WeightedSum((ELBO(), CTELBO()), (1.0, 1.0))


def test_keyed_noise_makes_the_same_draw_in_any_batch(chain):
    from diffusion_core import PerSampleRandomness

    oracle = chain("gaussian_target", 4)
    x_0, t = oracle.clean, torch.full((16,), 0.3)
    together = CTELBO().draw(oracle.process, x_0, t, PerSampleRandomness(range(16)))
    apart = CTELBO().draw(oracle.process, x_0[8:], t[8:], PerSampleRandomness(range(8, 16)))
    assert torch.equal(together.noise[8:], apart.noise)
