"""MNIST digits with a state-space model of 2 million parameters: `mnist_unet` with another network."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist_unet

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return `mnist_unet` with a bidirectional selective state-space model."""
    config = mnist_unet.get_config()
    config.update(model={"name": "ssm"})
    return config
