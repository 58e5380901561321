"""CIFAR-10 by a Markov chain over 256 levels a channel, as published: tau-leaping with DDPM's U-Net."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import cifar10_unet, defaults

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """S = 256, Gaussian target rates, a truncated logistic, ELBO with a little cross-entropy, 1000 tau-leaping steps.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    """
    config, published = cifar10_unet.get_config(), defaults.get_config()
    config.process = published.process  # its defaults are the published rates and schedule
    config.model.parameterisation = "x0"
    config.model.unet.residual_scale = 0.5**0.5
    config.loss.update(name="elbo_and_cross_entropy", cross_entropy_weight=0.001)
    config.training.steps = 2_000_000
    config.sampler.update(name="tau_leaping", steps=1000)
    return config
