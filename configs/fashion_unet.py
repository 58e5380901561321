"""Fashion-MNIST with the Gaussian engine and a U-Net of 2 million parameters."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist_ddpm

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return `mnist_ddpm` with Fashion-MNIST, and with the network of `mnist_unet`.

    It is trained with AdamW, for 2,600 steps of 64 images.

    The images are read from `data/FashionMNIST/raw`, in the layout of torchvision. `--config.data.fashion_mnist.download`
    downloads them.
    """
    config = mnist_ddpm.get_config()
    config.update(
        data={"name": "fashion_mnist"},
        model={"unet": {"widths": (64, 128), "blocks": (1, 4), "time_dim": 192}},
        training={"steps": 2600, "batch_size": 64},
        optimizer={"name": "adamw", "lr": 1e-3, "schedule": {"warmup": 200}},
    )
    return config
