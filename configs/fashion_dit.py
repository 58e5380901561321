"""Fashion-MNIST with the Gaussian engine and a DiT of 2 million parameters: `fashion_unet` with another network."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import fashion_unet

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return `fashion_unet` with a DiT."""
    config = fashion_unet.get_config()
    config.update(model={"name": "dit"})
    return config
