"""The epsilon reading against its formula, and the Gaussian posterior against torch's normal law."""

from __future__ import annotations

import pytest
import torch

from continuous_diffusion import CosineSchedule, EpsilonDenoiser, EpsilonLoss, GaussianPosterior, GaussianProcess


@pytest.fixture
def process():
    return GaussianProcess(CosineSchedule())


def test_mean_and_noise_agree_with_the_formula(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network().double(), (1, 4, 4))
    x_t = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    t, y = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64), torch.tensor([0, 3, 1])
    posterior = denoiser(x_t, t, y)
    output = denoiser.network(x_t, t, y)
    assert torch.equal(posterior.epsilon, output)
    torch.testing.assert_close(process.perturb(posterior.mean, output, t), x_t)
    torch.testing.assert_close(posterior.var[:, 0, 0, 0], process.schedule(t)[1] ** 2)
    assert posterior.mode() is posterior.mean


def test_clean_data_is_kept_at_time_0(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network(), (1, 4, 4))
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(denoiser(x, torch.tensor(0.0)).mean, x)
    loss = EpsilonLoss()(denoiser, x, torch.zeros(2))
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
    denoiser = EpsilonDenoiser(process, lambda x, c, y=None: x[:, :1], (2, 4))
    with pytest.raises(ValueError, match=r"the network returned shape \(3, 1, 4\), expected \(3, 2, 4\)"):
        denoiser(torch.zeros(3, 2, 4), torch.tensor(0.5))


def test_posterior_is_the_normal_law():
    mean, var = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.25, 4.0]])
    posterior = GaussianPosterior(mean, var, mean)
    x = torch.tensor([[0.1, 2.0]])
    torch.testing.assert_close(posterior.log_prob(x), torch.distributions.Normal(mean, var.sqrt()).log_prob(x))
    many = GaussianPosterior(mean.expand(20_000, 2), var, mean).sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(many.mean(0), mean[0], atol=0.06, rtol=0)
    torch.testing.assert_close(many.var(0), var[0], atol=0, rtol=0.05)
