"""MNIST digits with improved DDPM: the network also learns the variance of the reverse steps."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist_ddpm

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return a preset with a learned variance, the hybrid loss, and the cosine schedule with T = 4000 times.

    Sampling uses 100 of these times (a respaced grid).
    """
    config = mnist_ddpm.get_config()
    config.update(
        model={"learned_variance": True},
        process={"T": 4000, "t_min": 0.0},  # the loss includes the last step of the chain, from 1 / T to the data
        loss={"name": "hybrid"},
        sampler={"ancestral": {"variance": {"name": "learned_range"}}, "grid": {"name": "respaced"}},
    )
    return config
