"""The ConvNeXt block as a block of a U-Net.

    h = depthwise 7x7 convolution of x
    out = gamma (skip(x) + conv1x1(GELU(conv1x1((1 + scale(e)) norm(h) + shift(e)))))

The first 1x1 convolution returns four times as many channels as the output has, as in the paper. Four things differ
from the paper and are chosen for diffusion:

- The embedding e of time and class enters at the norm, in one of the two ways of the residual block (`resblocks.py`).
- The norm is a group norm, as in the other blocks of the network. The paper has a layer norm over the channels of each
  pixel. A layer norm would remove the amplitude of each pixel, which depends on the noise.
- The last convolution is 0 at initialisation, so a new block returns gamma skip(x). The paper also multiplies the
  branch by a learned vector that starts at 1e-6. This block has no such vector.
- The width changes inside the block, and the skip connection is then a 1x1 convolution. In the paper it changes between
  the stages.

References:
    A ConvNet for the 2020s (Liu et al., 2022) | https://arxiv.org/abs/2201.03545
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import group_norm, zeroed
from backbones.resblocks import UNetBlock, modulated_norm
from diffusion_core.dropout import Dropout

__all__ = ["ConvNeXtBlock"]

_EXPANSION = 4
"""The width of the hidden layer, in units of the width of the output, as published."""


class ConvNeXtBlock(UNetBlock):
    """A ConvNeXt block with a time embedding: (B, in_channels, H, W) -> (B, out_channels, H', W').

    With C input and output channels it has about 8 C^2 weights. A residual block has 18 C^2.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        time_dim: the width of the embedding.
        groups: the largest number of groups of the norm; fewer are used if it does not divide in_channels.
        scale_shift: if True, the embedding scales and shifts the output of the norm; if False, it is added to the norm's input.
        dropout: the dropout probability before the last convolution.
        residual_scale: gamma. The block multiplies its output, the sum of both branches, by gamma.
        resample: the layer that changes the resolution of both branches. None means no change of the resolution.
    """

    name: ClassVar[str] = "conv_next"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int,
        groups: int = 8,
        scale_shift: bool = True,
        dropout: float = 0.0,
        residual_scale: float = 1.0,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, time_dim, groups, scale_shift, dropout, residual_scale, resample)
        hidden = _EXPANSION * out_channels
        self.resample = nn.Identity() if resample is None else resample
        self.depthwise = nn.Conv2d(in_channels, in_channels, 7, padding=3, groups=in_channels)
        self.time = nn.Linear(time_dim, 2 * in_channels if scale_shift else in_channels)
        self.norm = group_norm(in_channels, groups)
        self.expand = nn.Conv2d(in_channels, hidden, 1)
        self.dropout = Dropout(dropout)
        self.contract = zeroed(nn.Conv2d(hidden, out_channels, 1))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        x = self.resample(x)
        h = modulated_norm(self.norm, self.depthwise(x), self.time(e))
        out: Tensor = self.skip(x) + self.contract(self.dropout(F.gelu(self.expand(h))))
        return out if self.residual_scale == 1 else self.residual_scale * out

    def start_as_ddpm(self) -> None:
        zeroed(self.contract)
