"""CIFAR-10 with the Gaussian engine and the published U-ViT-S/2, 44.3 million parameters: days of training on a GPU."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import cifar10_unet

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return `cifar10_unet` with a U-ViT and with the optimiser that was published for it."""
    config = cifar10_unet.get_config()
    config.update(
        model={
            "name": "uvit",
            "uvit": {"patch_size": 2, "depth": 12, "hidden_dim": 512, "num_heads": 8, "mlp_ratio": 4.0},
        },
        training={"steps": 500_000},
        optimizer={
            "name": "adamw",
            "weight_decay": 0.03,
            "adamw": {"betas": (0.99, 0.999)},
            "schedule": {"warmup": 2500},
        },
    )
    return config
