"""Every preset builds its objects at full size, and samples with every sampler of its engine."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from ctdiff import config as configuration
from ctdiff import cost, recipe
from ctdiff.config import ConfigError
from ctdiff.data import ImageData

from ...losses import losses_of
from ..small import LARGE, small
from .parts import denoiser_of, draw, images_of

PRESETS = configuration.preset_names()
SHORT = ("mnist", "mnist_completion", "mnist_ddpm", "mnist_iddpm")  # for trainings of a few minutes
PUBLISHED = {"cifar10_unet": 35_746_307, "cifar10_ddpm": 35_746_307, "cifar10_uvit": 44_255_328}


@cache
def estimated(preset):
    return cost.estimate(configuration.load(preset))


@pytest.mark.parametrize("preset", PRESETS)
def test_full_size_presets_build_and_have_a_cost(preset):
    estimate = estimated(preset)
    assert estimate.parameters == PUBLISHED.get(preset, estimate.parameters)
    lower, upper = (3e7, 6e7) if preset in LARGE else (6e5, 8e5) if preset in SHORT else (1.4e6, 2.1e6)
    assert lower < estimate.parameters < upper
    assert 3e7 < estimate.multiply_accumulates < (2e10 if preset in LARGE else 5e7 if preset in SHORT else 2e8)
    assert estimate.training_bytes > 20 * estimate.parameters
    assert f"{estimate.parameters:,}" in str(estimate)


@pytest.mark.parametrize("preset", LARGE)
def test_a_check_draws_no_weights(preset):
    before = torch.get_rng_state()
    shapes = recipe.build_shapes(configuration.load(preset))
    assert {parameter.device.type for parameter in shapes.parameters()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)


def test_the_families_are_of_equal_size():
    networks = ("unet", "uvit", "dit", "diffit", "ssm", "convnext")
    for name in (*(f"mnist_{network}" for network in networks), "fashion_unet", "fashion_dit"):
        assert estimated(name).parameters == pytest.approx(2e6, rel=0.02)


@pytest.mark.parametrize("preset", sorted({*LARGE} - {"cifar10_ddpm"}))  # which differs from cifar10_unet in its sampler
def test_large_presets_take_a_step_on_generated_images(preset):
    config = configuration.load(preset)
    config.training.batch_size = 1
    network = recipe.build_network(config)
    denoiser = recipe.build_denoiser(config, recipe.build_process(config), network)
    images = ImageData(images_of(config).images[:1], None, config.data.num_values)
    x_0, cond = recipe.build_batches(config, images)[0]
    loss = losses_of(recipe.build_objective(config, denoiser), x_0, **cond).mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    sampler = recipe.build_sampler(config, denoiser.eval())
    assert sampler.grid.steps == (100 if config.process.engine == "gaussian" else 1000)
    t, s = torch.tensor(sampler.grid.times()[:2], dtype=torch.float64)
    with torch.no_grad():
        assert sampler.step(sampler.start(1, seeds=[0]), t, s).x.shape == x_0.shape


EVERY_SAMPLER = [(preset, name) for preset in PRESETS for name in recipe.samplers_of(configuration.load(preset).process.engine)]
EVERY_SAMPLER.remove(("mnist_absorbing", "midpoint_tau_leaping"))


def test_a_sampler_that_adds_displacements_refuses_a_mask():
    with pytest.raises(
        ConfigError, match=r"config\.sampler\.midpoint_tau_leaping: num_states = \d+ and data_states = \d+, expected"
    ):
        small("mnist_absorbing", sampler__name="midpoint_tau_leaping")


@cache
def small_denoiser(preset):
    return denoiser_of(small(preset))


@pytest.mark.parametrize(("preset", "name"), EVERY_SAMPLER)
def test_every_preset_samples_with_every_sampler_it_may_choose(preset, name):
    config, denoiser = small(preset, sampler__name=name), small_denoiser(preset)
    draw(config, denoiser=denoiser)
    if config.process.engine == "discrete":
        draw(config, denoiser=denoiser, corrector__name="forward_backward")
