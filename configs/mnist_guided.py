"""MNIST digits of given classes: `mnist_ddpm` with labels and classifier-free guidance."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist_ddpm

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return `mnist_ddpm` with ten classes and the default U-Net, which is larger.

    Training has 2,000 steps and drops a tenth of the labels. Sampling has guidance of scale 2.
    """
    config = mnist_ddpm.get_config()
    config.update(
        model={"num_classes": 10, "unet": {"widths": (64, 128), "blocks": (1, 3)}},
        training={"steps": 2000},
        sampler={"guidance": {"g": 2.0}, "num_samples": 80},  # eight of each class
    )
    return config
