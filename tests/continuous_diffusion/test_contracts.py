"""Every schedule, loss, denoiser and sampler of the package keeps its contract, on this device and on a GPU that is not there.

The classes are found by walking subclasses, so a new one is tested without editing this file.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
import torch

import continuous_diffusion
from continuous_diffusion import (
    CosineSchedule,
    GaussianMixture,
    GaussianProcess,
    LearnedVarianceDenoiser,
    MixtureDenoiser,
    PixelScale,
    ReverseVariance,
    VariancePreserving,
)
from diffusion_core import Denoiser, Loss, Objective, Process, Sampler, Schedule, StratifiedTimes, UniformGrid

from ..devices import ABSENT, fake_tensors
from ..losses import losses_of, scored

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
NETWORKS, VARIANCES = concrete(continuous_diffusion.Denoiser), concrete(ReverseVariance)


@pytest.mark.parametrize(
    ("base", "count"),
    [
        (Schedule, 7),
        (VariancePreserving, 7),
        (Loss, 6),
        (Sampler, 2),
        (Denoiser, 6),
        (Process, 1),
        (ReverseVariance, 2),
        (continuous_diffusion.Denoiser, 4),
    ],
)
def test_minimum_counts(base, count):
    assert len(concrete(base)) >= count
    assert all(child.__name__ in continuous_diffusion.__all__ for child in concrete(base))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule):
    t = torch.linspace(0.001, 0.999, 499, dtype=torch.float64)
    alpha, sigma = schedule()(t)
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() >= 0).all()
    log_snr = schedule().log_snr(t)
    assert (log_snr.diff() < 0).all()
    seen = log_snr.abs() < 30  # beyond, 1 - alpha^2 rounds to 1 or to 0
    torch.testing.assert_close(log_snr[seen], 2 * (alpha / sigma).log()[seen], rtol=1e-4, atol=1e-10)
    if issubclass(schedule, VariancePreserving):
        torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(t))
        torch.testing.assert_close(schedule().log_abar(t), torch.nn.functional.logsigmoid(log_snr))
    torch.testing.assert_close(schedule().time(log_snr), t, rtol=1e-9, atol=0)
    assert schedule().log_snr(t.float()).dtype == torch.float32
    assert [part.isfinite().all().item() for part in schedule()(torch.tensor([0.0, 1.0]))] == [True, True]
    with pytest.raises(AttributeError):
        schedule().T = 5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_are_derivatives(schedule):
    t = torch.linspace(0.0005, 0.9985, 300, dtype=torch.float64)  # between the knots of the tables
    h = 1e-6
    slope = (schedule().log_snr(t - h) - schedule().log_snr(t + h)) / (2 * h)
    torch.testing.assert_close(schedule().log_snr_rate(t), slope, rtol=1e-4, atol=0)


def image_denoiser(parameterisation, toy_network, learns_variance=False, num_values=16):
    process = GaussianProcess(CosineSchedule(), PixelScale(num_values))
    return build_denoiser(parameterisation, process, toy_network(1 + learns_variance), learns_variance)


def build_denoiser(parameterisation, process, network, learns_variance=False):
    denoiser = parameterisation(process, network, (1, 6, 6))
    return LearnedVarianceDenoiser(denoiser) if learns_variance else denoiser


def times_for(loss):
    """The times that a loss is trained at: a sum over the steps of a chain needs all of them, down to the data."""
    return StratifiedTimes(0.0 if loss in (continuous_diffusion.VLB, continuous_diffusion.HybridLoss) else 0.01)


@pytest.mark.parametrize("num_values", [2, 3, 16])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("parameterisation", NETWORKS)
def test_losses(loss, parameterisation, num_values, toy_network):
    denoiser = image_denoiser(parameterisation, toy_network, loss is continuous_diffusion.HybridLoss, num_values)
    x_0 = PixelScale(num_values).encode(torch.randint(num_values, (5, 1, 6, 6)))
    t, y = torch.linspace(0.01, 1, 5), torch.arange(5) % 4
    values = scored(loss(), denoiser, x_0, t, torch.Generator().manual_seed(0), y=y)
    assert values.shape == (5,)
    values.sum().backward()
    assert all(p.grad.isfinite().all() for p in denoiser.parameters())
    assert losses_of(Objective(denoiser, loss(), times_for(loss)), x_0).shape == (5,)


@pytest.mark.parametrize("num_values", [2, 3, 16])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("parameterisation", NETWORKS)
def test_samplers(sampler, parameterisation, num_values, toy_network):
    walker = sampler(image_denoiser(parameterisation, toy_network, num_values=num_values), UniformGrid(3), clip=1.0)
    one, other = (walker.sample(4, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (4, 1, 6, 6)
    assert one.abs().max() <= 1
    assert PixelScale(num_values).decode(one).max() < num_values
    assert not one.requires_grad


@pytest.mark.parametrize("num_values", [2, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_draw_pixels_by_their_law(sampler, num_values):
    """Data on the centres of few bins: the exact denoiser leads back to their weights, and to nothing between them."""
    scale, weights = PixelScale(num_values), torch.tensor([0.7, 0.2, 0.1])[:num_values]
    law = weights / weights.sum()
    mixture = GaussianMixture(law, scale.encode(torch.arange(num_values))[:, None], torch.zeros(num_values))
    grid = continuous_diffusion.LogSNRGrid(100, 1e-3, 1.0)
    x_0 = sampler(MixtureDenoiser(GaussianProcess(CosineSchedule(), scale), mixture), grid).sample(
        8000, generator=torch.Generator().manual_seed(0)
    )
    k = scale.decode(x_0)
    assert (x_0 - scale.encode(k)).abs().max() < 1e-3
    assert (torch.bincount(k[:, 0], minlength=num_values) / 8000 - law).abs().max() < 0.025


class TestOnAGpu:
    """Under fake tensors on a device this machine need not have: wrong devices and hidden reads of values fail."""

    @pytest.fixture(autouse=True)
    def fake(self):
        with fake_tensors():
            yield

    def denoisers(self, toy_network):
        with torch.device(ABSENT):
            process = GaussianProcess(CosineSchedule(), PixelScale(256))
            mixture = GaussianMixture(torch.ones(2), torch.zeros(2, 1, 6, 6), torch.ones(2))
            build = type(toy_network())
            parameterisations = [parameterisation(process, build(), (1, 6, 6)) for parameterisation in NETWORKS]
            learned = build_denoiser(NETWORKS[0], process, build(1, 2), learns_variance=True)
            return [*parameterisations, learned, MixtureDenoiser(process, mixture)]

    @pytest.mark.parametrize("loss", LOSSES)
    def test_losses(self, loss, toy_network):
        for denoiser in self.denoisers(toy_network):
            if denoiser.learns_variance and not loss.teaches_variance:
                continue
            if loss is continuous_diffusion.HybridLoss and not denoiser.learns_variance:
                continue
            x_0 = torch.rand(4, 1, 6, 6, device=ABSENT)
            values = losses_of(
                Objective(denoiser, loss(), times_for(loss)), x_0, y=torch.zeros(4, dtype=torch.int64, device=ABSENT)
            )
            assert (values.shape, values.device.type) == ((4,), ABSENT)

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_samplers(self, sampler, toy_network):
        for denoiser in self.denoisers(toy_network)[-3:]:  # a plain one, one with a learned variance, and the exact one
            for options in ({}, {"clip": 1.0}, {"eta": 0.5}, *({"variance": variance()} for variance in VARIANCES)):
                if "variance" in options and options["variance"].learned and not denoiser.learns_variance:
                    continue
                missing = getattr(options.get("variance"), "learned", False) and not denoiser.learns_variance
                if not missing and set(options) <= set(inspect.signature(sampler).parameters):
                    x = sampler(denoiser, UniformGrid(2), **options).sample(3)
                    assert (x.shape, x.dtype, x.device.type) == ((3, 1, 6, 6), torch.float32, ABSENT)

    def test_process_and_pixels(self, toy_network):
        process = self.denoisers(toy_network)[0].process
        scale = continuous_diffusion.PixelScale(256)
        x_0 = scale.encode(torch.zeros(2, 3, dtype=torch.uint8, device=ABSENT))
        t = torch.rand(2, device=ABSENT)
        x_t = process.sample(x_0, t)
        x_s = process.bridge(x_0, x_t, t / 2, t)
        assert scale.decode(process.epsilon(x_0, x_s, t / 2)).device.type == ABSENT
