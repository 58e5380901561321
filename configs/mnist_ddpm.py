"""MNIST digits with the Gaussian engine and the U-Net of `mnist`: the network predicts the noise."""

from __future__ import annotations

from ml_collections import ConfigDict

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return DDPM: the cosine schedule, the noise as target, the squared error as loss."""
    return ConfigDict(
        {
            "process": {"engine": "gaussian", "schedule": {"name": "cosine"}},
            "training": {"steps": 2600},
            "optimizer": {"lr": 2e-3},  # twice the default, because the run is short and the rate decays to zero
            "sampler": {"clip": 1.0},  # the range of pixels
        }
    )
