"""Digits on request: `mnist`, the Markov chain, with labels, and guidance towards them."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Ten classes, a tenth of the labels withheld in training, guidance of scale 2 in posterior form."""
    config = mnist.get_config()
    config.model.num_classes = 10
    config.sampler.update(guidance=2.0, num_samples=80)  # eight of each class
    return config
