"""The bound against true entropies: of Gaussians, of mixtures by quadrature, and of pixels with a known law."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from continuous_diffusion import (
    VLB,
    BoundedLogSNRGrid,
    CauchySchedule,
    CosineSchedule,
    EpsilonDenoiser,
    GaussianMixture,
    GaussianProcess,
    LaplaceSchedule,
    LinearSchedule,
    LogSNRGrid,
    MixtureDenoiser,
    PixelScale,
    bits_per_dim,
    learn_times,
)
from continuous_diffusion.divergence import step_divergence
from continuous_diffusion.likelihood import prior_divergence
from diffusion_core import GridTimes, StratifiedTimes, UniformGrid

from .paths import VarianceExploding, expected_bound


def exact_interpolation(process, s, t, spread):
    """The v of the true variance of x_s given x_t, `beta~ + c_0^2 Var(x_0 | x_t)`, where that is a Gaussian."""
    c_0, _, small = process.bridge_coefficients(s, t)
    large = process.added_variance(s, t)
    return (1 + c_0.square() * spread / small).log() / (large / small).log()


@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule()])
@pytest.mark.parametrize("steps", [1, 5, 40])
def test_a_gaussian_with_its_true_variances_has_no_gap(schedule, steps):
    """The prior's mismatch aside, which is that of q_1 with N(0, I), the bound of any number of steps is the entropy."""
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([0.09]))
    process = GaussianProcess(schedule)
    bound = expected_bound(mixture, process, LogSNRGrid(steps, 0.001, 1.0, schedule).times(), exact_interpolation)
    var = 1 - schedule(torch.tensor(1.0, dtype=torch.float64))[0].item() ** 2 * (1 - 0.09)
    mismatch = (var - 1 - math.log(var)) / 2
    assert bound == pytest.approx(mixture.entropy() + mismatch, abs=1e-9)


@pytest.mark.parametrize("schedule", [CosineSchedule(), VarianceExploding()])
@pytest.mark.parametrize("components", [1, 2])
def test_the_exact_bound_falls_to_the_entropy(components, schedule, mixture_1d):
    single = GaussianMixture(torch.ones(1), torch.tensor([[0.4]]), torch.tensor([0.09]))
    mixture = single if components == 1 else mixture_1d
    process = GaussianProcess(schedule)
    counts = [8, 16, 32, 64, 128, 256]
    bounds = [expected_bound(mixture, process, LogSNRGrid(n, 0.002, 1.0, schedule).times(), 0.0) for n in counts]
    gaps = [bound - mixture.entropy() for bound in bounds]
    assert all(0 < after < before for before, after in itertools.pairwise(gaps))
    assert gaps[-2] / gaps[-1] == pytest.approx(2, abs=0.15), "the gap falls as 1 / T"
    first, second = (2 * after - before for before, after in itertools.pairwise(bounds[-3:]))
    assert (4 * second - first) / 3 == pytest.approx(mixture.entropy(), abs=2e-3), "extrapolated to infinitely many steps"


def test_the_estimate_is_the_expected_bound(mixture_1d):
    """All terms of a chain, stratified times, and infinitely many steps: each within its own error."""
    process, grid = GaussianProcess(CosineSchedule()), LogSNRGrid(40, 0.002, 1.0)
    denoiser = MixtureDenoiser(process, mixture_1d)
    x_0 = mixture_1d.sample(4000, torch.Generator().manual_seed(0))
    scale = math.log(2)
    expected = expected_bound(mixture_1d, process, grid.times(), 0.0) / scale
    sample = (-mixture_1d.log_prob(x_0).mean().item() - mixture_1d.entropy()) / scale  # what these examples say of the law
    for times, target in [(GridTimes(grid), expected), (StratifiedTimes(0.002, 1.0), mixture_1d.entropy() / scale)]:
        for draws in (10, 40):
            bound = bits_per_dim(
                denoiser, x_0, times=times, draws=draws, batch_size=40_000, generator=torch.Generator().manual_seed(1)
            )
            assert bound.value == pytest.approx(bound.diffusion + bound.prior + bound.reconstruction)
            assert 0 < bound.standard_error < 0.2
            assert abs(bound.value - sample - target) < 4 * bound.standard_error + 0.02


def test_the_standard_error_is_what_repetition_shows(mixture_1d):
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture_1d)
    x_0 = mixture_1d.sample(50, torch.Generator().manual_seed(0))
    times = GridTimes(LogSNRGrid(20, 0.002, 1.0))
    for draws in (4, 20):
        runs = [bits_per_dim(denoiser, x_0, times, draws, 2000, torch.Generator().manual_seed(i)) for i in range(60)]
        seen = torch.tensor([run.value for run in runs]).std().item()
        stated = torch.tensor([run.standard_error for run in runs]).mean().item()
        assert 0.75 * seen < stated < 1.6 * seen


@pytest.mark.parametrize("chain", [True, False])
def test_learned_times_leave_the_bound_and_shrink_its_error(chain, mixture_1d):
    """The steps of a chain, and infinitely many: within four errors of quadrature, of fewer of them with learned times."""
    process, grid = GaussianProcess(CosineSchedule()), LogSNRGrid(40, 0.002, 1.0)
    denoiser = MixtureDenoiser(process, mixture_1d)
    x_0 = mixture_1d.sample(2000, torch.Generator().manual_seed(0))
    expected = expected_bound(mixture_1d, process, grid.times(), 0.0) if chain else mixture_1d.entropy()
    sample = -mixture_1d.log_prob(x_0).mean().item() - mixture_1d.entropy()  # what these examples say of the law
    interval = GridTimes(grid) if chain else StratifiedTimes(0.002, 1.0)
    pilot = mixture_1d.sample(64, torch.Generator().manual_seed(1))
    learned = learn_times(denoiser, pilot, interval, generator=torch.Generator().manual_seed(2))
    assert isinstance(learned, GridTimes) == chain
    errors = []
    for times in (interval, learned):
        generator = torch.Generator().manual_seed(3)
        bound = bits_per_dim(denoiser, x_0, times=times, draws=16, batch_size=40_000, generator=generator)
        assert abs(bound.value - (sample + expected) / math.log(2)) < 4 * bound.standard_error + 0.02
        errors.append(bound.diffusion_draws.var(1).mean().sqrt().item())
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("counts", [(13, 3), (4, 11, 1), (1, 3, 8, 4)], ids=len)
def test_pixels_with_a_known_law(counts):
    """Point masses at bin centres are data whose entropy in bits is that of their weights, as the discrete engine counts it."""
    weights = torch.tensor(counts, dtype=torch.float64) / 16
    scale = PixelScale(len(counts))
    process = GaussianProcess(CosineSchedule(), scale)
    denoiser = MixtureDenoiser(
        process, GaussianMixture(weights, scale.encode(torch.arange(len(counts)))[:, None].double(), torch.zeros(len(counts)))
    )
    x_0 = scale.encode(torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))[:, None].double().repeat(40, 1)
    entropy = -(weights * weights.log2()).sum().item()
    generator = torch.Generator().manual_seed(0)
    limit = bits_per_dim(denoiser, x_0, times=StratifiedTimes(0.002, 1.0), draws=64, batch_size=50_000, generator=generator)
    assert limit.value == pytest.approx(entropy, abs=4 * limit.standard_error)
    assert limit.standard_error < 0.05
    assert limit.reconstruction == pytest.approx(0, abs=1e-9)
    chain = bits_per_dim(
        denoiser, x_0, times=GridTimes(LogSNRGrid(256, 0.002, 1.0)), draws=64, batch_size=50_000, generator=generator
    )
    assert entropy - 4 * chain.standard_error < chain.value < entropy + 0.35


@pytest.mark.parametrize("schedule", [LinearSchedule(), VarianceExploding()])
def test_prior_divergence(schedule):
    process = GaussianProcess(schedule)
    alpha_1, sigma_1 = schedule(torch.tensor(1.0, dtype=torch.float64))
    std = math.hypot(alpha_1, sigma_1)
    x_0 = torch.tensor([[0.5, -1.0], [0.0, 0.2]], dtype=torch.float64)
    for t_max in (1.0, 0.6):
        alpha, sigma = process.schedule(torch.tensor(t_max, dtype=torch.float64))
        law = torch.distributions.Normal(alpha * x_0, sigma)
        expected = torch.distributions.kl_divergence(law, torch.distributions.Normal(0.0 * x_0, std)).sum(1)
        torch.testing.assert_close(prior_divergence(process, x_0, t_max), expected, rtol=1e-9, atol=1e-14)


def test_the_default_is_the_published_chain(toy_network):
    process = GaussianProcess(CosineSchedule(), PixelScale(256))
    denoiser = EpsilonDenoiser(process, toy_network(), (1, 6, 6))
    x_0 = PixelScale(256).encode(torch.randint(256, (3, 1, 6, 6)))
    runs = [
        bits_per_dim(denoiser, x_0, times, 6, 4, torch.Generator().manual_seed(0), y=torch.arange(3))
        for times in (None, GridTimes(VLB().grid), GridTimes(UniformGrid(999, 0.001)))
    ]
    assert runs[0].summary() == runs[1].summary() == runs[2].summary()


@pytest.mark.parametrize(
    ("x_0", "options", "message"),
    [
        (torch.full((2, 1, 6, 6), 1.5), {}, r"x_0 contains 1.5, which is not in \[-1, 1\]: convert .* PixelScale\(4\).encode"),
        (torch.full((2, 1, 6, 6), 0.5), {}, "x_0 contains 0.5, which is not the centre of a bin"),
        (torch.full((2, 1, 6, 6), float("nan")), {}, r"x_0 contains nan, which is not in \[-1, 1\]"),
        (torch.zeros(2, 1, 6, 6, dtype=torch.uint8), {}, "dtype torch.uint8, expected float32 or float64"),
        (torch.full((2, 1, 6, 6), 0.25), {"draws": 2}, "draws = 2, expected an even number of at least 4"),
        (torch.full((2, 1, 6, 6), 0.25), {"times": StratifiedTimes(0.0)}, "t_min = 0.0, expected t_min > 0"),
        (torch.full((2, 1, 6, 5), 0.25), {}, r"x has shape \(32, 1, 6, 5\), expected \(B, 1, 6, 6\)"),
    ],
)
def test_bad_input(x_0, options, message, toy_network):
    denoiser = EpsilonDenoiser(GaussianProcess(CosineSchedule(), PixelScale(4)), toy_network(), (1, 6, 6))
    with pytest.raises(ValueError, match=message):
        bits_per_dim(denoiser, x_0, **options)


@pytest.mark.parametrize("schedule", [LaplaceSchedule(-2.0, 1.5), CauchySchedule()])
def test_a_chain_begins_where_its_schedule_is_finite(schedule, toy_network):
    denoiser = EpsilonDenoiser(GaussianProcess(schedule, PixelScale(4)), toy_network(), (1, 6, 6))
    x_0 = torch.full((2, 1, 6, 6), 0.25)
    with pytest.raises(ValueError, match=rf"{type(schedule).__name__} has log-SNR .* at t_max = 1\.0, expected at least -100"):
        bits_per_dim(denoiser, x_0)
    assert math.isfinite(bits_per_dim(denoiser, x_0, times=GridTimes(BoundedLogSNRGrid(100, schedule))).value)


@pytest.mark.parametrize(
    ("data", "v", "gap"), [("white", 0.0, 0.5772 / 2), ("white", 1.0, 0.0), ("known", 0.0, 0.0), ("known", 1.0, 0.2114)]
)
def test_uniform_steps_never_are_short_near_the_data(data, v, gap):
    """What docs/mathematics.md says of uniform grids: the gap in nats a dimension of the steps i = 2, 3, .."""
    process = GaussianProcess(LinearSchedule(100_000))
    i = torch.arange(2, 500, dtype=torch.float64)
    t, s = i / 100_000, (i - 1) / 100_000
    error = torch.ones(498, 1, dtype=torch.float64) if data == "white" else torch.zeros(498, 1, dtype=torch.float64)
    limit = (process.schedule.log_snr(s) - process.schedule.log_snr(t)).sum() / 2 if data == "white" else 0.0
    assert (step_divergence(process, error, v, s, t).sum() - limit).item() == pytest.approx(gap, abs=5e-3)
