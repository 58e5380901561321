"""Half precision (bfloat16) for the backbone. For the other computations it is not accurate enough."""

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
    """Return the given precision. "auto" becomes bfloat16 on a CPU with AMX, and float32 otherwise.

    AMX is a unit for matrix products in bfloat16. Without it, bfloat16 on a CPU is slower than float32.
    """
    if precision != "auto":
        return precision
    fast = device == "cpu" and _CPU.exists() and "amx_bf16" in _CPU.read_text()
    return "bfloat16" if fast else "float32"


class HalfPrecision(Backbone):
    """A backbone that computes matrix products and convolutions in bfloat16. Its output is float32.

    The parameters stay in float32. Everything outside the backbone keeps its precision, because the forward process, the
    losses and the samplers divide and take logarithms. bfloat16 has too few digits for that.

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
        if x.device.type == "meta":  # autocast does not know this device
            return self.backbone.predict(x, c, **cond).float()
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.backbone.predict(x, c, **cond).float()
