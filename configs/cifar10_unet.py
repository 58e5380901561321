"""CIFAR-10 with the Gaussian engine and the U-Net of DDPM, 35.7 million parameters: days of training on a GPU."""

from __future__ import annotations

from ml_collections import ConfigDict

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return a preset with the network and the training of DDPM, and with 100 sampling steps of DDIM.

    The images are read from `data/cifar-10-binary.tar.gz`. `--config.data.cifar10.download` downloads the file, and
    `--config.data.cifar10.path` sets another path.
    """
    return ConfigDict(
        {
            "data": {"name": "cifar10", "image_size": (32, 32), "channels": 3, "flip": True},
            "model": {
                "unet": {
                    "widths": (128, 256, 256, 256),
                    "blocks": (2, 2, 2, 2),
                    "patch_size": 1,
                    "attention_levels": (1,),  # at 16 x 16 pixels
                    "num_heads": 1,
                    "groups": 32,
                    "scale_shift": False,
                    "dropout": 0.1,
                    "time_features": 128,
                    "time_dim": 512,
                    "skip_every_map": True,
                    "upsample": "nearest_conv",
                    "xavier": True,
                },
            },
            "process": {"engine": "gaussian", "schedule": {"name": "linear"}},
            "loss": {"times": {"name": "uniform"}},
            "training": {"steps": 800_000, "batch_size": 128, "ema_decay": 0.9999},
            "optimizer": {
                "name": "adam",
                "lr": 2e-4,
                "weight_decay": 0.0,
                "adam": {"betas": (0.9, 0.999)},
                "schedule": {"name": "constant", "warmup": 5000},
            },
            "sampler": {"name": "ddim", "clip": 1.0},
            "saving": {"checkpoint_every": 5000, "validate_every": 5000, "validation_images": 2000, "preview_every": 10_000},
        }
    )
