"""The digits of `mnist` by a U-Net of 2 million parameters: one of four families at equal size and in one recipe."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """`mnist` with the leave-one-out reading, a larger U-Net, and a learning rate that suits every family.

    `--config.model.name=dit` (`uvit`, `diffit`) makes another of the four of it: their sizes are the defaults.
    """
    config = mnist.get_config()
    config.model.parameterisation = "leave_one_out"
    config.model.unet.update(blocks=(1, 4), time_dim=192)
    config.optimizer.update(lr=1e-3, warmup=200)  # transformers need a slower start than `mnist`'s
    return config
