"""The parts of a configuration at work: images of its kind, a training step, samples."""

from __future__ import annotations

import torch

from ctdiff import config as configuration
from ctdiff import recipe
from ctdiff.data import ImageData
from diffusion_core import (
    PerSampleRandomness,
)

from ...losses import losses_of

__all__ = ["denoiser_of", "draw", "images_of", "step"]


def images_of(config):
    """Random images of the configuration's kind."""
    generator = torch.Generator().manual_seed(0)
    shape = (12, *recipe.event_shape(config))
    images = torch.randint(config.data.num_values, shape, generator=generator, dtype=torch.uint8)
    return ImageData(images, torch.arange(12) % 10, config.data.num_values)


def denoiser_of(config):
    return recipe.build_denoiser(config, recipe.build_process(config), recipe.build_network(config))


def step(config, denoiser=None):
    """One evaluation of the objective with its gradient, of a new denoiser if none is given; returns the losses."""
    torch.manual_seed(0)
    denoiser = denoiser or denoiser_of(config)
    objective = recipe.build_objective(config, denoiser)
    x_0, cond = recipe.build_batches(config, images_of(config))[0]
    loss = losses_of(objective, x_0, PerSampleRandomness.keyed(0, 0, 0, len(x_0)), **cond)
    loss.mean().backward()
    assert loss.shape == (config.training.batch_size,)
    assert loss.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in denoiser.parameters())
    return loss.detach()


def draw(config, steps=None, denoiser=None, **changes):
    """Three images of a configuration, or of one with another sampler; by its denoiser, or by one that was made before."""
    config = configuration.changed(config, {f"sampler.{key.replace('__', '.')}": value for key, value in changes.items()})
    denoiser = (denoiser or denoiser_of(config)).eval()
    cond = {"y": torch.tensor([0, 4, 2])} if config.model.num_classes else {}
    x = recipe.build_sampler(config, denoiser, steps).sample(3, seeds=[1, 2, 3], **cond)
    images = recipe.build_pixels(config).decode(x)
    assert images.shape == (3, *recipe.event_shape(config))
    assert not images.is_floating_point()
    assert images.min() >= 0
    assert images.max() < config.data.num_values
    return images
