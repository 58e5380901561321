"""Every schedule, loss, denoiser and sampler of the package keeps its contract, on this device and on a GPU that is not there.

The classes are found by walking subclasses, so a new one is tested without editing this file.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import continuous_diffusion
from continuous_diffusion import (
    CosineSchedule,
    GaussianMixture,
    GaussianProcess,
    MixtureDenoiser,
    ReverseVariance,
)
from continuous_diffusion.denoisers import PreconditionedDenoiser
from diffusion_core import Denoiser, Loss, Objective, Posterior, Process, Sampler, Schedule, StratifiedTimes, UniformGrid

for module in pkgutil.walk_packages(continuous_diffusion.__path__, "continuous_diffusion."):
    importlib.import_module(module.name)


def concrete(base):
    """The instantiable subclasses of `base` that this package defines, however deep."""
    found = {}
    for child in base.__subclasses__():
        found |= {c.__name__: c for c in concrete(child)}
        if child.__module__.startswith("continuous_diffusion") and not inspect.isabstract(child):
            found[child.__name__] = child
    return [found[name] for name in sorted(found)]


SCHEDULES, LOSSES, SAMPLERS = concrete(Schedule), concrete(Loss), concrete(Sampler)
NETWORKS, VARIANCES = concrete(PreconditionedDenoiser), concrete(ReverseVariance)


@pytest.mark.parametrize(
    ("base", "count"),
    [
        (Schedule, 2),
        (Loss, 1),
        (Sampler, 2),
        (Denoiser, 2),
        (Process, 1),
        (Posterior, 1),
        (ReverseVariance, 2),
        (PreconditionedDenoiser, 1),
    ],
)
def test_minimum_counts(base, count):
    assert len(concrete(base)) >= count
    assert all(child.__name__ in continuous_diffusion.__all__ for child in concrete(base))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule):
    t = torch.linspace(0.001, 1, 500, dtype=torch.float64)
    alpha, sigma = schedule()(t)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(t))
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    torch.testing.assert_close(schedule().log_snr(t), 2 * (alpha / sigma).log())
    with pytest.raises(AttributeError):
        schedule().T = 5


def image_denoiser(reading, toy_network):
    return reading(GaussianProcess(CosineSchedule()), toy_network(), (1, 6, 6))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reading", NETWORKS)
def test_losses(loss, reading, toy_network):
    denoiser = image_denoiser(reading, toy_network)
    x_0 = torch.rand(5, 1, 6, 6) * 2 - 1
    t, y = torch.linspace(0.01, 1, 5), torch.arange(5) % 4
    values = loss()(denoiser, x_0, t, y, torch.Generator().manual_seed(0))
    assert values.shape == (5,)
    values.sum().backward()
    assert all(p.grad.isfinite().all() for p in denoiser.parameters())
    assert Objective(denoiser, loss(), StratifiedTimes())(x_0).shape == (5,)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("reading", NETWORKS)
def test_samplers(sampler, reading, toy_network):
    walker = sampler(image_denoiser(reading, toy_network), UniformGrid(3), clip=1.0)
    one, other = (walker.sample(4, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (4, 1, 6, 6)
    assert one.abs().max() <= 1
    assert not one.requires_grad


class TestOnAGpu:
    """Under fake tensors on a device this machine need not have: wrong devices and hidden reads of values fail."""

    @pytest.fixture(autouse=True)
    def fake(self):
        with FakeTensorMode():
            yield

    def denoisers(self, toy_network):
        with torch.device("cuda"):
            process = GaussianProcess(CosineSchedule())
            mixture = GaussianMixture(torch.ones(2), torch.zeros(2, 1, 6, 6), torch.ones(2))
            build = type(toy_network())
            readings = [reading(process, build(), (1, 6, 6)) for reading in NETWORKS]
            return [*readings, MixtureDenoiser(process, mixture)]

    @pytest.mark.parametrize("loss", LOSSES)
    def test_losses(self, loss, toy_network):
        for denoiser in self.denoisers(toy_network):
            x_0 = torch.rand(4, 1, 6, 6, device="cuda")
            values = Objective(denoiser, loss(), StratifiedTimes())(x_0, torch.zeros(4, dtype=torch.int64, device="cuda"))
            assert (values.shape, values.device.type) == ((4,), "cuda")

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_samplers(self, sampler, toy_network):
        for denoiser in self.denoisers(toy_network):
            for options in ({}, {"clip": 1.0}, {"eta": 0.5}, *({"variance": variance()} for variance in VARIANCES)):
                if set(options) <= set(inspect.signature(sampler).parameters):
                    x = sampler(denoiser, UniformGrid(2), **options).sample(3)
                    assert (x.shape, x.dtype, x.device.type) == ((3, 1, 6, 6), torch.float32, "cuda")

    def test_process_and_pixels(self, toy_network):
        process = self.denoisers(toy_network)[0].process
        scale = continuous_diffusion.PixelScale(256)
        x_0 = scale.encode(torch.zeros(2, 3, dtype=torch.uint8, device="cuda"))
        t = torch.rand(2, device="cuda")
        x_t = process.sample(x_0, t)
        x_s = process.bridge(x_0, x_t, t / 2, t)
        assert scale.decode(process.epsilon(x_0, x_s, t / 2)).device.type == "cuda"
