"""Layers of a U-Net that change the resolution.

A `Downsample` or an `Upsample` is a convolution or a residual block as in BigGAN. The convolution does not use the
embedding of time and class. The residual block changes the resolution twice: after the first activation of its residual
branch, and on its skip connection. It averages pixels to halve the resolution, and repeats pixels to double it.

References:
    Large scale GAN training for high fidelity natural image synthesis (Brock et al., 2019) | https://arxiv.org/abs/1809.11096
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.resblocks import BlockFactory

__all__ = ["Downsample", "NearestConv", "ResidualDown", "ResidualUp", "ShuffledConv", "StridedConv", "Upsample"]


class _Resampling(nn.Module, ABC):
    """The base class of `Downsample` and `Upsample`."""

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Change the resolution of x (B, in_channels, H, W). e is the embedding of time and class (B, time_dim)."""


class Downsample(_Resampling):
    """A layer that halves the resolution: (B, in_channels, H, W) -> (B, out_channels, H/2, W/2).

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: a function `block(in_channels, out_channels, resample=None)` that makes a residual block with the settings
            of the network.
    """


class Upsample(_Resampling):
    """A layer that doubles the resolution: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W).

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: a function `block(in_channels, out_channels, resample=None)` that makes a residual block with the settings
            of the network.
    """


# The next three classes inherit from a convolution, so that their parameters are called `weight` and `bias` in a state dict.


class StridedConv(Downsample, nn.Conv2d):
    """Halve the resolution by a 3x3 convolution of stride 2.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: not used.
    """

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        """Halve: (B, in_channels, H, W) -> (B, out_channels, H/2, W/2)."""
        return nn.Conv2d.forward(self, x)


class ShuffledConv(Upsample, nn.Conv2d):
    """Double the resolution by a 1x1 convolution and a pixel shuffle.

    The convolution returns four times as many channels. The pixel shuffle turns them into 2x2 pixels. This needs a
    ninth of the multiplications of a 3x3 convolution at the doubled resolution.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: not used.
    """

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        nn.Conv2d.__init__(self, in_channels, 4 * out_channels, 1)

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        """Double: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W)."""
        return F.pixel_shuffle(nn.Conv2d.forward(self, x), 2)


class NearestConv(Upsample, nn.Conv2d):
    """Double the resolution by repeating pixels, then apply a 3x3 convolution.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: not used.
    """

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        """Double: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W)."""
        return nn.Conv2d.forward(self, F.interpolate(x, scale_factor=2, mode="nearest"))


class ResidualDown(Downsample):
    """Halve the resolution by a residual block that averages 2x2 pixels.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: a function `block(in_channels, out_channels, resample=None)` that makes the residual block.
    """

    name: ClassVar[str] = "residual"

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        super().__init__(in_channels, out_channels, block)
        self.block = block(in_channels, out_channels, resample=nn.AvgPool2d(2))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Halve: (B, in_channels, H, W) -> (B, out_channels, H/2, W/2)."""
        out: Tensor = self.block(x, e)
        return out


class ResidualUp(Upsample):
    """Double the resolution by a residual block that repeats pixels.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: a function `block(in_channels, out_channels, resample=None)` that makes the residual block.
    """

    name: ClassVar[str] = "residual"

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        super().__init__(in_channels, out_channels, block)
        self.block = block(in_channels, out_channels, resample=nn.Upsample(scale_factor=2, mode="nearest"))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Double: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W)."""
        out: Tensor = self.block(x, e)
        return out
