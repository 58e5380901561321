"""MNIST digits from their upper halves: the Markov chain of `mnist` draws the lower half of a digit given the upper half."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return `mnist` with known upper halves. They stay clean, and the network sees which pixels are known."""
    config = mnist.get_config()
    config.update(model={"known": {"name": "half", "half": {"side": "upper"}}})
    return config
