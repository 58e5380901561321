"""CIFAR-10 as published with tauLDR: a Markov chain over 256 values for each channel, with the U-Net of DDPM."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import cifar10_unet

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return a preset with Gaussian target rates, a truncated logistic head and 1000 tau-leaping steps.

    The loss is the ELBO plus a small multiple of the cross-entropy.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    """
    config = cifar10_unet.get_config()
    config.update(
        model={"unet": {"residual_scale": 0.5**0.5}},
        loss={"name": "elbo_and_cross_entropy"},
        training={"steps": 2_000_000},
    )
    # The defaults of the discrete engine are the published rates and the published schedule.
    config.process, config.sampler = ConfigDict(), ConfigDict({"name": "tau_leaping", "steps": 1000})
    return config
