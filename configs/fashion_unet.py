"""Fashion-MNIST by the Gaussian engine and a U-Net of 2 million parameters."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist_unet

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """DDPM with the cosine schedule on the network and the training of `mnist_unet`.

    The images are those of `data/FashionMNIST/raw`, as torchvision keeps them: `--config.data.download` fetches them.
    """
    config = mnist_unet.get_config()
    config.data.name = "fashion_mnist"
    config.model.parameterisation = "epsilon"
    config.process.update(name="gaussian", schedule="cosine", t_min=1e-3)
    config.loss.name = "epsilon"
    return config
