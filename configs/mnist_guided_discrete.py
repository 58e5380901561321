"""MNIST digits of given classes: the Markov chain of `mnist` with labels and classifier-free guidance."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return `mnist` with ten classes. Training drops a tenth of the labels. Sampling guides the posterior with scale 2."""
    config = mnist.get_config()
    config.update(
        model={"num_classes": 10},
        sampler={"guidance": {"g": 2.0}, "num_samples": 80},  # eight of each class
    )
    return config
