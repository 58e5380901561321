"""Digits of 16 grey levels, unmasked pixel by pixel."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import defaults

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """A mask, S = 16 unordered values, trained on its likelihood."""
    config = defaults.get_config()
    config.data.num_values = 16
    config.model.update(parameterisation="absorbing", head="categorical", inputs="embedded")
    config.process.update(name="absorbing", schedule="cosine", t_min=1e-3)
    config.loss.name = "elbo"
    config.sampler.leap = "categorical"  # a mask has no place on the scale of grey levels
    return config
