"""MNIST digits with a large DiT and a thousand tau-leaping steps: hours of training on a GPU."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist_uvit_full

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return `mnist_uvit_full` with a DiT of half the depth. It has patches of 4 x 4 pixels, so a quarter of the tokens."""
    config = mnist_uvit_full.get_config()
    config.update(
        model={"name": "dit", "dit": {"patch_size": 4, "depth": 7, "hidden_dim": 512, "num_heads": 8}},
        # The optimiser as published with the DiT.
        optimizer={"lr": 1e-4, "weight_decay": 0.0, "adamw": {"betas": (0.9, 0.999)}, "schedule": {"warmup": 0}},
    )
    return config
