"""MNIST digits of 16 grey levels with uniform rates: the jumps between all levels have the same rate."""

from __future__ import annotations

from ml_collections import ConfigDict

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return a preset with uniform rates, S = 16, the leave-one-out parameterisation, and the ELBO as loss."""
    return ConfigDict(
        {
            "data": {"num_values": 16},
            "model": {
                "parameterisation": {"name": "leave_one_out"},
                "head": {"name": "categorical"},
                "inputs": {"name": "one_hot"},
            },
            "process": {"rates": {"name": "uniform"}, "schedule": {"name": "linear"}},
            "loss": {"name": "elbo"},
        }
    )
