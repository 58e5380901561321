"""CIFAR-10 as published with DDPM: `cifar10_unet`, sampled with a thousand ancestral steps."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import cifar10_unet

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return `cifar10_unet` with the ancestral sampler of DDPM and the larger of its two fixed variances."""
    config = cifar10_unet.get_config()
    config.update(
        sampler={
            "name": "ancestral",
            "ancestral": {"variance": {"name": "fixed_large"}},
            "steps": 999,  # the last step, which draws x_0, is the thousandth
        },
    )
    return config
