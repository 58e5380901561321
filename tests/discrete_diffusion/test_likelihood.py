"""The bound is complete: with the exact posterior it is the entropy plus what theory says is lost."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from diffusion_core import PerSampleRandomness, PiecewiseTimes, SharedRandomness, StratifiedTimes
from diffusion_core.distributions import Mixture, TruncatedLogistic
from discrete_diffusion import ELBO, CrossEntropy, LeaveOneOutDenoiser, X0Denoiser, bits_per_dim, learn_times
from discrete_diffusion.denoisers import AbsorbingDenoiser
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates import AbsorbingRates, BirthDeathRates, DenseRates, GaussianTargetRates, UniformRates
from discrete_diffusion.schedules import Constant, CosineSurvival, Exponential, LinearSurvival

from ..losses import scored

CHAINS = ["uniform", "absorbing", "birth_death", "gaussian_target", "non_reversible"]


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", CHAINS)
def test_bound_of_the_exact_posterior_is_the_entropy_and_its_known_gaps(name, n, chain, exact):
    oracle = chain(name, n)
    denoiser = exact(oracle)
    for t_min in (0.01, 0.1):
        assert oracle.bound(denoiser, t_min) == pytest.approx(oracle.exact_bound(t_min), abs=1e-6)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", ["uniform", "birth_death", "gaussian_target", "non_reversible"])
def test_both_readings_give_the_same_bound(name, n, chain):
    oracle = chain(name, n)
    x0 = X0Denoiser(oracle.process, oracle.x0_network(), (2,))
    assert oracle.bound(x0, 0.05) == pytest.approx(oracle.exact_bound(0.05), abs=1e-6)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", CHAINS)
def test_a_perturbed_denoiser_scores_worse(name, n, chain, exact):
    oracle = chain(name, n)
    denoiser = exact(oracle)
    network = denoiser.network
    noise = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser.network = lambda x, t, **cond: network(x, t, **cond) + 0.3 * noise
    assert oracle.bound(denoiser, 0.05, nodes=100) > oracle.exact_bound(0.05) + 1e-3


def test_decoder_gap_of_the_toy_is_the_published_one(toy):
    assert toy.decoder_gap(0.01 / 4) == pytest.approx(2.5e-4, abs=0.5e-5)


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", CHAINS)
def test_bits_per_dim_agrees_with_the_enumerated_bound(name, n, chain, exact):
    oracle = chain(name, n)
    denoiser = exact(oracle)
    draws = torch.Generator().manual_seed(1)
    rows = torch.multinomial(oracle.data_law, 1000, replacement=True, generator=draws)
    # The bound is a mean over the data law; the sample of it adds its own error to the Monte-Carlo one.
    estimate = bits_per_dim(
        denoiser, oracle.clean[rows], times=StratifiedTimes(t_min=0.05), draws=8, batch_size=1000, generator=draws
    )
    scale = 2 * math.log(2)
    entropy_error = (oracle.data_law.log().square() * oracle.data_law).sum().sqrt().item() / math.sqrt(1000) / scale
    assert estimate.value == pytest.approx(oracle.exact_bound(0.05) / scale, abs=4 * (estimate.standard_error + entropy_error))
    assert estimate.value == pytest.approx(estimate.diffusion + estimate.prior + estimate.reconstruction)
    assert 0 < estimate.standard_error < 0.05


def test_a_bound_needs_times_with_weights(chain, exact):
    oracle = chain("uniform")
    with pytest.raises(ValueError, match="PiecewiseTimes has weighted = False, expected True: the bound is an integral"):
        bits_per_dim(exact(oracle), oracle.clean[:2], times=PiecewiseTimes([0.1, 0.5, 1.0], weighted=False), draws=4)


def test_standard_error_is_that_of_repeated_estimates(chain, exact):
    """With uniform times neighbouring strata differ in the mean, and the stated error is too large; never too small."""
    oracle = chain("uniform")
    x_0, denoiser = oracle.clean[:8], exact(oracle)
    learned = learn_times(denoiser, oracle.clean[8:], draws=64, generator=torch.Generator().manual_seed(7))
    for times, low in ((None, 0.4), (learned, 0.8)):
        seeds = [torch.Generator().manual_seed(seed) for seed in range(150)]
        runs = [bits_per_dim(denoiser, x_0, times=times, draws=8, generator=seed) for seed in seeds]
        spread = torch.tensor([run.value for run in runs]).std().item()
        stated = torch.tensor([run.standard_error for run in runs]).square().mean().sqrt().item()
        assert low * stated < spread < 1.15 * stated


@pytest.mark.parametrize("name", ["uniform", "birth_death", "gaussian_target"])
@pytest.mark.parametrize("parameterisation", ["x0", "leave_one_out"])
def test_learned_times_leave_the_bound_and_shrink_its_error(name, parameterisation, chain, exact):
    """Every example of the data law, weighted by its probability: what is left is the Monte-Carlo error alone."""
    oracle = chain(name)
    exactly = X0Denoiser(oracle.process, oracle.x0_network(), (2,)) if parameterisation == "x0" else exact(oracle)
    interval = StratifiedTimes(t_min=0.05)
    generator = torch.Generator().manual_seed(3)
    times = learn_times(exactly, oracle.clean, times=interval, draws=64, batch_size=1024, generator=generator)
    found = []
    for density in (interval, times):
        bits = bits_per_dim(exactly, oracle.clean, times=density, draws=4096, batch_size=32_768, generator=generator)
        value = (bits.images * oracle.data_law).sum().item()
        error = (bits._variance * oracle.data_law.square()).sum().sqrt().item()
        assert error < 0.02
        assert value == pytest.approx(oracle.exact_bound(0.05) / (2 * math.log(2)), abs=4 * error)
        found.append(bits)
    assert found[1].diffusion_draws.var(1).mean() < 0.5 * found[0].diffusion_draws.var(1).mean()
    assert found[1].effective_draws > 1.5 * found[0].effective_draws


@pytest.mark.parametrize("floor", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("name", ["uniform", "birth_death", "gaussian_target"])
def test_the_bound_with_an_evidence_floor_is_that_of_its_own_posterior(name, floor, chain):
    """Enumerated from `p'(x_0) ~ p(x_0) min(1, P / (floor max P))`, with everything written out, and estimated."""
    oracle = chain(name, n=3)
    denoiser = X0Denoiser(oracle.process, oracle.x0_network(), (2,), floor)
    for t in (0.03, 0.2, 0.7):
        time = torch.tensor(t, dtype=torch.float64)
        posterior = denoiser(oracle.noisy, time)
        evidence = oracle.process.kernel(time, torch.float64).columns(oracle.noisy)
        expected = oracle.x0_network()(oracle.noisy, time).exp() * (evidence / (floor * evidence.amax(-1, keepdim=True))).clamp(
            max=1
        )
        expected = expected / expected.sum(-1, keepdim=True)
        torch.testing.assert_close(posterior.probs, expected, rtol=1e-9, atol=1e-12)
        ratio = oracle.process.posterior_ratio(expected, oracle.noisy, time, torch.float64)
        torch.testing.assert_close(posterior.ratio, ratio, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            posterior.jumps().matrix(), oracle.process.reverse_rates(ratio, oracle.noisy, time), rtol=1e-9, atol=1e-12
        )
    bits = bits_per_dim(
        denoiser,
        oracle.clean,
        times=StratifiedTimes(t_min=0.05),
        draws=4096,
        batch_size=32_768,
        generator=torch.Generator().manual_seed(0),
    )
    error = (bits._variance * oracle.data_law.square()).sum().sqrt().item()
    value = (bits.images * oracle.data_law).sum().item()
    assert value == pytest.approx(oracle.bound(denoiser, 0.05) / (2 * math.log(2)), abs=4 * error)


@pytest.mark.parametrize("t", [1e-3, 0.01])
def test_an_evidence_floor_bounds_the_ratio(t):
    """An untrained network: without a floor its mass on what cannot have been is divided by P."""
    process = CTMC(BirthDeathRates(64), Constant(1.0))
    x_t, time = torch.full((1, 1, 1, 1), 20), torch.tensor(t, dtype=torch.float64)
    ratios = [
        X0Denoiser(process, lambda x, c, **cond: torch.zeros(*x.shape, 64), (1, 1, 1), floor)(x_t, time).ratio.max().item()
        for floor in (0.0, 1e-3)
    ]
    assert ratios[0] > 1e40
    assert ratios[1] < 1e3 * 64


@pytest.mark.parametrize("t", [0.02, [0.02, 0.4]], ids=str)
def test_draws_with_an_evidence_floor_have_its_law(t):
    """Draws of a compact head that are rejected are drawn again: chi-square of 20,000 against the written-out law."""
    process = CTMC(GaussianTargetRates(16, 2.0, 8.0), Exponential(1.0, 10.0))
    time = torch.tensor(t, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    mu, log_scale = torch.tensor([[-0.8], [0.8]]).expand(2, 20_000), torch.tensor([[-1.0], [-2.0]]).expand(2, 20_000)
    x_t = torch.tensor([[3], [12]]).expand(2, 20_000)
    distribution = TruncatedLogistic(mu, log_scale, 16)
    posterior = X0Denoiser(process, lambda x, c, **cond: None, (20_000,), 0.3).posterior(x_t, time, distribution)
    evidence = process.kernel(time, torch.float64).columns(x_t)
    law = distribution.logits.double().exp() * (evidence / (0.3 * evidence.amax(-1, keepdim=True))).clamp(max=1)
    kept = law.sum(-1)
    assert kept.min() < 0.9, "many draws are rejected"
    law = (law / law.sum(-1, keepdim=True))[:, 0]
    drawn = posterior.sample(generator)
    counts = torch.stack([torch.bincount(row.flatten(), minlength=16) for row in drawn]).double()
    for observed, expected in zip(counts, law * drawn[0].numel(), strict=True):
        likely = expected > 5
        statistic = ((observed - expected).square() / expected)[likely].sum().item()
        assert statistic < scipy.stats.chi2.ppf(0.9999, int(likely.sum()))
    with pytest.raises(ValueError, match=r"evidence_floor = 1\.5, expected a number in \[0, 1\]"):
        X0Denoiser(process, lambda x, c, **cond: None, (1,), 1.5)


def test_differences_of_two_models_are_paired(chain, exact):
    """The noise that two models share cancels: the error of their difference is far below those of their bounds."""
    oracle = chain("gaussian_target")
    one, network = exact(oracle), exact(oracle).network
    bias = torch.tensor([0.3, -0.2, 0.1, 0.0], dtype=torch.float64)
    other = LeaveOneOutDenoiser(oracle.process, lambda x, t, **cond: network(x, t, **cond) + bias, (2,))
    rows = torch.multinomial(oracle.data_law, 400, replacement=True, generator=torch.Generator().manual_seed(5))
    x_0, interval = oracle.clean[rows], StratifiedTimes(t_min=0.05)
    a, b = (
        bits_per_dim(each, x_0, times=interval, draws=8, batch_size=3200, generator=torch.Generator().manual_seed(6))
        for each in (other, one)
    )
    difference = a.difference(b)
    assert difference.value == pytest.approx(a.value - b.value)
    assert difference.standard_error < min(a.standard_error, b.standard_error) / 3
    exactly = (oracle.bound(other, 0.05) - oracle.bound(one, 0.05)) / (2 * math.log(2))
    total = math.hypot(difference.standard_error, difference.image_error)
    assert difference.value == pytest.approx(exactly, abs=4 * total)
    with pytest.raises(ValueError, match=r"are \(400, 8, 2\) and \(3, 8, 2\)"):
        a.difference(bits_per_dim(one, x_0[:3], draws=8))


class FreshNetwork(nn.Module):
    """An untrained network whose logits depend on the noisy image and the time."""

    def __init__(self, states: int, values: int, scale: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(scale * torch.randn(states, values, generator=generator))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.table[x.roll(1, -1)] * (1 + t.float()[:, None, None, None, None])


@functools.cache  # its tables take longer than what is tested
def full_size(name: str) -> CTMC:
    generator = torch.rand(256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64).pow(8)
    generator.fill_diagonal_(0)
    generator /= generator.sum(1).max()
    return {
        "uniform": lambda: CTMC(UniformRates(256), CosineSurvival()),
        "absorbing": lambda: CTMC(AbsorbingRates(256), LinearSurvival()),
        "birth_death": lambda: CTMC(BirthDeathRates(256), Exponential(3.0, 100.0)),
        "gaussian_target": lambda: CTMC(GaussianTargetRates(256, 6.0, 512.0), Exponential(3.0, 100.0)),
        "non_reversible": lambda: CTMC(DenseRates(generator - torch.diag(generator.sum(1))), Exponential(0.1, 100.0)),
    }[name]()


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_a_fresh_network_has_a_finite_bound_and_gradient(name, scale):
    process = full_size(name)
    network = FreshNetwork(process.rates.num_states, 256, scale)
    parameterisation = AbsorbingDenoiser if name == "absorbing" else LeaveOneOutDenoiser
    denoiser = parameterisation(process, network, (1, 4, 4))
    x_0 = torch.randint(0, 256, (4, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    loss = scored(ELBO(), denoiser, x_0, torch.tensor([0.01, 0.1, 0.5, 0.99]), generator=torch.Generator().manual_seed(2))
    assert loss.isfinite().all()
    loss.sum().backward()
    assert network.table.grad is not None
    assert network.table.grad.isfinite().all()


@pytest.mark.parametrize("name", ["uniform", "birth_death", "gaussian_target", "non_reversible"])
def test_integrand_keeps_four_digits_near_the_noise(name):
    """Near t = 1 the ratios agree to many digits while the rate is in the thousands."""
    process = full_size(name)
    t = torch.tensor([0.99, 0.9, 0.5])
    x_0 = torch.randint(0, 256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    x_t = process.sample(x_0, t, torch.Generator().manual_seed(2))
    network = FreshNetwork(256, 256, 1.0)
    low = LeaveOneOutDenoiser(process, network, (1, 4, 4))(x_t, t).rate_divergence(x_0)
    high = LeaveOneOutDenoiser(process, network.double(), (1, 4, 4))(x_t, t.double()).rate_divergence(x_0)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low[0].double(), high[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(low.double().sum((1, 2, 3)), high.sum((1, 2, 3)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["uniform", "birth_death", "gaussian_target", "non_reversible"])
def test_float32_gradients_are_those_of_float64(name):
    process = full_size(name)
    t = torch.tensor([0.02, 0.3, 0.5, 0.99])
    x_0 = torch.randint(0, 256, (4, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    x_t = process.sample(x_0, t, torch.Generator().manual_seed(2))
    gradients = []
    for dtype in (torch.float32, torch.float64):
        scores = torch.randn(4, 1, 4, 4, 256, generator=torch.Generator().manual_seed(3)).to(dtype).requires_grad_()
        denoiser = LeaveOneOutDenoiser(process, lambda x, c, scores=scores, **cond: scores, (1, 4, 4))
        denoiser(x_t, t.to(dtype)).rate_divergence(x_0).sum().backward()
        gradients.append(scores.grad.double().flatten(1))
    error = (gradients[0] - gradients[1]).norm(dim=1) / gradients[1].norm(dim=1)
    assert (error < 1e-4).all(), error


def test_fused_gradient_is_the_gradient(chain):
    """The hand-written backward pass against autograd through the general formula."""
    for name, n in itertools.product(("uniform", "birth_death", "gaussian_target", "non_reversible"), (2, 3, 5)):
        oracle = chain(name, n, dimensions=3)
        states = torch.Generator().manual_seed(0)
        x_0 = torch.randint(0, n, (4, 3), generator=states)
        t = torch.tensor([0.05, 0.2, 0.5, 0.8], dtype=torch.float64)
        x_t = oracle.process.sample(x_0, t, states)
        scores = torch.randn(4, 3, n, dtype=torch.float64, generator=states, requires_grad=True)
        denoiser = LeaveOneOutDenoiser(oracle.process, lambda x, c, scores=scores, **cond: scores, (3,))
        weight = torch.rand(4, 3, dtype=torch.float64, generator=states)
        posterior = denoiser(x_t, t)
        (fused,) = torch.autograd.grad((weight * posterior.rate_divergence(x_0)).sum(), scores)
        r = posterior.ratio
        w = oracle.process.conditional_ratio(x_0, x_t, t, torch.float64)
        rates = oracle.process.rates_into(x_t, t, torch.float64)
        general = (rates * (r - w - w * (r / w).log())).sum(-1)
        (expected,) = torch.autograd.grad((weight * general).sum(), scores)
        torch.testing.assert_close(posterior.rate_divergence(x_0), general)
        torch.testing.assert_close(fused, expected)


def test_absorbing_gradients_exist_where_nothing_is_masked(process):
    chain = process("absorbing", 4)
    network = FreshNetwork(5, 4, 1.0)
    denoiser = AbsorbingDenoiser(chain, network, (1, 2, 2))
    x_0 = torch.randint(0, 4, (2, 1, 2, 2))
    scored(ELBO(), denoiser, x_0, torch.tensor([0.0, 0.5])).sum().backward()
    assert network.table.grad is not None
    assert network.table.grad.isfinite().all()


def test_second_derivatives_are_refused(chain):
    oracle = chain("uniform")
    scores = torch.randn(16, 2, 4, requires_grad=True)
    denoiser = LeaveOneOutDenoiser(oracle.process, lambda x, t, **cond: scores, (2,))
    divergence = denoiser(oracle.clean, torch.tensor(0.5)).rate_divergence(oracle.clean)
    (gradient,) = torch.autograd.grad((scores.sum(-1) * divergence).sum(), scores, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("name", CHAINS)
def test_no_examples_have_no_losses(name, process):
    """An empty batch, as a filter of the data may leave, has an empty loss whose gradient is zero, for any rates."""
    network = FreshNetwork(5, 4, 1.0)
    parameterisations = [AbsorbingDenoiser] if name == "absorbing" else [X0Denoiser, LeaveOneOutDenoiser]
    for parameterisation in parameterisations:
        for loss in (ELBO(), CrossEntropy()):
            for t in (torch.zeros(0), torch.tensor(0.5)):
                denoiser = parameterisation(process(name), network, (1, 2, 3))
                values = scored(loss, denoiser, torch.zeros(0, 1, 2, 3, dtype=torch.int64), t)
                assert values.shape == (0,)
                (gradient,) = torch.autograd.grad(values.sum(), network.table)
                assert not gradient.any()


def test_bad_arguments_are_named(chain, exact):
    oracle = chain("uniform")
    with pytest.raises(ValueError, match="draws = 2, expected an even number of at least 4"):
        bits_per_dim(exact(oracle), oracle.clean, draws=2)
    with pytest.raises(ValueError, match="0 examples"):
        bits_per_dim(exact(oracle), oracle.clean[:0])
    with pytest.raises(ValueError, match=r"t = 1\.5 is outside"):
        exact(oracle)(oracle.clean, torch.tensor(1.5))
    with pytest.raises(ValueError, match=r"x_t has dtype torch\.float32"):
        exact(oracle)(oracle.clean.float(), torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"x has shape \(16, 1, 2\)"):
        exact(oracle)(oracle.clean[:, None], torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"expected \(16, 2, 4\)"):
        LeaveOneOutDenoiser(oracle.process, lambda x, t, **cond: torch.zeros(*x.shape, 5), (2,))(
            oracle.clean, torch.tensor(0.5)
        )
    with pytest.raises(ValueError, match="expected AbsorbingRates"):
        AbsorbingDenoiser(oracle.process, oracle.x0_network(), (2,))


def test_shared_and_keyed_noise_are_both_accepted(chain, exact):
    oracle = chain("uniform")
    for source in (SharedRandomness(torch.Generator().manual_seed(0)), PerSampleRandomness(range(16))):
        loss = scored(ELBO(), exact(oracle), oracle.clean, torch.full((16,), 0.5), generator=source)
        assert loss.shape == (16,)
        assert (loss >= 0).all()


@pytest.mark.parametrize("t", [0.02, 0.2, 0.9, [0.02, 0.5, 0.95]], ids=str)
def test_leave_one_out_posterior_of_a_compact_head_is_that_of_its_logits(t):
    """`log_prob` never forms p(x_0 | x_t) on all values; `distribution` does."""
    torch.manual_seed(0)
    process = CTMC(GaussianTargetRates(64), Exponential(3.0, 100.0))
    weights, mu, log_scale = torch.randn(2, 3, 5), torch.randn(2, 3, 5), torch.randn(2, 3, 5) - 2
    parts = [TruncatedLogistic(m, s, 64) for m, s in zip(mu, log_scale, strict=True)]
    time = torch.tensor(t, dtype=torch.float64)
    x_0 = torch.randint(64, (3, 5))
    x_t = process.sample(x_0, time)
    posterior = LeaveOneOutDenoiser(process, lambda x, c, **cond: None, (5,)).posterior(x_t, time, Mixture(weights, parts))
    expected = posterior.logits.gather(-1, x_0[..., None])[..., 0]
    torch.testing.assert_close(posterior.log_prob(x_0), expected, atol=1e-4, rtol=1e-4)
