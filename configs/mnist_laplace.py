"""The digits of `mnist` by the Gaussian engine and a DiffiT, trained where it matters: about log-SNR 0."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist_diffit

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """The Laplace schedule, v as target, and a grid of its own to sample on: training hardly sees the ends of that schedule."""
    config = mnist_diffit.get_config()
    config.model.parameterisation = "v"
    # The schedule's ends, clean data and pure noise, are infinitely far in log-SNR: the interval stops a millionth before.
    config.process.update(name="gaussian", schedule="laplace", t_min=1e-6, t_max=1 - 1e-6)
    config.loss.name = "v"
    config.sampler.update(name="ddim", grid="log_snr")
    return config
