"""MNIST digits with a large U-ViT and a thousand tau-leaping steps: hours of training on a GPU."""

from __future__ import annotations

from ml_collections import ConfigDict

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return a preset with S = 256, the published Gaussian target rates and schedule, and leave-one-out.

    The loss is the ELBO plus a small multiple of the cross-entropy.
    """
    return ConfigDict(
        {
            "model": {
                "name": "uvit",
                "parameterisation": {"name": "leave_one_out"},
                "uvit": {"patch_size": 2, "depth": 14, "hidden_dim": 512, "num_heads": 16, "mlp_ratio": 4.0},
            },
            "loss": {"name": "elbo_and_cross_entropy"},
            "training": {"steps": 300_000, "batch_size": 128, "ema_decay": 0.9999},
            # The optimiser as published with the U-ViT for images of this size.
            "optimizer": {
                "lr": 2e-4,
                "weight_decay": 0.03,
                "adamw": {"betas": (0.99, 0.999)},
                "schedule": {"name": "constant", "warmup": 2500},
            },
            "sampler": {"name": "tau_leaping", "steps": 1000},
            "saving": {"checkpoint_every": 5000, "validate_every": 5000, "validation_images": 2000, "preview_every": 10_000},
        }
    )
