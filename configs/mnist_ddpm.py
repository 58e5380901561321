"""MNIST digits with the Gaussian engine and the U-Net of `mnist`: the network predicts the noise."""

from __future__ import annotations

from ml_collections import ConfigDict

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return DDPM: the cosine schedule, the noise as target, the squared error as loss. The optimiser is that of `mnist`."""
    return ConfigDict(
        {
            "model": {"unet": {"widths": (32, 112), "blocks": (1, 2)}},
            "process": {"engine": "gaussian", "schedule": {"name": "cosine"}},
            "training": {"steps": 4000, "batch_size": 32},
            "optimizer": {"name": "muon", "lr": 2e-3},
            "sampler": {"clip": 1.0},  # the range of pixels
        }
    )
