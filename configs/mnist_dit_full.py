"""The digits by a large DiT and a thousand tau-leaping steps: hours on a graphics card, not minutes on a CPU."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist_uvit_full

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """`mnist_uvit_full` with a DiT of patches of 4 pixels: half the depth, a quarter of the tokens."""
    config = mnist_uvit_full.get_config()
    config.model.name = "dit"
    config.model.dit.update(patch_size=4, depth=7, hidden_dim=512, num_heads=8)
    config.optimizer.update(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0, warmup=0)  # as published with the DiT
    return config
