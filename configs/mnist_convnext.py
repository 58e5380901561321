"""MNIST digits with a U-Net of ConvNeXt blocks and 2 million parameters: `mnist_unet` with other blocks."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist_unet

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return `mnist_unet` with ConvNeXt blocks. They have fewer weights than residual blocks, so there are more of them."""
    config = mnist_unet.get_config()
    config.update(model={"unet": {"block": "conv_next", "blocks": (2, 7), "time_dim": 128}})
    return config
