"""Half precision where it is safe: inside the backbone, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from backbones import Backbone
from diffusion_core.conditions import Null

__all__ = ["HalfPrecision", "resolved_precision"]

_CPU = Path("/proc/cpuinfo")


def resolved_precision(precision: str, device: str) -> str:
    """What "auto" means here: bfloat16 on a CPU that multiplies matrices in it (AMX), else float32.

    Without such units a CPU only emulates bfloat16, slower than float32.
    """
    if precision != "auto":
        return precision
    fast = device == "cpu" and _CPU.exists() and "amx_bf16" in _CPU.read_text()
    return "bfloat16" if fast else "float32"


class HalfPrecision(Backbone):
    """A backbone evaluated in bfloat16 where that is accurate enough (products, convolutions); its output is float32.

    Parameters stay in float32, and so does everything around the backbone: noising, losses and
    samplers divide and take logarithms, for which bfloat16 has too few digits.

    Arguments:
        backbone: the network to wrap.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(
            backbone.in_channels, backbone.out_channels, backbone.num_classes, backbone.multiple, img_size=backbone.img_size
        )
        self.backbone = backbone

    @property
    def conditions(self) -> Mapping[str, Null]:
        """The conditions of the wrapped network."""
        return self.backbone.conditions

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        if x.device.type == "meta":  # without content there is nothing to round, and autocast knows no such device
            return self.backbone.predict(x, c, **cond).float()
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.backbone.predict(x, c, **cond).float()
