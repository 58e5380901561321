"""The rectified path: its bridge and parameterisations, its differential equation, and its bound, against closed forms."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from continuous_diffusion import (
    DDIM,
    BoundedLogSNRGrid,
    CosineSchedule,
    EpsilonLoss,
    FlowDenoiser,
    FlowMatchingLoss,
    GaussianMixture,
    GaussianProcess,
    Heun,
    KarrasDenoiser,
    LogSNRGrid,
    LogSNRTimes,
    MinSNR,
    MixtureDenoiser,
    RectifiedSchedule,
    VelocityLoss,
    X0Denoiser,
    X0Loss,
    bits_per_dim,
)
from diffusion_core import GridTimes, Sample, StratifiedTimes, UniformGrid

from ..losses import scored
from .paths import VarianceExploding, exact_step, expected_bound, posterior_variance

EVERYWHERE = [0.0, 1e-6, 0.5, 1 - 1e-6, 1.0]


@pytest.fixture
def process():
    return GaussianProcess(RectifiedSchedule())


# The process


def test_log_snr_and_its_inverse():
    t = torch.tensor(EVERYWHERE, dtype=torch.float64)
    with mpmath.workdps(40):
        expected = [float(2 * mpmath.log((1 - mpmath.mpf(u)) / mpmath.mpf(u))) for u in EVERYWHERE[1:-1]]
    assert RectifiedSchedule().log_snr(t).tolist() == pytest.approx([math.inf, *expected, -math.inf], rel=1e-14, abs=1e-15)
    torch.testing.assert_close(RectifiedSchedule().time(RectifiedSchedule().log_snr(t)), t, rtol=1e-14, atol=0)
    inner = t[1:-1]
    torch.testing.assert_close(RectifiedSchedule().log_snr_rate(inner), 2 / (inner * (1 - inner)), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("s", "t"), [(0.0, 1.0), (0.0, 0.4), (0.4, 1.0), (0.2, 0.7), *((t - 1e-9, t) for t in (1e-6, 0.5, 1 - 1e-6, 1.0))]
)
def test_steps_keep_their_digits(process, s, t):
    """As many as the difference of two log-SNRs of their size has in double precision; at the ends all of them."""
    times = torch.tensor([s, t], dtype=torch.float64)
    actual = [process.added_variance(*times), *process.bridge_coefficients(*times)]
    log_snr = process.schedule.log_snr(times)
    finite = log_snr.isfinite().all()
    lost = (1 + log_snr.abs().max()) / (log_snr[0] - log_snr[1]).clamp(max=1) if finite else torch.tensor(1.0)
    expected = exact_step(lambda u: (1 - u, u), s, t)
    assert [value.item() for value in actual] == pytest.approx(expected, rel=20 * 2.2e-16 * lost.item(), abs=0)


def test_noising_on_reaches_the_ends(process, constant_noise):
    x = torch.tensor([[0.7], [-0.3]], dtype=torch.float64)
    for time in EVERYWHERE:
        t = torch.tensor(time, dtype=torch.float64)
        assert torch.equal(process.renoise(x, t, t, constant_noise(1.0)), x)
    s, t = torch.tensor([0.0, 0.4], dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert torch.equal(process.renoise(x, s, t, constant_noise(1.0)), torch.ones_like(x))
    assert process.prior((1,), constant_noise(1.0)).item() == 1


# The parameterisation


def test_the_parameterisation_is_finite_and_exact_at_every_time(process, toy_network):
    x_t = torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(EVERYWHERE, dtype=torch.float64)
    denoiser = FlowDenoiser(process, toy_network().double(), (1, 4, 4))
    posterior, v = denoiser(x_t, t), denoiser.network(x_t, t)
    by_image = t[:, None, None, None]
    torch.testing.assert_close(posterior.mean, x_t - by_image * v, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(posterior.epsilon, x_t + (1 - by_image) * v, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(posterior.epsilon - posterior.mean, v, rtol=1e-13, atol=1e-13)
    c_in, c_skip, c_out, _ = denoiser.coefficients(t)
    assert c_in.tolist() == c_skip.tolist() == [1] * 5
    assert c_out.tolist() == (-t).tolist()


@pytest.mark.parametrize("other", [X0Denoiser, KarrasDenoiser])
def test_other_parameterisations_on_this_path(process, other, toy_network):
    t = torch.tensor([1e-3, 0.5, 1 - 1e-6], dtype=torch.float64)
    x_t = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = other(process, toy_network().double(), (1, 4, 4))(x_t, t)
    two = FlowDenoiser(process, lambda x, c, **cond: one.epsilon - one.mean, (1, 4, 4))(x_t, t)
    torch.testing.assert_close(two.mean, one.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(two.epsilon, one.epsilon, rtol=1e-9, atol=1e-9)


# The loss


@pytest.mark.parametrize("schedule", [RectifiedSchedule(), CosineSchedule(), VarianceExploding()])
def test_the_loss_of_the_exact_velocity_is_the_conditional_variance(schedule, mixture_1d):
    """By quadrature: over x_0 and eps for the loss, over x_t for `E Var[v | x_t] = (1 + alpha / sigma)^2 E Var[x_0 | x_t]`."""
    process = GaussianProcess(schedule)
    x_0 = torch.linspace(-3, 3, 301, dtype=torch.float64)
    epsilon = torch.linspace(-8, 8, 321, dtype=torch.float64)
    density = mixture_1d.log_prob(x_0[:, None]).exp()[:, None] * (-epsilon.square() / 2).exp() / math.sqrt(2 * math.pi)
    pairs = [part.reshape(-1, 1) for part in torch.meshgrid(x_0, epsilon, indexing="ij")]
    for time in (0.1, 0.5, 0.9):
        t = torch.tensor(time, dtype=torch.float64)
        sample = Sample(pairs[0], process.perturb(*pairs, t), t, noise=pairs[1])
        loss = FlowMatchingLoss()(MixtureDenoiser(process, mixture_1d), sample)
        alpha, sigma = schedule(t)
        expected = (1 + alpha / sigma) ** 2 * posterior_variance(mixture_1d, process, t[None])[0]
        integral = (loss * density.flatten()).sum() * (6 / 300) * (16 / 320)
        torch.testing.assert_close(integral, expected, rtol=1e-6, atol=0)


def test_the_loss_is_the_squared_error_of_the_velocity_and_sums_over_dimensions(process, toy_network):
    x_0, t = (
        torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(3, 1, 4, 4),
        torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64),
    )
    denoiser = FlowDenoiser(process, toy_network().double(), (1, 4, 4))
    sample = FlowMatchingLoss().draw(process, x_0, t, torch.Generator().manual_seed(0))
    expected = (sample.noise - x_0 - denoiser.network(sample.x_t, t)).square().sum((1, 2, 3))
    torch.testing.assert_close(FlowMatchingLoss()(denoiser, sample), expected, rtol=1e-12, atol=0)


def test_a_weight_is_one_of_the_clean_data(process, toy_network):
    """Min-SNR says what the squared error of x_0 counts, whatever the target is."""
    x_0, t = (
        torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(3, 1, 4, 4),
        torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64),
    )
    denoiser = FlowDenoiser(process, toy_network().double(), (1, 4, 4))
    losses = [loss(weight=MinSNR(2.0)) for loss in (X0Loss, FlowMatchingLoss, EpsilonLoss)]
    clean, *others = (scored(loss, denoiser, x_0, t, torch.Generator().manual_seed(0)) for loss in losses)
    for other in others:
        torch.testing.assert_close(other, clean, rtol=1e-10, atol=0)
    for loss in losses:  # at the end of the path nothing of the data is left
        assert scored(loss, denoiser, x_0, torch.ones(3), torch.Generator().manual_seed(0)).isfinite().all()
    with pytest.raises(ValueError, match="the schedule is RectifiedSchedule, expected a VariancePreserving one"):
        scored(VelocityLoss(), denoiser, x_0, t)


def test_a_variance_exploding_process_is_sampled():
    """From its own prior, of standard deviation 50, to a Gaussian that is known."""
    law = GaussianMixture(torch.ones(1, dtype=torch.float64), torch.full((1, 1), 2.0), torch.full((1, 1), 0.25))
    exploding = GaussianProcess(VarianceExploding())
    x = Heun(MixtureDenoiser(exploding, law), UniformGrid(60, 1e-3)).sample(4000, generator=torch.Generator().manual_seed(0))
    assert x.mean().item() == pytest.approx(2.0, abs=4 * 0.5 / math.sqrt(4000))
    assert x.std().item() == pytest.approx(0.5, rel=4 / math.sqrt(8000) + 0.01)


# The ordinary differential equation


def test_ddim_is_eulers_method(process, toy_network):
    """`x_s = x_t + (s - t) v`, to rounding, from t = 1 to t = 0: the last step too."""
    network = toy_network().double()
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = UniformGrid(7, 1 / 8, 1.0)
    y = torch.tensor([0, 3, 1])
    sampled = DDIM(FlowDenoiser(process, network, (1, 4, 4)), grid).sample(x, y=y)
    with torch.no_grad():
        for t, s in itertools.pairwise([*grid.times(), 0.0]):
            x = x + (s - t) * network(x, torch.full((3,), t, dtype=torch.float64), y=y)
    torch.testing.assert_close(sampled, x, rtol=1e-13, atol=1e-13)


def quantiles(mixture, u):
    """Where the distribution function of a mixture on the line is u."""
    weights, means, stds = mixture.weights.numpy(), mixture.means[:, 0].numpy(), mixture.variances[:, 0].sqrt().numpy()
    return np.array([brentq(lambda x, p=p: weights @ norm.cdf((x - means) / stds) - p, -20, 20, xtol=1e-13) for p in u])


@pytest.mark.parametrize(("sampler", "order"), [(DDIM, 1), (Heun, 2)])
def test_the_law_converges_to_the_data(process, sampler, order, mixture_1d):
    """On the line the exact map takes quantiles of N(0, 1) to quantiles of the data: Wasserstein-1 and largest error."""
    u = (np.arange(400) + 0.5) / 400
    x_1, exact = torch.from_numpy(norm.ppf(u))[:, None], quantiles(mixture_1d, u)
    steps = [16, 32, 64, 128, 256]
    errors = []
    for n in steps:
        walker = sampler(MixtureDenoiser(process, mixture_1d), UniformGrid(n - 1, 1 / n, 1.0))
        difference = np.abs(walker.sample(x_1)[:, 0].numpy() - exact)
        errors.append([difference.mean(), difference.max()])
    slopes = -np.polyfit(np.log(steps), np.log(np.array(errors)), 1)[0]
    assert slopes.tolist() == pytest.approx([order, order], abs=0.15)
    assert errors[-1][0] < 0.01


# The bound


@pytest.mark.parametrize("components", [1, 2])
def test_the_exact_bound_falls_to_the_entropy(components, process, mixture_1d):
    single = GaussianMixture(torch.ones(1), torch.tensor([[0.4]]), torch.tensor([0.09]))
    mixture = single if components == 1 else mixture_1d
    counts = [8, 16, 32, 64, 128, 256]
    bounds = [expected_bound(mixture, process, LogSNRGrid(n, 0.002, 0.998, RectifiedSchedule()).times(), 0.0) for n in counts]
    gaps = [bound - mixture.entropy() for bound in bounds]
    assert all(0 < after < before for before, after in itertools.pairwise(gaps))
    assert gaps[-2] / gaps[-1] == pytest.approx(2, abs=0.15), "the gap falls as 1 / T"
    first, second = (2 * after - before for before, after in itertools.pairwise(bounds[-3:]))
    assert (4 * second - first) / 3 == pytest.approx(mixture.entropy(), abs=2e-3), "extrapolated to infinitely many steps"


def test_the_estimate_is_the_entropy(process, mixture_1d):
    """With a density of times up to t = 1, where log-SNR is infinite, and with one over log-SNR."""
    denoiser = MixtureDenoiser(process, mixture_1d)
    x_0 = mixture_1d.sample(4000, torch.Generator().manual_seed(0))
    sample = -mixture_1d.log_prob(x_0).mean().item() / math.log(2)  # what these examples say of the entropy
    for times in (StratifiedTimes(0.002, 1.0), LogSNRTimes(RectifiedSchedule(), t_min=0.002)):
        generator = torch.Generator().manual_seed(1)
        bound = bits_per_dim(denoiser, x_0, times=times, draws=40, batch_size=40_000, generator=generator)
        assert bound.standard_error < 0.1
        assert abs(bound.value - sample) < 4 * bound.standard_error + 0.02


def test_a_chain_begins_where_log_snr_is_finite(process, mixture_1d):
    denoiser, x_0 = MixtureDenoiser(process, mixture_1d), torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"RectifiedSchedule has log-SNR -inf at t_max = 1\.0, expected at least -100"):
        bits_per_dim(denoiser, x_0)
    chain = GridTimes(BoundedLogSNRGrid(100, RectifiedSchedule()))
    assert math.isfinite(bits_per_dim(denoiser, x_0, times=chain).value)
