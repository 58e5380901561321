"""The loss against its formula."""

from __future__ import annotations

import pytest
import torch

from continuous_diffusion import CosineSchedule, EpsilonDenoiser, EpsilonLoss, GaussianProcess
from diffusion_core import PerSampleRandomness, UniformTimes


@pytest.fixture
def process():
    return GaussianProcess(CosineSchedule())


def test_value(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network(), (1, 4, 4))
    x_0, t = torch.rand(5, 1, 4, 4) * 2 - 1, UniformTimes()(5)[0]
    loss = EpsilonLoss()(denoiser, x_0, t, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    alpha, sigma = (value[:, None, None, None] for value in process.schedule(t))
    expected = ((noise - denoiser.network(alpha * x_0 + sigma * noise, t)) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(loss, expected)


def test_labels_and_gradients_reach_the_network(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network(), (1, 4, 4))
    EpsilonLoss()(denoiser, torch.zeros(3, 1, 4, 4), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 1, 2])).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in denoiser.parameters())


def test_keyed_noise_does_not_depend_on_the_batch(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network(), (1, 4, 4))
    x_0, t = torch.rand(6, 1, 4, 4), torch.linspace(0.1, 1, 6)
    whole = EpsilonLoss()(denoiser, x_0, t, generator=PerSampleRandomness.keyed(0, 7, 0, 6))
    part = EpsilonLoss()(denoiser, x_0[4:], t[4:], generator=PerSampleRandomness.keyed(0, 7, 4, 2))
    torch.testing.assert_close(whole[4:], part)


def test_integer_images_are_refused(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network(), (1, 4, 4))
    with pytest.raises(ValueError, match=r"dtype torch.uint8, expected float32 or float64"):
        EpsilonLoss()(denoiser, torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"dtype torch.int64, expected float32 or float64"):
        process.sample(torch.zeros(2, 3, dtype=torch.int64), torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"t = -0.5 is outside \[0, 1\]"):
        process.sample(torch.zeros(2, 3), torch.tensor([-0.5, 0.5]))
