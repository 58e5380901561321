"""The U-Net: residual blocks at falling and rising resolution, joined by skips.

Level l works at 1 / (patch_size 2^l) of the resolution. Maps of the way down are kept and joined, last kept first,
by the blocks of the way up. One class is every U-Net of the papers and a compact one, by two wirings:

    one skip a level                            a skip from every map (`skip_every_map`)

    n blocks ------------- keep -> join, n'     keep, n x (block, keep) -------- (n + 1) x (join, block)
       down, width changes        up               down                                up
         ...                                         keep, n x (block, keep) -- (n + 1) x (join, block)
           n blocks of the lowest level                 block, attention, block

The compact network (the default) keeps the last map of each level; its lowest level is its middle, with attention
between the blocks, and resolution and width change together: a strided convolution, a 1x1 convolution with a pixel
shuffle. The published ones keep every map, that of the stem and of each downsampling too, so that a level has one
block more on its way up than on its way down; the first block of a level changes the width, attention follows the
blocks of the levels that have it, and always stands in the middle. They differ among themselves in how blocks see
the embedding, in what changes the resolution, in their heads and in their start: `UNET_SIZES`.

The patch stem (space to depth) is what makes the compact network quick on a CPU: with patch_size = 2 a 28x28 image
is processed at 14x14, where a convolution costs a quarter, and loses nothing, since the channels hold the four
pixels. Whatever the settings, a fresh network outputs exactly 0.

Under autocast the norms and the softmax are formed in float32, though a CPU rounds what they return to bfloat16.

References:
    Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    Diffusion models beat GANs on image synthesis (Dhariwal & Nichol, 2021) | https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.attention import ImageAttention
from backbones.base import Backbone, DropoutRate, group_norm, number_of_levels, one_or_each, zeroed
from backbones.embeddings import ClassEmbedding, TimeEmbedding, unpatchify
from backbones.resblocks import (
    Downsample,
    NearestConv,
    ResBlock,
    ResidualDown,
    ResidualUp,
    ShuffledConv,
    Stage,
    Step,
    StridedConv,
    Upsample,
    fan_averaged,
)
from diffusion_core.ranges import Count, CountOrZero, Finite, Positive, Range, check_arguments

__all__ = ["UNET_SIZES", "KnownClassEmbedding", "UNet", "Wiring"]

_PUBLISHED: dict[str, Any] = {
    "patch_size": 1,
    "groups": 32,
    "skip_every_map": True,
    "downsample": StridedConv,
    "upsample": NearestConv,
}

UNET_SIZES: dict[str, dict[str, Any]] = {
    # 3 channels in and out: 35,746,307 parameters. (The authors' strided convolutions pad below and right only, and their
    # sinusoids are spaced by 1 / (half - 1).)
    "ddpm_cifar10": {
        **_PUBLISHED,
        "widths": (128, 256, 256, 256),
        "blocks": 2,
        "attention_levels": (1,),  # 16 px
        "num_heads": 1,
        "scale_shift": False,
        "dropout": 0.1,
        "time_features": 128,
        "time_dim": 512,
        "xavier": True,
    },
    # 3 channels in, 6 out (a learned variance): 52,546,438 parameters
    "iddpm_cifar10": {
        **_PUBLISHED,
        "widths": (128, 256, 256, 256),
        "blocks": 3,
        "attention_levels": (1, 2),  # 16 and 8 px
        "num_heads": 4,
        "dropout": 0.3,
        "time_features": 128,
        "time_dim": 512,
    },
    # 3 channels in, 6 out, num_classes = 1000: 295,904,454 parameters
    "adm_imagenet64": {
        **_PUBLISHED,
        "widths": (192, 384, 576, 768),
        "blocks": 3,
        "attention_levels": (1, 2, 3),  # 32, 16 and 8 px
        "head_width": 64,
        "dropout": 0.1,
        "time_features": 192,
        "time_dim": 768,
        "downsample": ResidualDown,
        "upsample": ResidualUp,
        "learned_null": False,
    },
}


class KnownClassEmbedding(nn.Embedding):
    """One vector a class, and 0 for the null class: (B,) in 0 .. num_classes -> (B, dim).

    ADM has a vector for each of its classes and none for "no label". Without a label this network sees the time alone.

    Arguments:
        num_classes: the number of classes without the null class.
        dim: the width of the embedding.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__(num_classes, dim)

    def forward(self, y: Tensor) -> Tensor:
        """The vectors of the labels y (B,)."""
        known = (y < self.num_embeddings)[:, None]
        return super().forward(y.long().clamp(max=self.num_embeddings - 1)) * known


@dataclass(frozen=True)
class Wiring:
    """Which blocks stand where, and which widths meet between the levels.

    Arguments:
        entering: the width with which each level begins on the way down.
        returning: the width with which each level but the lowest is returned to on the way up.
        down: the steps of each level but the lowest, the finest first.
        middle: the steps of the lowest level, down and up.
        up: the steps of each level but the lowest on the way up, the finest first.
        keeps_input: whether each level keeps what it begins with.
    """

    entering: Sequence[int]
    returning: Sequence[int]
    down: Sequence[Sequence[Step]]
    middle: Sequence[Step]
    up: Sequence[Sequence[Step]]
    keeps_input: bool


def _one_skip(
    widths: Sequence[int], blocks: int | Sequence[int], up_blocks: int | Sequence[int] | None, attending: Sequence[bool]
) -> Wiring:
    """The compact network: a level keeps its last map, and resolution and width change together."""
    *counts, lowest = one_or_each("blocks", blocks, len(widths))
    up_counts = counts if up_blocks is None else one_or_each("up_blocks", up_blocks, len(widths))[:-1]
    return Wiring(
        entering=widths,
        returning=widths[:-1],
        down=[[Step(attends=a, keeps=j == n - 1) for j in range(n)] for n, a in zip(counts, attending[:-1], strict=True)],
        middle=[Step(attends=attending[-1] and (j < lowest - 1 or lowest == 1)) for j in range(lowest)],
        up=[[Step(joins=j == 0, attends=a) for j in range(n)] for n, a in zip(up_counts, attending[:-1], strict=True)],
        keeps_input=False,
    )


def _every_map(
    widths: Sequence[int], blocks: int | Sequence[int], up_blocks: int | Sequence[int] | None, attending: Sequence[bool]
) -> Wiring:
    """The published networks: every map is kept, and the first block of a level changes the width."""
    counts = one_or_each("blocks", blocks, len(widths))
    if up_blocks is not None and one_or_each("up_blocks", up_blocks, len(widths)) != [n + 1 for n in counts]:
        raise ValueError(f"up_blocks = {up_blocks}, expected {tuple(n + 1 for n in counts)} to join every map, or None")
    down = [[Step(attends=a, keeps=True)] * n for n, a in zip(counts, attending, strict=True)]
    up = [[Step(attends=a, joins=True)] * (n + 1) for n, a in zip(counts, attending, strict=True)]
    return Wiring(
        entering=[widths[0], *widths[:-1]],
        returning=widths[1:],
        down=down[:-1],
        middle=[*down[-1], Step(attends=True), Step(), *up[-1]],
        up=up[:-1],
        keeps_input=True,
    )


class UNet(Backbone):
    """The U-Net; its defaults are the compact one, `UNET_SIZES` has the published ones.

    Arguments:
        in_channels: the number of channels of the input.
        out_channels: the number of channels of the output; None means as many as in the input.
        widths: the number of channels of each level, from the finest to the coarsest; one number a level.
        blocks: the number of residual blocks of each level on the way down, one number for all levels or one a level.
            Most of them belong where they are cheap, in the coarsest level.
        up_blocks: the number of residual blocks of each level on the way up, one number for all levels or one a level;
            None means as many as on the way down, or one more with skip_every_map. The coarsest level's is not used.
        patch_size: the side of the blocks of pixels that become channels of one place; 1 keeps the pixels. At 2 a
            convolution costs a quarter, and no pixel is lost.
        attention_levels: the levels that have attention; 0 is the finest, -1 the coarsest, where attention is cheap.
        num_heads: the number of heads of each attention.
        groups: the most groups of a group norm; there are fewer where this does not divide the number of channels.
        scale_shift: residual blocks see the time as scale and shift of their second norm; else it is added before that norm.
        dropout: the probability of dropping a number inside residual blocks in training; 0 suits short trainings.
        num_classes: the number of classes that images are labelled with; 0 is a network without labels.
        time_features: the number of sinusoids of the time.
        time_dim: the width of the embedding of the time and the label.
        time_scale: what the time is multiplied by before its sinusoids are formed; 1000 suits times in [0, 1].
        use_checkpoint: compute activations again in the backward pass instead of keeping them: training needs
            less memory and more time.
        head_width: the width of a head of attention, in place of num_heads; None uses num_heads.
        skip_every_map: the published wiring, with a skip connection from every map; else one from each level.
        downsample: what halves the resolution between two levels. residual is the block of BigGAN.
        upsample: what doubles the resolution between two levels. nearest_conv is DDPM's, residual is the block of BigGAN.
        residual_scale: what the sum of both branches of a residual block or an attention is multiplied by; sqrt(1/2) keeps
            the variance of a sum of equal parts.
        learned_null: a network with labels learns a vector for "no label"; else that vector is 0.
        xavier: weights begin as in DDPM; else as torch's layers begin.

    Raises:
        ValueError: a setting out of its range, or heads that do not divide a width with attention.
    """

    name: ClassVar[str] = "unet"

    def __init__(
        self,
        in_channels: Count = 1,
        out_channels: Count | None = None,
        widths: Annotated[Sequence[int], Range(least=1)] = (64, 128),
        blocks: Annotated[int | Sequence[int], Range(least=1)] = (1, 3),
        up_blocks: Annotated[int | Sequence[int], Range(least=1)] | None = None,
        patch_size: Count = 2,
        attention_levels: Annotated[Sequence[int], Range()] = (-1,),
        num_heads: Count = 4,
        groups: Count = 8,
        scale_shift: bool = True,
        dropout: DropoutRate = 0.0,
        num_classes: CountOrZero = 0,
        time_features: Annotated[int, Range(least=2)] = 64,
        time_dim: Count = 128,
        time_scale: Finite = 1000.0,
        use_checkpoint: bool = False,
        head_width: Count | None = None,
        skip_every_map: bool = False,
        downsample: type[Downsample] = StridedConv,
        upsample: type[Upsample] = ShuffledConv,
        residual_scale: Positive = 1.0,
        learned_null: bool = True,
        xavier: bool = False,
    ) -> None:
        check_arguments(UNet, locals())
        levels = number_of_levels(widths)
        if not all(-levels <= level < levels for level in attention_levels):
            raise ValueError(f"attention_levels = {attention_levels!r}, expected levels in {-levels} .. {levels - 1}")
        super().__init__(
            in_channels,
            out_channels,
            num_classes,
            multiple=patch_size * 2 ** (levels - 1),
            use_checkpoint=use_checkpoint,
        )
        attending = [level in attention_levels or level - levels in attention_levels for level in range(levels)]
        wiring = (_every_map if skip_every_map else _one_skip)(widths, blocks, up_blocks, attending)
        block = partial(
            ResBlock,
            time_dim=time_dim,
            groups=groups,
            scale_shift=scale_shift,
            dropout=dropout,
            residual_scale=residual_scale,
        )
        kept: list[int] = []

        def stage(level: int, in_width: int, steps: Sequence[Step], keeps_input: bool = False) -> Stage:
            return Stage(in_width, widths[level], steps, kept, block, attention, keeps_input)

        def attention(width: int) -> ImageAttention:
            return ImageAttention(width, _heads(width, num_heads, head_width), groups, residual_scale)

        self.patch_size = patch_size
        self.time = TimeEmbedding(time_features, time_dim, time_scale)
        self.classes: nn.Module | None = None
        if num_classes:
            self.classes = ClassEmbedding(num_classes, time_dim) if learned_null else KnownClassEmbedding(num_classes, time_dim)
        self.stem = nn.Conv2d(in_channels * patch_size**2, widths[0], 3, padding=1)
        upper, entering, returning = range(levels - 1), wiring.entering, wiring.returning
        self.down = nn.ModuleList([stage(i, entering[i], wiring.down[i], wiring.keeps_input) for i in upper])
        self.downsample = nn.ModuleList([downsample(widths[i], entering[i + 1], block) for i in upper])
        self.middle = stage(levels - 1, entering[-1], wiring.middle, wiring.keeps_input)
        self.upsample = nn.ModuleList([upsample(widths[i + 1], returning[i], block) for i in reversed(upper)])
        self.up = nn.ModuleList([stage(i, returning[i], wiring.up[i]) for i in reversed(upper)])
        self.out_norm = group_norm(widths[0], groups)
        self.out = nn.Conv2d(widths[0], self.out_channels * patch_size**2, 3, padding=1)
        if xavier:
            self.apply(fan_averaged)
        zeroed(self.out)

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        e = self.time(c)
        if self.classes is not None:
            e = e + self.classes(cond["y"])
        e = F.silu(e)
        h = self.stem(F.pixel_unshuffle(x, self.patch_size))
        kept: list[Tensor] = []
        for stage, downsample in zip(self.down, self.downsample, strict=True):
            h = self.run(downsample, stage(h, e, kept, self.run), e)
        h = self.middle(h, e, kept, self.run)
        for upsample, stage in zip(self.upsample, self.up, strict=True):
            h = stage(self.run(upsample, h, e), e, kept, self.run)
        out: Tensor = self.out(F.silu(self.out_norm(h)))
        if self.patch_size == 1:
            return out
        return unpatchify(out.flatten(2).transpose(1, 2), self.patch_size, (x.shape[2], x.shape[3]))


def _heads(width: int, num_heads: int, head_width: int | None) -> int:
    if head_width is None:
        return num_heads
    if width % head_width:
        raise ValueError(f"head_width = {head_width!r} does not divide the width {width}")
    return width // head_width
