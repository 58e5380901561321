"""The digits of `mnist` by a transformer of about 2 million parameters."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """`mnist` with a U-ViT."""
    config = mnist.get_config()
    config.model.name = "uvit"
    config.model.uvit.update(patch_size=4, depth=4, hidden_dim=192, num_heads=6)
    config.optimizer.update(lr=5e-4, warmup=200)  # transformers need a slower start
    return config
