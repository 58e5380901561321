"""The digits of `mnist` by the Gaussian engine and a DiffiT, trained on the noise levels that decide which digit it will be."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import mnist_diffit

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """The Laplace schedule, v as target, and a grid of its own to sample on: training hardly sees the ends of that schedule."""
    config = mnist_diffit.get_config()
    config.model.parameterisation = "v"
    # The schedule's ends are infinitely far in log-SNR: the interval stops there where the grid does not reach.
    config.process.update(name="gaussian", schedule="laplace", t_min=1e-4, t_max=1 - 1e-4)
    # Which of the digits it was is decided between log-SNR -6 and -1 (the exact posterior over the training set knows nothing
    # at one end and all at the other). Published for latents of photographs are mu = 0, b = 1/2: one example in a hundred is
    # then noisier than -2, and the network never learns to begin.
    config.process.laplace.update(mu=-2.0, b=1.5)
    config.loss.name = "v"
    config.sampler.update(name="ddim", grid="log_snr")
    return config
