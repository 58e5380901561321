"""CIFAR-10 as published with DDPM: `cifar10_unet`, sampled by a thousand ancestral steps."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import cifar10_unet

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """`cifar10_unet` with DDPM's own sampler, whose noise has the larger of the two fixed variances."""
    config = cifar10_unet.get_config()
    config.sampler.update(name="ancestral", variance="large", steps=999)  # and one that draws x_0
    return config
