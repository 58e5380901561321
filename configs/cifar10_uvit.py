"""CIFAR-10 by the Gaussian engine and the published U-ViT-S/2 of 44.3 million parameters: days on a graphics card."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import cifar10_unet

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """`cifar10_unet` with a U-ViT, and the optimiser published with it."""
    config = cifar10_unet.get_config()
    config.model.name = "uvit"
    config.model.uvit.update(patch_size=2, depth=12, hidden_dim=512, num_heads=8, mlp_ratio=4.0)
    config.training.steps = 500_000
    config.optimizer.update(name="adamw", betas=(0.99, 0.999), weight_decay=0.03, warmup=2500)
    return config
