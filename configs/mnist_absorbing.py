"""MNIST digits of 16 grey levels with masked diffusion: sampling unmasks the pixels."""

from __future__ import annotations

from ml_collections import ConfigDict

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return a preset with absorbing rates, S = 16 unordered values, and the ELBO as loss."""
    return ConfigDict(
        {
            "data": {"num_values": 16},
            "model": {
                "parameterisation": {"name": "absorbing"},
                "head": {"name": "categorical"},
                "inputs": {"name": "embedded"},
            },
            "process": {"rates": {"name": "absorbing"}, "schedule": {"name": "cosine"}, "t_min": 1e-3},
            "loss": {"name": "elbo"},
        }
    )
