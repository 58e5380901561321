"""Convolutional blocks that are told the time, stages of them, and the layers between resolutions.

A residual block sees the time and class embedding e as a scale and a shift of its second norm, or as an addend,

    h = conv(SiLU(norm(x))),    out = gamma (skip(x) + conv(SiLU((1 + scale(e)) norm(h) + shift(e))))
                                out = gamma (skip(x) + conv(SiLU(norm(h + shift(e)))))

where skip is a 1x1 convolution if the width changes and gamma = 1, or sqrt(1/2) to keep the variance of a sum of
two equal parts. The last convolution is 0 when fresh: the block begins as gamma skip(x).

Between resolutions stands a `Downsample` or an `Upsample`: a convolution, which does not need the embedding, or a
residual block that pools or repeats pixels after its first activation and on its skip (BigGAN's).

References:
    Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    Large scale GAN training for high fidelity natural image synthesis (Brock et al., 2019) | https://arxiv.org/abs/1809.11096
    Score-based generative modeling through stochastic differential equations (Song et al., 2021) | https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.attention import ImageAttention
from backbones.base import group_norm, zeroed
from diffusion_core.dropout import Dropout

__all__ = [
    "BlockFactory",
    "Downsample",
    "NearestConv",
    "ResBlock",
    "ResidualDown",
    "ResidualUp",
    "ShuffledConv",
    "Stage",
    "Step",
    "StridedConv",
    "Upsample",
    "fan_averaged",
]


class ResBlock(nn.Module):
    """A residual block that is told the time: (B, in_channels, H, W) -> (B, out_channels, H', W').

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        time_dim: the width of the embedding.
        groups: the number of groups of the norms; fewer where it does not divide a width.
        scale_shift: the embedding scales and shifts the second norm; else it is added before it.
        dropout: the dropout probability before the last convolution.
        residual_scale: gamma, what the sum of both branches is multiplied by.
        resample: what changes the resolution of both branches; None keeps it.
    """

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
        super().__init__()
        self.scale_shift = scale_shift
        self.residual_scale = residual_scale
        self.norm1 = group_norm(in_channels, groups)
        self.resample = nn.Identity() if resample is None else resample
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_dim, 2 * out_channels if scale_shift else out_channels)
        self.norm2 = group_norm(out_channels, groups)
        self.dropout = Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Evaluate the block on x with the embedding e (B, time_dim)."""
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        e = self.time(e)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), scale + 1)
        else:
            h = self.norm2(h + e)
        out: Tensor = self.skip(self.resample(x)) + self.conv2(self.dropout(F.silu(h)))
        return out if self.residual_scale == 1 else self.residual_scale * out


BlockFactory = Callable[..., ResBlock]  # (in_channels, out_channels, resample=None) -> a block with the network's settings


class _Resampling(nn.Module, ABC):
    """What stands between two resolutions. `Downsample` and `Upsample` say which way it goes."""

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Change the resolution of x (B, in_channels, H, W), told the embedding e (B, time_dim)."""


class Downsample(_Resampling):
    """A layer that halves the resolution: (B, in_channels, H, W) -> (B, out_channels, H/2, W/2).

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: makes a residual block with the network's settings, `block(in_channels, out_channels, resample=None)`.
    """


class Upsample(_Resampling):
    """A layer that doubles the resolution: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W).

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: makes a residual block with the network's settings, `block(in_channels, out_channels, resample=None)`.
    """


# The next three are convolutions rather than hold one, so that a saved network knows their parameters as `weight` and `bias`.


class StridedConv(Downsample, nn.Conv2d):
    """Half the resolution by a 3x3 convolution of stride 2.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: not needed.
    """

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        """Halve: (B, in_channels, H, W) -> (B, out_channels, H/2, W/2)."""
        return nn.Conv2d.forward(self, x)


class ShuffledConv(Upsample, nn.Conv2d):
    """Twice the resolution by a 1x1 convolution to four times the channels, which become 2x2 pixels.

    A ninth of the multiplications of a 3x3 convolution after doubling.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: not needed.
    """

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        nn.Conv2d.__init__(self, in_channels, 4 * out_channels, 1)

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        """Double: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W)."""
        return F.pixel_shuffle(nn.Conv2d.forward(self, x), 2)


class NearestConv(Upsample, nn.Conv2d):
    """Twice the resolution by repeating pixels, then a 3x3 convolution.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: not needed.
    """

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        """Double: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W)."""
        return nn.Conv2d.forward(self, F.interpolate(x, scale_factor=2, mode="nearest"))


class ResidualDown(Downsample):
    """Half the resolution by a residual block that averages 2x2 pixels.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: makes the residual block.
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
    """Twice the resolution by a residual block that repeats pixels.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        block: makes the residual block.
    """

    name: ClassVar[str] = "residual"

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        super().__init__(in_channels, out_channels, block)
        self.block = block(in_channels, out_channels, resample=nn.Upsample(scale_factor=2, mode="nearest"))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Double: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W)."""
        out: Tensor = self.block(x, e)
        return out


@dataclass(frozen=True)
class Step:
    """One residual block of a stage, and what happens around it.

    Arguments:
        joins: the block sees the last kept map beside its input.
        attends: attention follows the block.
        keeps: the result is kept for the way up.
    """

    joins: bool = False
    attends: bool = False
    keeps: bool = False


class Stage(nn.Module):
    """Residual blocks at one resolution, some of them followed by attention.

    Arguments:
        in_width: the width of the input.
        width: the width of every block's output.
        steps: the blocks, first to last.
        kept: the widths of the maps that are kept when the stage begins; it becomes those when the stage ends.
        block: makes a residual block of two widths.
        attention: makes an attention of one width.
        keeps_input: the input is kept before the first block.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        steps: Sequence[Step],
        kept: list[int],
        block: BlockFactory,
        attention: Callable[[int], nn.Module],
        keeps_input: bool = False,
    ) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.keeps_input = keeps_input
        self.blocks = nn.ModuleList()
        if keeps_input:
            kept.append(in_width)
        for step in steps:
            self.blocks.append(block(in_width + (kept.pop() if step.joins else 0), width))
            in_width = width
            if step.keeps:
                kept.append(width)
        self.attention = nn.ModuleList([attention(width) if step.attends else nn.Identity() for step in steps])

    def forward(self, x: Tensor, e: Tensor, kept: list[Tensor], run: Callable[..., Tensor]) -> Tensor:
        """Run the blocks on x (B, C, H, W).

        Arguments:
            x: the feature map.
            e: the embedding (B, time_dim).
            kept: the kept maps; joined ones are taken from its end, new ones put there.
            run: evaluates a module on its inputs, see `Backbone.run`.
        """
        if self.keeps_input:
            kept.append(x)
        for step, block, attention in zip(self.steps, self.blocks, self.attention, strict=True):
            if step.joins:
                x = torch.cat([x, kept.pop()], dim=1)
            x = run(block, x, e)
            if step.attends:
                x = run(attention, x)
            if step.keeps:
                kept.append(x)
        return x


def fan_averaged(module: nn.Module) -> None:
    """Begin as DDPM does; for `nn.Module.apply`, which visits a block after its parts.

    Kernels are uniform with variance 2 / (fan_in + fan_out), biases 0, and so are the last layers of residual
    branches (the authors scale those by 1e-10). Queries, keys and values are three matrices, though stored as one.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ImageAttention):
        for part in module.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        zeroed(module.proj)
    elif isinstance(module, ResBlock):
        zeroed(module.conv2)
