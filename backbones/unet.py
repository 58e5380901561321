"""The U-Net: residual blocks at falling and then rising resolution, with skip connections.

The feature maps of level l have 1 / (patch_size 2^l) of the resolution of the image. A skip connection has two ends. On
the way down, a feature map is stored ("keep"). On the way up, the stored map is concatenated with the input of a block
("join"). The map that was stored last is used first. There are two wirings, one for a compact U-Net and one for the
U-Nets of the papers:

    one skip per level                            a skip from every map (`skip_every_map`)

    n blocks, keep --------> join, m blocks       keep, n x (block, keep) -------> (n + 1) x (join, block)
       down                       up                 down                               up
         n blocks, keep --> join, m blocks             keep, n x (block, keep) --> (n + 1) x (join, block)
            n blocks of the lowest level                  block, attention, block

n and m are the numbers of blocks of a level on the way down and on the way up (`blocks`, `up_blocks`).

The compact network is the default. It stores the last map of each level. Its lowest level is the middle of the network,
with attention between the blocks. Resolution and width change in the same layer: a strided convolution on the way down,
and a 1x1 convolution with a pixel shuffle on the way up.

The published networks store every map, including the output of the stem and of each downsampling. A level therefore has
one more block on the way up than on the way down. The first block of a level changes the width. In the levels of
`attention_levels`, attention follows each block, and the middle always has attention. The published networks differ in
how they use the embedding, in the layers that change the resolution, in their heads and in their initialisation: see
`UNET_SIZES`.

Two arguments are classes: the block of every level (`resblocks.py`, `convnext.py`) and the attention layer
(`image_attention.py`). Blocks use the embedding of time and class. Attention layers use the embedding of the class only.

The patch stem (space to depth) makes the compact network fast on a CPU. With patch_size = 2 the feature maps of a 28x28
image are 14x14, so a convolution costs a quarter. No information is lost, because the four pixels become channels. A new
network returns exactly 0, with any settings.

Under autocast the norms and the softmax are computed in float32, but a CPU rounds their results to bfloat16.

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
from einops import rearrange
from torch import Tensor, nn

from backbones.base import Backbone, DropoutRate, group_norm, number_of_levels, one_or_each, zeroed
from backbones.convnext import ConvNeXtBlock
from backbones.embeddings import ClassEmbedding, TimeEmbedding, unpatchify
from backbones.image_attention import ImageAttention, UNetAttention
from backbones.resampling import Downsample, NearestConv, ResidualDown, ResidualUp, ShuffledConv, StridedConv, Upsample
from backbones.resblocks import ResBlock, Stage, Step, UNetBlock, fan_averaged
from diffusion_core.ranges import Count, CountOrZero, Finite, Positive, Range, check_arguments

__all__ = ["UNET_SIZES", "KnownClassEmbedding", "UNet", "Wiring"]

_PUBLISHED: dict[str, Any] = {
    "patch_size": 1,
    "groups": 32,
    "skip_every_map": True,
    "downsample": StridedConv,
    "upsample": NearestConv,
}

_CIFAR10: dict[str, Any] = {
    **_PUBLISHED,
    "widths": (128, 256, 256, 256),
    "blocks": 3,
    "attention_levels": (1, 2),  # 16 and 8 px
    "num_heads": 4,
    "time_features": 128,
    "time_dim": 512,
}

UNET_SIZES: dict[str, dict[str, Any]] = {
    # 3 channels in and out: 35,746,307 parameters. (The strided convolutions of the authors pad only below and right, and
    # their sinusoids are spaced by 1 / (half - 1).)
    "ddpm_cifar10": {
        **_CIFAR10,
        "blocks": 2,
        "attention_levels": (1,),  # 16 px
        "num_heads": 1,
        "scale_shift": False,
        "dropout": 0.1,
        "xavier": True,
    },
    # 3 channels in, 6 out (a learned variance): 52,546,438 parameters
    "iddpm_cifar10": {**_CIFAR10, "dropout": 0.3},
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
    # Two sizes of our own, with ConvNeXt blocks. 1 channel in, 6 out: 2,001,816 parameters
    "convnext_mnist": {"blocks": (2, 7), "block": ConvNeXtBlock},
    # 3 channels in and out: the wiring of improved DDPM, 36,373,379 parameters
    "convnext_cifar10": {**_CIFAR10, "dropout": 0.1, "block": ConvNeXtBlock},
}


class KnownClassEmbedding(nn.Embedding):
    """A learned vector for each class, and 0 for the null class: (B,) in 0 .. num_classes -> (B, dim).

    It is the embedding of ADM (Dhariwal & Nichol, 2021), which has no vector for "no label". Without a label, the network
    gets only the embedding of the time.

    Arguments:
        num_classes: the number of classes, without the null class.
        dim: the width of the embedding.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__(num_classes, dim)

    def forward(self, y: Tensor) -> Tensor:
        """Return the vectors of the labels y (B,)."""
        known = (y < self.num_embeddings)[:, None]
        return super().forward(y.long().clamp(max=self.num_embeddings - 1)) * known


@dataclass(frozen=True)
class Wiring:
    """The blocks of each level with their skip connections and attention, and the widths between the levels.

    Arguments:
        entering: the input width of each level on the way down.
        returning: the input width of each level except the lowest on the way up, before maps are concatenated.
        down: the blocks of each level except the lowest on the way down, finest level first.
        middle: the blocks of the lowest level, down and up.
        up: the blocks of each level except the lowest on the way up, finest level first.
        keeps_input: whether each level also stores its input for a skip connection.
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
    """The wiring of the compact network: a level stores its last map, and resolution and width change in the same layer."""
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
    """The wiring of the published networks: every map is stored, and the first block of a level changes the width."""
    counts = one_or_each("blocks", blocks, len(widths))
    if up_blocks is not None and one_or_each("up_blocks", up_blocks, len(widths)) != [n + 1 for n in counts]:
        raise ValueError(f"up_blocks = {up_blocks}, expected {tuple(n + 1 for n in counts)} with skip_every_map, or None")
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
    """The U-Net, by default a compact one. `UNET_SIZES` has the published sizes, and two with ConvNeXt blocks.

    Arguments:
        in_channels: the number of input channels.
        out_channels: the number of output channels; None means as many as in the input.
        widths: the number of channels of each level, finest level first.
        blocks: the number of residual blocks of each level on the way down, one number for all levels or one per level.
            Blocks are cheapest in the coarsest level.
        up_blocks: the number of residual blocks of each level on the way up, one number for all levels or one per level;
            None means as many as on the way down, or one more with skip_every_map. Without skip_every_map, the number
            for the coarsest level has no effect, because that level has no blocks on the way up.
        patch_size: the side p of a patch. The stem turns each patch of p x p pixels into one position with p^2 times as
            many channels (space to depth); 1 means no change. With 2, the feature maps have a quarter of the positions,
            so a convolution costs a quarter. No information is lost.
        attention_levels: the levels that have attention. 0 is the finest level, -1 the coarsest. Attention is cheapest in the
            coarsest level.
        num_heads: the number of attention heads.
        groups: the largest number of groups of a group norm; fewer are used if it does not divide the number of channels.
        scale_shift: if True, the embedding scales and shifts the output of the second norm of a residual block; if False, the
            embedding is added to the input of that norm.
        dropout: the dropout probability inside residual blocks; 0 suits short training runs.
        num_classes: the number of classes of the labels; 0 means a network without labels.
        time_features: the number of sinusoids in the embedding of the time.
        time_dim: the width of the embedding of time and label.
        time_scale: the factor that the time is multiplied by before it is embedded; 1000 suits times in [0, 1].
        use_checkpoint: recompute activations in the backward pass instead of storing them. Training then needs less
            memory and more time.
        head_width: the width of an attention head. A layer of C channels then has C / head_width heads, and num_heads has no
            effect. None means num_heads heads.
        skip_every_map: if True, every feature map of the way down has a skip connection, as in the papers; if False, only the
            last map of each level has one.
        downsample: the layer that halves the resolution between two levels. `residual` is the block of BigGAN.
        upsample: the layer that doubles the resolution between two levels. `nearest_conv` is the layer of DDPM, `residual` the
            block of BigGAN.
        residual_scale: the factor gamma of residual blocks and attention layers. Their output is `gamma (input + update)`. If
            the input and the update have equal variances, sqrt(1/2) keeps the variance.
        learned_null: if True, a network with labels learns a vector for "no label"; if False, this vector is 0.
        xavier: if True, weights are initialised as in DDPM; if False, as by default in torch.
        block: the block of every level. `conv_next` has fewer weights than `residual`, and kernels of 7x7 instead of 3x3
            pixels.
        attention: the attention layer. `softmax` compares all pairs of pixels. The cost of `linear` grows linearly with
            the number of pixels. `class` is `softmax` in which pixels also attend to the label, so num_classes must be
            at least 1. `channel` multiplies each channel by a number and does not compare pixels.

    Raises:
        ValueError: a setting is out of its range, the heads do not divide the width of a level with attention, or
            attention is `class` and num_classes is 0.
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
        block: type[UNetBlock] = ResBlock,
        attention: type[UNetAttention] = ImageAttention,
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
        make_block = partial(
            block,
            time_dim=time_dim,
            groups=groups,
            scale_shift=scale_shift,
            dropout=dropout,
            residual_scale=residual_scale,
        )
        kept: list[int] = []

        def stage(level: int, in_width: int, steps: Sequence[Step], keeps_input: bool = False) -> Stage:
            return Stage(in_width, widths[level], steps, kept, make_block, make_attention, keeps_input)

        def make_attention(width: int) -> UNetAttention:
            heads = _heads(width, num_heads, head_width)
            return attention(width, heads, groups, residual_scale, time_dim if num_classes else None)

        self.patch_size = patch_size
        self.time = TimeEmbedding(time_features, time_dim, time_scale)
        self.classes: nn.Module | None = None
        if num_classes:
            self.classes = ClassEmbedding(num_classes, time_dim) if learned_null else KnownClassEmbedding(num_classes, time_dim)
        self.stem = nn.Conv2d(in_channels * patch_size**2, widths[0], 3, padding=1)
        upper, entering, returning = range(levels - 1), wiring.entering, wiring.returning
        self.down = nn.ModuleList([stage(i, entering[i], wiring.down[i], wiring.keeps_input) for i in upper])
        self.downsample = nn.ModuleList([downsample(widths[i], entering[i + 1], make_block) for i in upper])
        self.middle = stage(levels - 1, entering[-1], wiring.middle, wiring.keeps_input)
        self.upsample = nn.ModuleList([upsample(widths[i + 1], returning[i], make_block) for i in reversed(upper)])
        self.up = nn.ModuleList([stage(i, returning[i], wiring.up[i]) for i in reversed(upper)])
        self.out_norm = group_norm(widths[0], groups)
        self.out = nn.Conv2d(widths[0], self.out_channels * patch_size**2, 3, padding=1)
        if xavier:
            self.apply(fan_averaged)
        zeroed(self.out)

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        label = None if self.classes is None else self.classes(cond["y"])
        e = F.silu(self.time(c) if label is None else self.time(c) + label)
        h = self.stem(F.pixel_unshuffle(x, self.patch_size))
        kept: list[Tensor] = []
        for stage, downsample in zip(self.down, self.downsample, strict=True):
            h = self.run(downsample, stage(h, e, label, kept, self.run), e)
        h = self.middle(h, e, label, kept, self.run)
        for upsample, stage in zip(self.upsample, self.up, strict=True):
            h = stage(self.run(upsample, h, e), e, label, kept, self.run)
        out: Tensor = self.out(F.silu(self.out_norm(h)))
        if self.patch_size == 1:
            return out
        return unpatchify(rearrange(out, "b d h w -> b (h w) d"), self.patch_size, (x.shape[2], x.shape[3]))


def _heads(width: int, num_heads: int, head_width: int | None) -> int:
    if head_width is None:
        return num_heads
    if width % head_width:
        raise ValueError(f"head_width = {head_width!r} does not divide the width {width}")
    return width // head_width
