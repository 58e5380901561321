"""Digits of 16 grey levels, each jump to any level alike."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import defaults

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Uniform rates, S = 16, the leave-one-out reading trained on its likelihood."""
    config = defaults.get_config()
    config.data.num_values = 16
    config.model.update(parameterisation="leave_one_out", head="categorical", inputs="one_hot")
    config.process.update(name="uniform", schedule="linear")
    config.loss.name = "elbo"
    config.sampler.leap = "categorical"  # every level is as far from every other
    return config
