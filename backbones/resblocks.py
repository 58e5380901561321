"""Blocks of a U-Net with a time embedding, and stages of such blocks.

A residual block uses the embedding e of time and class in one of two ways. e scales and shifts the output of the second
norm (first line), or a linear function of e is added to the input of this norm (last line):

    h = conv(SiLU(norm(x))),    out = gamma (skip(x) + conv(SiLU((1 + scale(e)) norm(h) + shift(e))))
                                out = gamma (skip(x) + conv(SiLU(norm(h + shift(e)))))

Here skip is a 1x1 convolution if the width changes, and the identity otherwise. gamma is 1, or sqrt(1/2) to keep the
variance if both parts have equal variances. The last convolution is 0 at initialisation, so a new block returns gamma
skip(x).

References:
    Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
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

from backbones.base import group_norm, zeroed
from backbones.image_attention import UNetAttention
from diffusion_core.dropout import Dropout

__all__ = ["BlockFactory", "ResBlock", "Stage", "Step", "UNetBlock", "fan_averaged", "modulated_norm"]


class UNetBlock(nn.Module, ABC):
    """The base class of blocks of a U-Net: (B, in_channels, H, W) -> (B, out_channels, H', W').

    A subclass implements `forward`. It may also override `start_as_ddpm`.

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        time_dim: the width of the embedding.
        groups: the largest number of groups of the norms; fewer are used if it does not divide a width.
        scale_shift: if True, the embedding scales and shifts the output of a norm; if False, it is added to that norm's input.
        dropout: the dropout probability before the last convolution.
        residual_scale: gamma. The block multiplies its output, the sum of both branches, by gamma.
        resample: the layer that changes the resolution of both branches. None means no change of the resolution.
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

    @abstractmethod
    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Evaluate the block on x with the embedding e (B, time_dim)."""

    def start_as_ddpm(self) -> None:
        """Finish the initialisation as in DDPM. `fan_averaged` calls this after it has drawn all kernels."""


def modulated_norm(norm: nn.Module, h: Tensor, e: Tensor) -> Tensor:
    """Apply a norm that depends on the embedding of time and class: h (B, C, H, W) -> (B, C, H, W).

    Arguments:
        norm: the norm.
        h: the feature map.
        e: a linear function of the embedding. If it has the shape (B, 2 C), it is scales and shifts, which are applied
            after the norm. If it has the shape (B, C), it is added before the norm.
    """
    e = e[:, :, None, None]
    if e.shape[1] == h.shape[1]:
        added: Tensor = norm(h + e)
        return added
    scale, shift = e.chunk(2, dim=1)
    return torch.addcmul(shift, norm(h), scale + 1)


class ResBlock(UNetBlock):
    """A residual block with a time embedding: (B, in_channels, H, W) -> (B, out_channels, H', W').

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        time_dim: the width of the embedding.
        groups: the largest number of groups of the norms; fewer are used if it does not divide a width.
        scale_shift: if True, the embedding scales and shifts the output of the second norm; if False, it is added to that
            norm's input.
        dropout: the dropout probability before the last convolution.
        residual_scale: gamma. The block multiplies its output, the sum of both branches, by gamma.
        resample: the layer that changes the resolution of both branches. None means no change of the resolution.
    """

    name: ClassVar[str] = "residual"

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
        h = modulated_norm(self.norm2, h, self.time(e))
        out: Tensor = self.skip(self.resample(x)) + self.conv2(self.dropout(F.silu(h)))
        return out if self.residual_scale == 1 else self.residual_scale * out

    def start_as_ddpm(self) -> None:
        zeroed(self.conv2)


BlockFactory = Callable[..., UNetBlock]  # (in_channels, out_channels, resample=None) -> a block with the network's settings


@dataclass(frozen=True)
class Step:
    """One block of a stage, with its skip connection and attention.

    Arguments:
        joins: whether the input of the block is concatenated with the feature map that was stored last.
        attends: whether attention follows the block.
        keeps: whether the output is stored for a skip connection.
    """

    joins: bool = False
    attends: bool = False
    keeps: bool = False


class Stage(nn.Module):
    """Blocks at one resolution, some of them followed by attention.

    Arguments:
        in_width: the width of the input.
        width: the width of every block's output.
        steps: the blocks, first to last.
        kept: the widths of the feature maps that are stored for skip connections. The constructor changes the list in
            place: it removes maps that the stage uses, and appends maps that the stage stores.
        block: a function that makes a block from its input and output width.
        attention: a function that makes an attention layer from its width.
        keeps_input: whether the input is stored before the first block.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        steps: Sequence[Step],
        kept: list[int],
        block: BlockFactory,
        attention: Callable[[int], UNetAttention],
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

    def forward(self, x: Tensor, e: Tensor, label: Tensor | None, kept: list[Tensor], run: Callable[..., Tensor]) -> Tensor:
        """Run the blocks on x (B, C, H, W).

        Arguments:
            x: the feature map.
            e: the embedding of time and class (B, time_dim), the input of the blocks.
            label: the embedding of the class (B, time_dim), the input of attention; None in a network without classes.
            kept: the stored feature maps. The list is changed in place: maps that are used are taken from the end, and
                new maps are appended.
            run: a function that evaluates a module on its inputs, see `Backbone.run`.
        """
        if self.keeps_input:
            kept.append(x)
        for step, block, attention in zip(self.steps, self.blocks, self.attention, strict=True):
            if step.joins:
                x = torch.cat([x, kept.pop()], dim=1)
            x = run(block, x, e)
            if step.attends:
                x = run(attention, x, label)
            if step.keeps:
                kept.append(x)
        return x


def fan_averaged(module: nn.Module) -> None:
    """Initialise a module as in DDPM. Use it with `nn.Module.apply`, which visits a block after its parts.

    Kernels are uniform with variance 2 / (fan_in + fan_out), and biases are 0. The last layers of residual branches
    are 0 too (the authors scale them by 1e-10). Queries, keys and values are stored in one matrix, but they are
    initialised as three matrices.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, UNetAttention | UNetBlock):
        module.start_as_ddpm()
