"""The digits of `mnist` by improved DDPM: the network also learns how much noise its steps add."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist_ddpm

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """A learned variance, the hybrid loss, the cosine schedule of T = 4000, sampled on 100 respaced steps."""
    config = mnist_ddpm.get_config()
    config.model.learned_variance = True
    config.process.t_min = 0.0  # the last step of the chain, from 1 / T to the data, is one of the loss's
    config.process.gaussian.T = 4000
    config.loss.name = "hybrid"
    config.sampler.update(variance="learned", grid="respaced")
    return config
