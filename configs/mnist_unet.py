"""MNIST digits with a U-Net of 2 million parameters: one of several backbones with equal size and equal training."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return `mnist` with leave-one-out, a larger U-Net, 2,000 steps, and a learning rate that suits all backbones.

    `--config.model.name=dit` selects another backbone. Others are `uvit`, `diffit` and `ssm`. By default, they have about the
    same number of parameters.
    """
    config = mnist.get_config()
    config.update(
        model={"parameterisation": {"name": "leave_one_out"}, "unet": {"widths": (64, 128), "blocks": (1, 4), "time_dim": 192}},
        training={"steps": 2000},
        sampler={"sub_batch": 16},
        optimizer={
            "lr": 1e-3,
            "schedule": {"warmup": 200},
        },  # transformers need a longer warm-up and a lower rate than those of `mnist`
    )
    return config
