"""Every parameterisation against its formula and against the others, and the Gaussian posterior against torch's normal law."""

from __future__ import annotations

import pytest
import torch

from continuous_diffusion import (
    CosineSchedule,
    EpsilonDenoiser,
    EpsilonLoss,
    GaussianProcess,
    KarrasDenoiser,
    LaplaceSchedule,
    LearnedVarianceDenoiser,
    LinearSchedule,
    Posterior,
    VelocityDenoiser,
    X0Denoiser,
)

from ..losses import scored
from .paths import VarianceExploding


@pytest.fixture
def process():
    return GaussianProcess(CosineSchedule())


def test_mean_and_noise_agree_with_the_formula(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network().double(), (1, 4, 4))
    x_t = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    t, y = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64), torch.tensor([0, 3, 1])
    posterior = denoiser(x_t, t, y=y)
    output = denoiser.network(x_t, t, y=y)
    assert torch.equal(posterior.epsilon, output)
    torch.testing.assert_close(process.perturb(posterior.mean, output, t), x_t)
    torch.testing.assert_close(posterior.var[:, 0, 0, 0], process.schedule(t)[1] ** 2)
    assert posterior.mode() is posterior.mean


def test_clean_data_is_kept_at_time_0(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network(), (1, 4, 4))
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(denoiser(x, torch.tensor(0.0)).mean, x)
    loss = scored(EpsilonLoss(), denoiser, x, torch.zeros(2))
    assert loss.isfinite().all()


def test_half_networks_and_float64_times(process):
    seen = []

    def network(x, c, y=None):
        seen.append((x.dtype, c.dtype, c.shape))
        return x.bfloat16()

    posterior = EpsilonDenoiser(process, network, (2,))(torch.randn(3, 2), torch.tensor(0.5, dtype=torch.float64))
    assert seen == [(torch.float32, torch.float32, (3,))]
    assert posterior.mean.dtype == posterior.var.dtype == posterior.epsilon.dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (torch.zeros(2, 1, 4, 5), torch.tensor(0.5), r"x has shape \(2, 1, 4, 5\), expected \(B, 1, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.int64), torch.tensor(0.5), r"torch.int64, expected float32 or float64"),
        (torch.zeros(2, 1, 4, 4), torch.tensor([0.5] * 3), r"t has shape \(3,\), expected \(\) or \(2,\)"),
        (torch.zeros(2, 1, 4, 4), torch.tensor(1.5), r"t = 1.5 is outside \[0, 1\]"),
        (torch.zeros(2, 1, 4, 4), torch.tensor(float("nan")), r"t = nan is outside \[0, 1\]"),
        (torch.zeros(2, 1, 4, 4), torch.tensor(1), r"t has dtype torch.int64"),
    ],
)
def test_bad_input(process, toy_network, x, t, message):
    with pytest.raises(ValueError, match=message):
        EpsilonDenoiser(process, toy_network(), (1, 4, 4))(x, t)


def test_wrong_network(process):
    denoiser = EpsilonDenoiser(process, lambda x, c, **cond: x[:, :1], (2, 4))
    with pytest.raises(ValueError, match=r"the network returned shape \(3, 1, 4\), expected \(3, 2, 4\)"):
        denoiser(torch.zeros(3, 2, 4), torch.tensor(0.5))


def test_posterior_is_the_normal_law():
    mean, var = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.25, 4.0]])
    process = GaussianProcess(CosineSchedule())
    posterior = Posterior(process, torch.tensor(0.5), mean, mean, var)
    x = torch.tensor([[0.1, 2.0]])
    torch.testing.assert_close(posterior.log_prob(x), torch.distributions.Normal(mean, var.sqrt()).log_prob(x))
    many = Posterior(process, torch.tensor(0.5), mean.expand(20_000, 2), mean, var).sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(many.mean(0), mean[0], atol=0.06, rtol=0)
    torch.testing.assert_close(many.var(0), var[0], atol=0, rtol=0.05)


# Parameterisations


def outputs_for(parameterisation, posterior, x_t, alpha, sigma, std=0.5):
    """The output of a network of each parameterisation for which x0hat is that of `posterior`: the targets of the papers."""
    mean, epsilon = posterior.mean, posterior.epsilon
    if parameterisation is KarrasDenoiser:  # F = (D - c_skip x) / c_out of EDM: its x is x_t / alpha, its sigma sigma / alpha
        x, noise = x_t / alpha, sigma / alpha
        skip, out = std**2 / (noise**2 + std**2), noise * std / (noise**2 + std**2) ** 0.5
        return (mean - skip * x) / out
    return {EpsilonDenoiser: epsilon, X0Denoiser: mean, VelocityDenoiser: alpha * epsilon - sigma * mean}[parameterisation]


PARAMETERISATIONS = [EpsilonDenoiser, X0Denoiser, VelocityDenoiser, KarrasDenoiser]


@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule(), LaplaceSchedule()])
@pytest.mark.parametrize("first", PARAMETERISATIONS)
@pytest.mark.parametrize("other", PARAMETERISATIONS)
def test_all_parameterisations_give_the_same_clean_data(schedule, first, other, toy_network):
    process = GaussianProcess(schedule)
    x_t = torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.01, 0.1, 0.5, 0.8, 0.97], dtype=torch.float64)
    alpha, sigma = (value[:, None, None, None] for value in schedule(t))
    one = first(process, toy_network().double(), (1, 4, 4))(x_t, t)
    two = other(process, lambda x, c, **cond: outputs_for(other, one, x_t, alpha, sigma), (1, 4, 4))(x_t, t)
    torch.testing.assert_close(two.mean, one.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(two.epsilon, one.epsilon, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(process.perturb(two.mean, two.epsilon, t), x_t, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("first", [EpsilonDenoiser, X0Denoiser, KarrasDenoiser])
@pytest.mark.parametrize("other", [EpsilonDenoiser, X0Denoiser, KarrasDenoiser])
def test_parameterisations_that_hold_where_the_variance_is_not_preserved(first, other, toy_network):
    process = GaussianProcess(VarianceExploding())
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    alpha, sigma = (value[:, None, None, None] for value in process.schedule(t))
    x_t = torch.hypot(alpha, sigma) * torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = first(process, toy_network().double(), (1, 4, 4))(x_t, t)
    two = other(process, lambda x, c, **cond: outputs_for(other, one, x_t, alpha, sigma), (1, 4, 4))(x_t, t)
    torch.testing.assert_close(two.mean, one.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(two.epsilon, one.epsilon, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(process.perturb(two.mean, two.epsilon, t), x_t, rtol=1e-10, atol=1e-10)
    # The exact variance for white data of variance 1: what is left of 1 after the best linear guess.
    torch.testing.assert_close(one.var, (1 - alpha**2 / (alpha**2 + sigma**2)).expand_as(x_t), rtol=1e-10, atol=1e-15)


def test_the_velocity_is_for_schedules_that_preserve_the_variance(toy_network):
    with pytest.raises(TypeError, match="the schedule is VarianceExploding, expected a VariancePreserving one"):
        VelocityDenoiser(GaussianProcess(VarianceExploding()), toy_network(), (1, 4, 4))


@pytest.mark.parametrize("schedule", [CosineSchedule(), VarianceExploding()])
def test_karras_input_and_target_have_variance_1(schedule):
    """For white data of the stated standard deviation, at every noise level."""
    process = GaussianProcess(schedule)
    generator, std = torch.Generator().manual_seed(0), 0.5
    x_0, epsilon = torch.randn(2, 100_000, 1, dtype=torch.float64, generator=generator)
    seen = []

    def network(x, c, **cond):
        seen.append((x, c))
        return x

    for time in (0.02, 0.5, 0.98):
        t = torch.tensor(time, dtype=torch.float64)
        denoiser = KarrasDenoiser(process, network, (1,), std)
        x_t = process.perturb(std * x_0, epsilon, t)
        denoiser(x_t, t)
        _, c_skip, c_out, _ = denoiser.coefficients(t)
        alpha, sigma = process.schedule(t)
        target = (std * x_0 - c_skip * x_t) / c_out
        assert [seen[-1][0].var().item(), target.var().item()] == pytest.approx([1, 1], abs=0.02)
        assert seen[-1][1][0].item() == pytest.approx((sigma / alpha).log().item() / 4)
    with pytest.raises(ValueError, match="std = 0, expected a number above 0"):
        KarrasDenoiser(process, network, (1,), 0)


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_learned_variance(process, parameterisation, toy_network):
    network = toy_network(2)
    denoiser = LearnedVarianceDenoiser(parameterisation(process, network, (1, 4, 4)))
    x_t, t, y = torch.randn(3, 1, 4, 4), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 3, 1])
    posterior = denoiser(x_t, t, y=y)
    plain = parameterisation(process, lambda x, c, **cond: network(x, c, **cond)[:, :1], (1, 4, 4))
    c_in, _, _, c_noise = plain.coefficients(t)
    v = (network(c_in[:, None, None, None] * x_t, c_noise, y=y)[:, 1:] + 1) / 2
    torch.testing.assert_close(posterior.interpolation, v)
    for name in ("mean", "var", "epsilon"):
        torch.testing.assert_close(getattr(posterior, name), getattr(plain(x_t, t, y=y), name))
    assert denoiser.learns_variance
    assert not plain.learns_variance
    assert plain(x_t, t, y=y).interpolation is None
    assert denoiser.network is network
    assert {id(p) for p in denoiser.parameters()} == {id(p) for p in network.parameters()}


def test_a_learned_variance_needs_twice_the_channels(process, toy_network):
    with pytest.raises(ValueError, match=r"returned shape \(2, 1, 4, 4\), expected \(2, 2, 4, 4\): half of the channels"):
        LearnedVarianceDenoiser(EpsilonDenoiser(process, toy_network(), (1, 4, 4)))(torch.zeros(2, 1, 4, 4), torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"returned shape \(2, 2, 4, 4\), expected \(2, 1, 4, 4\)"):
        EpsilonDenoiser(process, toy_network(2), (1, 4, 4))(torch.zeros(2, 1, 4, 4), torch.tensor(0.5))
    with pytest.raises(TypeError, match="mean_denoiser is ToyNetwork, expected a parameterisation"):
        LearnedVarianceDenoiser(toy_network(2))
