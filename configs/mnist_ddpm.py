"""The digits of `mnist` by the Gaussian engine: noise on reals, predicted by the same U-Net."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """DDPM: the cosine schedule, the noise as target, the squared error as loss."""
    config = mnist.get_config()
    config.model.parameterisation = "epsilon"
    config.process.update(name="gaussian", schedule="cosine", t_min=1e-3)
    config.loss.name = "epsilon"
    return config
