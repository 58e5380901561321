"""The exact denoiser against autograd, Bayes' rule by quadrature, and Monte Carlo."""

from __future__ import annotations

import pytest
import torch

from continuous_diffusion import CosineSchedule, EpsilonLoss, GaussianMixture, GaussianProcess, MixtureDenoiser


@pytest.fixture
def mixture_2d():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.2, 0.5, 0.3]), means, 0.05 + torch.rand(3, 2, 2, generator=generator))


@pytest.mark.parametrize("time", [0.01, 0.4, 0.99])
def test_score_is_the_gradient_and_tweedie_holds(mixture_2d, time):
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture_2d)
    x_t = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    t = torch.full((5,), time, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(denoiser.log_prob(x_t, t).sum(), x_t)
    alpha, sigma = denoiser.process.schedule(t[0])
    posterior = denoiser(x_t, t)
    torch.testing.assert_close(denoiser.score(x_t, t), gradient)
    torch.testing.assert_close(posterior.mean, (x_t + sigma**2 * gradient) / alpha)
    torch.testing.assert_close(posterior.epsilon, -sigma * gradient)
    torch.testing.assert_close(denoiser(x_t, t[0]).var, posterior.var)


def test_moments_by_quadrature(mixture_1d):
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture_1d)
    x_0 = torch.linspace(-4, 4, 8001, dtype=torch.float64)[:, None]
    t = torch.tensor(0.5, dtype=torch.float64)
    alpha, sigma = denoiser.process.schedule(t)
    x_t = torch.tensor([[-1.2], [0.0], [0.7]], dtype=torch.float64)
    prior = mixture_1d.log_prob(x_0).exp()
    joint = prior * torch.exp(-(((x_t - alpha * x_0.T) / sigma) ** 2) / 2)  # (3, grid)
    weight = joint / joint.sum(1, keepdim=True)
    mean = weight @ x_0
    posterior = denoiser(x_t, t)
    assert prior.sum().item() * 0.001 == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(posterior.mean, mean)
    torch.testing.assert_close(posterior.var, (weight * (x_0.T - mean) ** 2).sum(1, keepdim=True))
    density = joint.sum(1) * 0.001 / (sigma * (2 * torch.pi) ** 0.5)
    torch.testing.assert_close(denoiser.log_prob(x_t, t).exp(), density)


def test_limits_and_dtypes(mixture_2d):
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture_2d)
    x = torch.randn(4, 2, 2)
    clean = denoiser(x, torch.tensor(0.0))
    torch.testing.assert_close(clean.mean, x)
    assert clean.mean.dtype == torch.float32
    assert clean.var.abs().max() < 1e-12
    assert clean.epsilon.abs().max() == 0


def test_samples_follow_the_density(mixture_1d):
    x = mixture_1d.sample(20_000, torch.Generator().manual_seed(0))
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    cdf = mixture_1d.log_prob(grid[:, None]).exp().cumsum(0) * 0.001
    empirical = torch.searchsorted(x[:, 0].sort().values, grid, right=True) / 20_000
    assert (cdf - empirical).abs().max() < 1.95 / 20_000**0.5  # Kolmogorov, one in a thousand


def test_the_exact_denoiser_has_the_least_loss(mixture_1d):
    process = GaussianProcess(CosineSchedule())
    denoiser = MixtureDenoiser(process, mixture_1d)
    perturbed = MixtureDenoiser(process, GaussianMixture(mixture_1d.weights, mixture_1d.means * 1.2, mixture_1d.variances))
    x_0 = mixture_1d.sample(4000, torch.Generator().manual_seed(0))
    generators = (torch.Generator().manual_seed(1) for _ in range(2))
    losses = [EpsilonLoss()(d, x_0, torch.tensor(0.4), generator=next(generators)) for d in (denoiser, perturbed)]
    assert losses[0].shape == (4000,)
    assert losses[0].mean() < losses[1].mean()


@pytest.mark.parametrize(
    ("weights", "variances", "message"),
    [
        ([0.5, 0.6], [1.0, 1.0], "expected non-negative numbers of sum 1"),
        ([1.5, -0.5], [1.0, 1.0], "expected non-negative numbers of sum 1"),
        ([0.5, 0.5], [1.0, -1.0], "variances contain -1.0"),
        ([1.0], [1.0, 1.0], r"weights have shape \(1,\), expected \(2,\)"),
        ([0.5, 0.5], [1.0], r"variances have shape \(1,\), expected \(2,\) or \(2, 3\)"),
    ],
)
def test_bad_mixtures(weights, variances, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(torch.tensor(weights), torch.zeros(2, 3), torch.tensor(variances))
