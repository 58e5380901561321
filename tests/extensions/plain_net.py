"""A backbone."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from backbones import Backbone, ClassEmbedding, TimeEmbedding
from backbones.base import zeroed
from diffusion_core.ranges import Count, CountOrZero, Range, check_arguments

__all__ = ["PlainNet"]


class PlainNet(Backbone):
    """Two convolutions, between which the time and the class are added.

    Arguments:
        in_channels: C.
        out_channels: C_out; None is C.
        width: the channels between the convolutions.
        num_classes: the number of classes; 0 is an unconditional network.
    """

    def __init__(
        self,
        in_channels: Count = 1,
        out_channels: Count | None = None,
        width: Annotated[int, Range(least=2, most=512)] = 8,
        num_classes: CountOrZero = 0,
    ) -> None:
        check_arguments(PlainNet, locals())
        super().__init__(in_channels, out_channels, num_classes)
        self.time = TimeEmbedding(width, width)
        self.classes = ClassEmbedding(num_classes, width) if num_classes else None
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.last = zeroed(nn.Conv2d(width, self.out_channels, 3, padding=1))

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        e = self.time(c)
        if self.classes is not None:
            e = e + self.classes(cond["y"])
        out: Tensor = self.last(F.silu(self.first(x) + e[:, :, None, None]))
        return out
