"""The exact denoiser against autograd, Bayes' rule by quadrature, and Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad

from continuous_diffusion import CosineSchedule, EpsilonLoss, GaussianMixture, GaussianProcess, MixtureDenoiser

from ..losses import scored


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
    losses = [scored(EpsilonLoss(), d, x_0, torch.tensor(0.4), generator=next(generators)) for d in (denoiser, perturbed)]
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


# Marginals and conditionals of a mixture are mixtures


@pytest.fixture
def labelled():
    """Three components of two classes in the plane."""
    means = torch.tensor([[-0.8, 0.3], [0.4, 0.5], [0.6, -0.7]], dtype=torch.float64)
    variances = torch.tensor([[0.05, 0.2], [0.1, 0.04], [0.08, 0.15]])
    return GaussianMixture(torch.tensor([0.2, 0.5, 0.3]), means, variances, labels=[0, 1, 0])


def test_noised_is_the_marginal(labelled):
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), labelled)
    x_t, t = torch.randn(6, 2), torch.tensor(0.6, dtype=torch.float64)
    noised = labelled.noised(*denoiser.process.schedule(t))
    torch.testing.assert_close(noised.log_prob(x_t), denoiser.log_prob(x_t, t))
    assert noised.labels.tolist() == [0, 1, 0]


def test_entropy(mixture_1d, labelled):
    def integrand(x):
        density = mixture_1d.log_prob(torch.tensor([[x]], dtype=torch.float64)).exp().item()
        return -density * math.log(density)

    assert mixture_1d.entropy() == pytest.approx(quad(integrand, -4, 4, limit=200, epsabs=1e-11)[0], abs=1e-10)
    single = labelled.of_class(1)
    normal = torch.distributions.Normal(0.0, single.variances[0].sqrt())
    assert single.entropy() == pytest.approx(normal.entropy().sum().item(), abs=1e-7)
    twins = GaussianMixture(torch.tensor([0.4, 0.6], dtype=torch.float64), torch.ones(2, 1), torch.tensor([0.3, 0.3]))
    assert twins.entropy() == pytest.approx(twins.of_class(0).entropy(), abs=1e-12)
    apart = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-50.0], [50.0]]), torch.tensor([1e-4, 1e-4]))
    assert apart.entropy() == pytest.approx(apart.of_class(0).entropy() + math.log(2), abs=1e-12)
    with pytest.raises(ValueError, match="3 components in 2 dimensions, expected one component or one dimension"):
        labelled.entropy()
    with pytest.raises(ValueError, match=r"variances contain 0.0, expected positive numbers"):
        GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.zeros(1)).entropy()


def test_conditional_is_bayes_rule(labelled):
    """`p(x^0 | x^1) p(x^1) = p(x)`, with the law of the known dimension by quadrature."""
    grid = torch.linspace(-6, 6, 6001, dtype=torch.float64)
    for seen in (-0.9, 0.2):
        plane = torch.stack((grid, torch.full_like(grid, seen)), 1)
        joint = labelled.log_prob(plane).exp()
        law = labelled.conditional(torch.tensor([99.0, seen]), torch.tensor([False, True]))
        torch.testing.assert_close(law.log_prob(grid[:, None]).exp(), joint / (joint.sum() * 0.002))
    images = GaussianMixture(labelled.weights, labelled.means.reshape(3, 1, 2), labelled.variances.reshape(3, 1, 2))
    assert images.conditional(torch.zeros(1, 2), torch.tensor([[True, False]])).event_shape == (1,)
    nothing = labelled.conditional(torch.zeros(2), torch.tensor([False, False]))
    torch.testing.assert_close(nothing.log_prob(plane), labelled.log_prob(plane))
    with pytest.raises(ValueError, match="every dimension is known"):
        labelled.conditional(torch.zeros(2), torch.tensor([True, True]))
    with pytest.raises(ValueError, match=r"known has shape \(3,\), expected \(2,\)"):
        labelled.conditional(torch.zeros(2), torch.ones(3, dtype=torch.bool))


def test_labels_give_the_exact_conditional_denoiser(labelled):
    """A batch with mixed labels, against the denoisers of the classes' own mixtures; the null class against no label."""
    process = GaussianProcess(CosineSchedule())
    denoiser = MixtureDenoiser(process, labelled)
    assert (denoiser.num_classes, denoiser.learns_variance) == (2, False)
    x_t, y = torch.randn(6, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    t = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    posterior, log_prob, score = denoiser(x_t, t, y=y), denoiser.log_prob(x_t, t, y), denoiser.score(x_t, t, y)
    for label in (0, 1, 2):
        rows = y == label
        alone = MixtureDenoiser(process, labelled if label == 2 else labelled.of_class(label))
        expected = alone(x_t[rows], t[rows])
        for name in ("mean", "var", "epsilon"):
            torch.testing.assert_close(getattr(posterior, name)[rows], getattr(expected, name))
        torch.testing.assert_close(log_prob[rows], alone.log_prob(x_t[rows], t[rows]))
        torch.testing.assert_close(score[rows], alone.score(x_t[rows], t[rows]))


def test_the_exact_classifier_is_bayes_rule(labelled):
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), labelled)
    x_t, t = torch.randn(5, 2, dtype=torch.float64, requires_grad=True), torch.full((5,), 0.3, dtype=torch.float64)
    log_probs = denoiser.class_log_probs(x_t, t)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(5, dtype=torch.float64))
    for label, weight in ((0, 0.5), (1, 0.5)):
        y = torch.full((5,), label)
        expected = math.log(weight) + denoiser.log_prob(x_t, t, y) - denoiser.log_prob(x_t, t)
        torch.testing.assert_close(log_probs[:, label], expected, atol=1e-7, rtol=1e-7)
        (gradient,) = torch.autograd.grad(log_probs[:, label].sum(), x_t, retain_graph=True)
        torch.testing.assert_close(gradient, (denoiser.score(x_t, t, y) - denoiser.score(x_t, t)).detach())


def test_bad_labels(labelled):
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), labelled)
    x_t, t = torch.zeros(2, 2), torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"y contains 3, expected labels 0 \.\. 2, the last one the null class"):
        denoiser(x_t, t, y=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"y has shape \(3,\), expected \(2,\)"):
        denoiser(x_t, t, y=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"label = 5, expected one of \[0, 1\]"):
        labelled.of_class(5)
    for labels in ([0], [0, -1]):
        with pytest.raises(ValueError, match="expected 2 integers of at least 0"):
            GaussianMixture(torch.tensor([0.5, 0.5]), torch.zeros(2, 1), torch.ones(2), labels=labels)
