"""A compact convolutional U-Net.

Level l works at 1 / (patch_size 2^l) of the resolution. On the way down each level runs its
residual blocks, keeps its last feature map and halves the resolution by a strided convolution;
on the way up each level doubles it (1x1 convolution and pixel shuffle), joins the kept map and
runs its blocks. Attention sits where it is cheap: at the lowest level, unless asked elsewhere.

The patch stem (space to depth) is what makes the network quick on a CPU: with patch_size = 2 a
28x28 image is processed at 14x14, where a convolution costs a quarter, and loses nothing,
since the channels hold the four pixels.

A residual block sees the time and class embedding e as a scale and a shift of its second norm,

    h = conv(SiLU(norm(x))),    out = skip(x) + conv(SiLU((1 + scale(e)) norm(h) + shift(e)))

with the last convolution zero when fresh, so that a fresh network outputs exactly 0.

References:
    Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    Diffusion models beat GANs on image synthesis (Dhariwal & Nichol, 2021) | https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.attention import ImageAttention
from backbones.base import Backbone, group_norm, zeroed
from backbones.embeddings import ClassEmbedding, TimeEmbedding, unpatchify

__all__ = ["ResBlock", "Stage", "UNet"]


class ResBlock(nn.Module):
    """A residual block that is told the time: (B, in_channels, H, W) -> (B, out_channels, H, W).

    Arguments:
        in_channels: the width of the input.
        out_channels: the width of the output.
        time_dim: the width of the embedding.
        groups: the number of groups of the norms; fewer where it does not divide a width.
        scale_shift: the embedding scales and shifts the second norm; else it is added before it.
        dropout: the dropout probability before the last convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int,
        groups: int = 8,
        scale_shift: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.norm1 = group_norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_dim, 2 * out_channels if scale_shift else out_channels)
        self.norm2 = group_norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Evaluate the block on x with the embedding e (B, time_dim)."""
        h = self.conv1(F.silu(self.norm1(x)))
        e = self.time(e)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), scale + 1)
        else:
            h = self.norm2(h + e)
        out: Tensor = self.skip(x) + self.conv2(self.dropout(F.silu(h)))
        return out


class Stage(nn.Module):
    """Residual blocks at one resolution, some of them followed by attention.

    Arguments:
        blocks: the residual blocks.
        attention: for each block the attention that follows it, or None.
        use_checkpoint: recompute the blocks in the backward pass instead of storing what is inside.
    """

    def __init__(
        self, blocks: Sequence[ResBlock], attention: Sequence[ImageAttention | None], use_checkpoint: bool = False
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = nn.ModuleList([nn.Identity() if module is None else module for module in attention])
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Run the blocks on x (B, C, H, W) with the embedding e (B, time_dim)."""
        for block, attention in zip(self.blocks, self.attention, strict=True):
            saving = self.use_checkpoint and torch.is_grad_enabled()
            x = attention(checkpoint(block, x, e, use_reentrant=False) if saving else block(x, e))
        return x


def _each_level(name: str, value: int | Sequence[int], levels: int) -> list[int]:
    counts = [value] * levels if isinstance(value, int) else list(value)
    if len(counts) != levels or min(counts) < 1:
        raise ValueError(f"{name} = {value}, expected an integer of at least 1, or {levels} of them (one a level)")
    return counts


class UNet(Backbone):
    """The compact U-Net.

    Arguments:
        in_channels: the number of channels of the input.
        out_channels: the number of channels of the output.
        widths: the width of each level, the finest first; any number of levels.
        blocks: residual blocks a level on the way down (the last level's are the middle), one
            number or one a level.
        up_blocks: residual blocks a level on the way up, one number or one for each level (the last
            is not used: the lowest level has no way up); None means as many as on the way down.
        patch_size: the side of the pixel blocks that the stem folds into channels; 1 folds nothing.
        attention_levels: the levels with attention; negative ones count from the lowest. At the lowest
            level it sits between the blocks, elsewhere after each of them.
        num_heads: the number of attention heads.
        groups: the number of groups of the norms.
        scale_shift: how blocks see the embedding; see `ResBlock`.
        dropout: the dropout probability inside residual blocks.
        num_classes: the number of classes; 0 is an unconditional network.
        time_features: the number of sinusoids of c.
        time_dim: the width of the embedding.
        time_scale: what c is multiplied by; 1000 suits c in [0, 1].
        use_checkpoint: trade time for memory in training.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        widths: Sequence[int] = (64, 128, 128),
        blocks: int | Sequence[int] = 2,
        up_blocks: int | Sequence[int] | None = None,
        patch_size: int = 1,
        attention_levels: Sequence[int] = (-1,),
        num_heads: int = 4,
        groups: int = 8,
        scale_shift: bool = True,
        dropout: float = 0.0,
        num_classes: int = 0,
        time_features: int = 64,
        time_dim: int = 128,
        time_scale: float = 1000.0,
        use_checkpoint: bool = False,
    ) -> None:
        levels = len(widths)
        if levels < 1 or min(widths) < 1:
            raise ValueError(f"widths = {tuple(widths)}, expected at least one positive width")
        if patch_size < 1:
            raise ValueError(f"patch_size = {patch_size}, expected at least 1")
        for level in attention_levels:
            if not -levels <= level < levels:
                raise ValueError(f"attention_levels = {tuple(attention_levels)}, expected levels in {-levels} .. {levels - 1}")
        super().__init__(in_channels, out_channels, num_classes, multiple=patch_size * 2 ** (levels - 1))
        down_counts = _each_level("blocks", blocks, levels)
        up_counts = down_counts if up_blocks is None else _each_level("up_blocks", up_blocks, levels)
        attending = {level % levels for level in attention_levels}
        block = partial(ResBlock, time_dim=time_dim, groups=groups, scale_shift=scale_shift, dropout=dropout)

        def stage(in_width: int, level: int, count: int) -> Stage:
            width, lowest = widths[level], level == levels - 1
            attended = [level in attending and (not lowest or i < count - 1 or count == 1) for i in range(count)]
            return Stage(
                [block(in_width if i == 0 else width, width) for i in range(count)],
                [ImageAttention(width, num_heads, groups) if here else None for here in attended],
                use_checkpoint,
            )

        self.patch_size = patch_size
        self.time = TimeEmbedding(time_features, time_dim, time_scale)
        self.classes = ClassEmbedding(num_classes, time_dim) if num_classes else None
        self.stem = nn.Conv2d(in_channels * patch_size**2, widths[0], 3, padding=1)
        upper = range(levels - 1)
        self.down = nn.ModuleList([stage(widths[i], i, down_counts[i]) for i in upper])
        self.downsample = nn.ModuleList([nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in upper])
        self.middle = stage(widths[-1], levels - 1, down_counts[-1])
        self.upsample = nn.ModuleList([nn.Conv2d(widths[i + 1], 4 * widths[i], 1) for i in reversed(upper)])
        self.up = nn.ModuleList([stage(2 * widths[i], i, up_counts[i]) for i in reversed(upper)])
        self.out_norm = group_norm(widths[0], groups)
        self.out = zeroed(nn.Conv2d(widths[0], out_channels * patch_size**2, 3, padding=1))

    def predict(self, x: Tensor, c: Tensor, y: Tensor | None) -> Tensor:
        e = self.time(c)
        if self.classes is not None:
            e = e + self.classes(y)
        e = F.silu(e)
        h = self.stem(F.pixel_unshuffle(x, self.patch_size))
        kept = []
        for stage, downsample in zip(self.down, self.downsample, strict=True):
            h = stage(h, e)
            kept.append(h)
            h = downsample(h)
        h = self.middle(h, e)
        for upsample, stage in zip(self.upsample, self.up, strict=True):
            h = stage(torch.cat([F.pixel_shuffle(upsample(h), 2), kept.pop()], dim=1), e)
        out: Tensor = self.out(F.silu(self.out_norm(h)))
        if self.patch_size == 1:
            return out
        return unpatchify(out.flatten(2).transpose(1, 2), self.patch_size, (x.shape[2], x.shape[3]))
