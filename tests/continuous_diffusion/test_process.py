"""The forward process against its law, the bridge against Bayes' rule, and the pixel codec."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import norm

from continuous_diffusion import (
    CauchySchedule,
    CosineSchedule,
    GaussianProcess,
    LaplaceSchedule,
    LinearSchedule,
    QuadraticSchedule,
    SigmoidSchedule,
)
from continuous_diffusion import PixelScale as Scale
from diffusion_core import PerSampleRandomness

from .paths import VarianceExploding, exact_step


@pytest.fixture
def process():
    return GaussianProcess(CosineSchedule())


def test_sample_has_the_stated_moments(process):
    x_0 = torch.tensor([0.7, -0.3], dtype=torch.float64).repeat(50_000, 1)
    t = torch.tensor(0.4, dtype=torch.float64)
    x_t = process.sample(x_0, t, torch.Generator().manual_seed(0))
    alpha, sigma = process.schedule(t)
    assert x_t.mean(0).tolist() == pytest.approx((alpha * x_0[0]).tolist(), abs=4 * sigma.item() / 50_000**0.5)
    assert x_t.std(0).tolist() == pytest.approx([sigma.item()] * 2, rel=0.02)


def test_times_are_per_example_and_noise_is_recovered(process):
    x_0, epsilon = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.1, 0.5, 1.0])
    x_t = process.perturb(x_0, epsilon, t)
    for i in range(3):
        torch.testing.assert_close(x_t[i : i + 1], process.perturb(x_0[i : i + 1], epsilon[i : i + 1], t[i]))
    assert x_t.dtype == torch.float64
    torch.testing.assert_close(process.epsilon(x_0, x_t, t), epsilon)
    torch.testing.assert_close(
        process.sample(x_0, t, PerSampleRandomness([1, 2, 3]))[1:2], process.sample(x_0[1:2], t[1], PerSampleRandomness([2]))
    )


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
@pytest.mark.parametrize(("s", "t"), [(0.2, 0.7), (0.999, 1.0), (0.001, 0.002), (0.0, 0.3)])
def test_bridge_is_bayes_rule(schedule, s, t):
    """The product of q(x_t | x_s) and q(x_s | x_0) as functions of x_s, by precisions."""
    s, t = (torch.tensor(value, dtype=torch.float64) for value in (s, t))
    (alpha_s, sigma_s), (alpha_t, _) = schedule(s), schedule(t)
    ratio = alpha_t / alpha_s
    beta = 1 - ratio**2
    if sigma_s == 0:
        expected = (torch.ones_like(s), torch.zeros_like(s), torch.zeros_like(s))
    else:
        var = 1 / (1 / sigma_s**2 + ratio**2 / beta)
        expected = (var * alpha_s / sigma_s**2, var * ratio / beta, var)
    actual = GaussianProcess(schedule).bridge_coefficients(s, t)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-15)


def test_bridge_and_marginal_compose(process):
    """Noising to t and coming back to s along the bridge is noising to s."""
    x_0 = torch.full((50_000, 1), 0.7, dtype=torch.float64)
    s, t = (torch.tensor(value, dtype=torch.float64) for value in (0.3, 0.6))
    generator = torch.Generator().manual_seed(3)
    x_s = process.bridge(x_0, process.sample(x_0, t, generator), s, t, generator)
    alpha, sigma = process.schedule(s)
    assert x_s.mean().item() == pytest.approx(0.7 * alpha.item(), abs=4 * sigma.item() / 50_000**0.5)
    assert x_s.std().item() == pytest.approx(sigma.item(), rel=0.02)


def test_prior(process):
    draws = process.prior((1000, 5), torch.Generator().manual_seed(0))
    assert draws.dtype == torch.float32
    assert draws.std().item() == pytest.approx(1, abs=0.04)
    assert process.double().prior((2, 3)).dtype == torch.float64
    assert process.half().prior((2, 3)).dtype == torch.float32
    assert not process.state_dict()


def preserving(log_abar):
    def marginal(t):
        return mpmath.sqrt(mpmath.exp(log_abar(t))), mpmath.sqrt(-mpmath.expm1(log_abar(t)))

    return marginal


def linear_log_abar(t):
    """The table's straight line in which t is, in many digits."""
    table = [0.0, *np.cumsum(np.log1p(-LinearSchedule().betas()))]
    row = min(int(t * 1000), 999)
    return table[row] + (t * 1000 - row) * (mpmath.mpf(table[row + 1]) - table[row])


MARGINALS = [
    (LinearSchedule(), preserving(linear_log_abar)),
    (SigmoidSchedule(), preserving(lambda t: -mpmath.log1p(mpmath.exp(20 * t - 10)))),
    (VarianceExploding(), lambda t: (mpmath.mpf(1), mpmath.mpf(0.01) * mpmath.mpf(5000) ** t)),
]
STEPS = [
    (1e-6 - 1e-9, 1e-6),
    (1e-9, 1e-6),
    (1e-6, 1.0),
    (0.5 - 1e-9, 0.5),
    (0.2, 0.7),
    (1 - 1e-6 - 1e-9, 1 - 1e-6),
    (1 - 1e-9, 1.0),
]


@pytest.mark.parametrize(("schedule", "marginal"), MARGINALS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(("s", "t"), STEPS)
def test_steps_keep_their_digits(schedule, marginal, s, t):
    """As many as the difference of two log-SNRs of their size has in double precision."""
    process, times = GaussianProcess(schedule), torch.tensor([s, t], dtype=torch.float64)
    actual = [process.added_variance(*times), *process.bridge_coefficients(*times)]
    log_snr = schedule.log_snr(times)
    lost = (1 + log_snr.abs().max()) / (log_snr[0] - log_snr[1]).clamp(max=1)
    expected = exact_step(marginal, s, t)
    assert [value.item() for value in actual] == pytest.approx(expected, rel=20 * 2.2e-16 * lost.item(), abs=0)


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule(), QuadraticSchedule(), LaplaceSchedule()])
def test_where_the_variance_is_preserved_beta_is_that_of_abar(schedule):
    t = torch.linspace(0.001, 0.999, 400, dtype=torch.float64)
    log_abar, process = schedule.log_abar(t), GaussianProcess(schedule)
    beta = -torch.expm1(log_abar[1:] - log_abar[:-1])
    torch.testing.assert_close(process.added_variance(t[:-1], t[1:]), beta, rtol=1e-11, atol=0)
    _, _, var = process.bridge_coefficients(t[:-1], t[1:])
    torch.testing.assert_close(var, beta * torch.expm1(log_abar[:-1]) / torch.expm1(log_abar[1:]), rtol=1e-11, atol=0)


@pytest.mark.parametrize("schedule", [LinearSchedule(), LaplaceSchedule(), CauchySchedule(), VarianceExploding()])
def test_no_step_at_all_changes_nothing(schedule):
    """At both ends too, where the log-SNR may be infinite."""
    x = torch.tensor([[0.7], [-0.3], [1.1]], dtype=torch.float64)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    process = GaussianProcess(schedule)
    assert torch.equal(process.renoise(x, t, t, torch.Generator().manual_seed(0)), x)
    assert process.added_variance(t, t).tolist() == [0, 0, 0]


def test_variance_exploding(constant_noise):
    """Noising by way of s is noising to t at once; the prior has the variance of x_1."""
    process = GaussianProcess(VarianceExploding())
    s, t = torch.tensor([0.0, 0.3]), torch.tensor([0.4, 1.0])
    x_s = torch.tensor([[0.7], [-0.3]], dtype=torch.float64)
    noise_alone = process.renoise(0 * x_s, s, t, constant_noise(1.0))[:, 0]
    assert torch.equal(process.renoise(x_s, s, t, constant_noise(0.0)), x_s)
    through = noise_alone.square() + process.schedule(s.double())[1].square()
    torch.testing.assert_close(through, process.schedule(t.double())[1].square())
    assert process.double().prior((1,), constant_noise(1.0)).item() == pytest.approx(math.sqrt(1 + 50**2))


@pytest.mark.parametrize("num_values", [2, 3, 16, 255, 256])
def test_pixel_scale_round_trip(num_values):
    scale, k = Scale(num_values), torch.arange(num_values)
    x = scale.encode(k)
    expected = [-1 + (2 * i + 1) / num_values for i in range(num_values)]
    assert x.tolist() == pytest.approx(expected, abs=1e-6)
    for shift in (0, 0.999 / num_values, -0.999 / num_values):
        assert torch.equal(scale.decode(x.double() + shift), k)
    assert scale.decode(torch.tensor([-9.0, 9.0, 1.0])).tolist() == [0, num_values - 1, num_values - 1]
    assert torch.equal(scale.decode(scale.encode(k.clamp(max=255).to(torch.uint8))), k)


def test_bad_pixels():
    with pytest.raises(ValueError, match="num_values = 1, expected an integer of at least 2"):
        Scale(1)
    with pytest.raises(ValueError, match=r"dtype torch.float32, expected integers 0 \.\. 3"):
        Scale(4).encode(torch.rand(2, 2))
    with pytest.raises(ValueError, match=r"pixel 4 is outside 0 \.\. 3"):
        Scale(4).encode(torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=r"dtype torch.int64, expected float32 or float64"):
        Scale(4).decode(torch.tensor([0, 3]))


@pytest.mark.parametrize("num_values", [2, 3, 16, 256])
@pytest.mark.parametrize("std", [1e-3, 0.02, 1.0, 5.0])
def test_bin_masses_are_a_law_and_scipys(num_values, std):
    scale = Scale(num_values)
    x = scale.encode(torch.arange(num_values)).double()
    for mean in (-1.3, -0.25, 0.0, 0.9):
        log_mass = scale.log_mass(x, torch.full_like(x, mean), torch.full_like(x, 2 * math.log(std)))
        assert log_mass.exp().sum().item() == pytest.approx(1, abs=1e-12)
        edges = np.linspace(-1, 1, num_values + 1)
        edges[0], edges[-1] = -np.inf, np.inf
        expected = np.diff(norm(mean, std).cdf(edges))  # loses its digits in the tails, which is why ours is not written so
        np.testing.assert_allclose(log_mass.exp().numpy(), expected, rtol=1e-6, atol=1e-14)


def test_far_bins_have_finite_masses_and_gradients():
    x = Scale(256).encode(torch.tensor([0, 7, 128, 255])).double()
    mean = torch.tensor([1.0, 1.0, -1.0, 0.9], dtype=torch.float64, requires_grad=True)
    log_var = torch.full((4,), 2 * math.log(0.005), dtype=torch.float64, requires_grad=True)
    log_mass = Scale(256).log_mass(x, mean, log_var)
    edges = [(-1 + 2 / 256 - 1) / 0.005, (x[1].item() + 1 / 256 - 1) / 0.005, -(x[2].item() - 1 / 256 + 1) / 0.005]
    assert log_mass[:3].tolist() == pytest.approx([norm.logcdf(edge) for edge in edges], rel=1e-4)
    log_mass.sum().backward()
    assert mean.grad.isfinite().all()
    assert log_var.grad.isfinite().all()
    assert Scale(4).log_mass(x[:1], x[:1], torch.tensor(-math.inf)).item() == 0


def test_reals_that_are_no_pixels_are_named():
    Scale(256).check(Scale(256).encode(torch.arange(256)))
    with pytest.raises(ValueError, match=r"x_0 contains -1.25, which is not in \[-1, 1\]"):
        Scale(256).check(torch.tensor([0.00390625, -1.25]))
    with pytest.raises(ValueError, match="x_0 contains 0, which is not the centre of a bin"):
        Scale(256).check(torch.zeros(1))
