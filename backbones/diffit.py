"""DiffiT: vision transformers whose self-attention is told the time, token by token.

Queries, keys and values are each a linear function of the token x_s plus a linear function of the
embedding x_t of the time (and of the label, which is added to it),

    q_s = x_s W_qs + x_t W_qt + b_q,    k_s and v_s alike
    TMSA = softmax(q k^T / sqrt(d) + B) v

with B a table of biases, one for each head and each displacement between two places of a window;
every block has its own. A block is `x + TMSA(LN(x), t)`, then `x + MLP(LN(x))`. What the time does
there can be read off. Its part of the keys adds one number to the scores of all keys of a query,
which the softmax removes; its part of the values is the same for all tokens and leaves as it came.
So time turns the queries, and with them the attention map, and shifts the output.

`DiffiT` works on pixels. It is a U-shape of residual blocks

    x + Block(Conv3x3(SiLU(GN(x))), t)

whose attention stays inside windows of the feature map. `LatentDiffiT` is a plain stack of blocks
on the patches of a latent image, with the whole grid as the window.

Where the paper says two things or nothing, this was chosen:

- Blocks a level are 4 in one place and 1, 2, 2, 2 in another: `blocks` takes both, `DIFFIT_SIZES` has 4,
  on the way down and again on the way up; those of the lowest level are passed once.
- The channels change in the downsampler, a strided 3x3 convolution, since a residual block keeps its
  width. On the way up they change in the upsampler (1x1 convolution, pixel shuffle), and a 1x1 convolution
  brings the join with the skip back to the width of the level.
- The window is 8 for images of 64 px and 4 for 32 px: read as one window for all four levels, since it
  divides all their grids and is the whole of the last.
- Heads, groups and the width of the embedding of the image-space sizes are ours: 4, 32 and 512.
- Queries, keys and values have one bias, not one for the token and one for the time. The output
  projection has none: the weights of the softmax sum to 1, so the values' bias does its work.
- Nothing is added to the patches of the latent model, which knows places by its tables of biases alone.
  Its last layer is linear, after a norm without parameters, which that layer would absorb.

With these, 1000 classes, the null class and a learned variance (8 channels for 4) the latent model has
the published size (561 M), exactly 561,035,232 parameters:
`LatentDiffiT(32, 4, **DIFFIT_SIZES["XL/2"], num_classes=1000, out_channels=8)`.

References:
    DiffiT: diffusion vision transformers for image generation (Hatamizadeh et al., 2023) | https://arxiv.org/abs/2312.02139
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.attention import TimeDependentAttention, perceptron
from backbones.base import Backbone, DropoutRate, each_level, group_norm, number_of_levels, xavier, zeroed
from backbones.embeddings import (
    ClassEmbedding,
    ImageSize,
    TimeEmbedding,
    from_windows,
    image_size,
    patchify,
    to_windows,
    unpatchify,
)
from diffusion_core.ranges import Count, CountOrZero, Finite, Positive, Range, check_arguments

__all__ = ["DIFFIT_SIZES", "DiffiT", "DiffiTBlock", "DiffiTResBlock", "LatentDiffiT"]

_IMAGE_SPACE = {"widths": (128, 256, 256, 256), "blocks": 4, "groups": 32, "time_features": 128, "time_dim": 512}

DIFFIT_SIZES: dict[str, dict[str, Any]] = {
    "XL/2": {"patch_size": 2, "depth": 28, "hidden_dim": 1152, "num_heads": 16},
    "cifar10": {**_IMAGE_SPACE, "windows": 4},
    "ffhq64": {**_IMAGE_SPACE, "windows": 8},
}
"""The published sizes by name: "XL/2" are arguments of `LatentDiffiT`, those named after data arguments of `DiffiT`."""

_EPS = 1e-6  # of every layer norm


class DiffiTBlock(nn.Module):
    """A transformer block whose attention is told the time: (B, G, N, dim) -> (B, G, N, dim).

    Arguments:
        dim: the width of a token.
        time_dim: the width of the embedding of time.
        num_heads: the number of attention heads.
        window: height and width of a window, whose product is N.
        mlp_ratio: the width of the hidden layer of the perceptron, in units of dim.
        dropout: the dropout probability of both branches' outputs.
        dropout_attention: the dropout probability of the attention weights.
    """

    def __init__(
        self,
        dim: int,
        time_dim: int,
        num_heads: int,
        window: tuple[int, int],
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.attention = TimeDependentAttention(dim, time_dim, num_heads, window, dropout, dropout_attention)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)
        self.mlp = xavier(perceptron(dim, mlp_ratio, dropout))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Evaluate the block on windows x (B, G, N, dim) with the embedding e (B, time_dim)."""
        x = x + self.attention(self.norm1(x), e)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class DiffiTResBlock(nn.Module):
    """A convolution and a transformer block on the windows of a feature map: `x + Block(Conv3x3(SiLU(GN(x))), t)`.

    Arguments:
        dim: the width of the feature map.
        time_dim: the width of the embedding of time.
        num_heads: the number of attention heads.
        window: height and width of a window; it divides the feature map.
        groups: the number of groups of the norm, where it divides dim.
        settings: the other arguments of `DiffiTBlock`.
    """

    def __init__(
        self, dim: int, time_dim: int, num_heads: int, window: tuple[int, int], groups: int = 8, **settings: float
    ) -> None:
        super().__init__()
        self.window = window
        self.norm = group_norm(dim, groups)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.block = DiffiTBlock(dim, time_dim, num_heads, window, **settings)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Evaluate the block on x (B, dim, H, W) with the embedding e (B, time_dim)."""
        # Where autocast made the convolution narrow, the layer norms and the sums behind it stay as wide as the weights.
        h = self.conv(F.silu(self.norm(x))).to(self.conv.weight.dtype)
        return x + from_windows(self.block(to_windows(h, self.window), e), self.window, (x.shape[2], x.shape[3]))


class DiffiT(Backbone):
    """The image-space DiffiT.

    Arguments:
        img_size: the side of the images in pixels, or (height, width).
        in_channels: the number of channels of the input.
        widths: the width of each level, the finest first; any number of levels.
        blocks: residual blocks a level, on the way down and again on the way up, one number or one a level.
        windows: the side of the attention's windows in tokens, one number or one a level; 0 or None is
            the whole grid. It divides the level's grid, which at level l is the image, padded to a
            multiple of patch_size 2^(levels - 1), over patch_size 2^l.
        num_heads: the number of attention heads, one number or one a level.
        mlp_ratio: the width of the perceptrons' hidden layer, in units of the level's width.
        patch_size: the side of the pixel blocks that the stem folds into channels; 1 folds nothing.
        groups: the number of groups of the group norms; fewer where it does not divide a width.
        dropout: the dropout probability of the branches' outputs.
        dropout_attention: the dropout probability of the attention weights.
        num_classes: the number of classes; 0 is an unconditional network.
        time_features: the number of sinusoids of c.
        time_dim: the width of the embedding.
        time_scale: what c is multiplied by; 1000 suits c in [0, 1].
        use_checkpoint: trade time for memory in training.
        out_channels: the number of channels of the output; None means in_channels.

    Raises:
        ValueError: a setting out of its range, a window that does not divide its grid, heads that do not divide a
            width, not one value a level.
    """

    def __init__(
        self,
        img_size: ImageSize = 28,
        in_channels: Count = 1,
        widths: Annotated[Sequence[int], Range(least=1)] = (64, 128),
        blocks: Annotated[int | Sequence[int], Range(least=1)] = 2,
        windows: Annotated[int | Sequence[int | None], Range(least=0)] | None = None,
        num_heads: Annotated[int | Sequence[int], Range(least=1)] = 4,
        mlp_ratio: Positive = 4.0,
        patch_size: Count = 1,
        groups: Count = 8,
        dropout: DropoutRate = 0.0,
        dropout_attention: DropoutRate = 0.0,
        num_classes: CountOrZero = 0,
        time_features: Annotated[int, Range(least=2)] = 64,
        time_dim: Count = 128,
        time_scale: Finite = 1000.0,
        use_checkpoint: bool = False,
        out_channels: Count | None = None,
    ) -> None:
        check_arguments(DiffiT, locals())
        levels = number_of_levels(widths)
        multiple = patch_size * 2 ** (levels - 1)
        height, width = size = image_size(img_size, 1)
        super().__init__(in_channels, out_channels, num_classes, multiple, use_checkpoint, size)
        lowest = -(-height // multiple), -(-width // multiple)  # the grid of the lowest level, of the padded image
        counts, heads = each_level("blocks", blocks, levels), each_level("num_heads", num_heads, levels)
        sides = each_level("windows", windows, levels)
        settings = {"mlp_ratio": mlp_ratio, "dropout": dropout, "dropout_attention": dropout_attention}

        def stage(i: int) -> nn.ModuleList:
            window = _window(sides[i], (lowest[0] << levels - 1 - i, lowest[1] << levels - 1 - i), i)
            block = partial(DiffiTResBlock, widths[i], time_dim, heads[i], window, groups, **settings)
            return nn.ModuleList([block() for _ in range(counts[i])])

        upper = range(levels - 1)
        self.patch_size = patch_size
        self.time = xavier(TimeEmbedding(time_features, time_dim, time_scale))
        self.classes = ClassEmbedding(num_classes, time_dim) if num_classes else None
        self.tokenizer = nn.Conv2d(in_channels * patch_size**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList([stage(i) for i in upper])
        self.downsample = nn.ModuleList([nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in upper])
        self.middle = stage(levels - 1)
        self.upsample = nn.ModuleList([nn.Conv2d(widths[i + 1], 4 * widths[i], 1) for i in reversed(upper)])
        self.join = nn.ModuleList([nn.Conv2d(2 * widths[i], widths[i], 1) for i in reversed(upper)])
        self.up = nn.ModuleList([stage(i) for i in reversed(upper)])
        self.norm = group_norm(widths[0], groups)
        self.out = zeroed(nn.Conv2d(widths[0], self.out_channels * patch_size**2, 3, padding=1))

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        e = self.time(c)
        if self.classes is not None:
            e = e + self.classes(cond["y"])
        h = self.tokenizer(F.pixel_unshuffle(x, self.patch_size))
        kept = []
        for stage, downsample in zip(self.down, self.downsample, strict=True):
            h = self._stage(stage, h, e)
            kept.append(h)
            h = downsample(h)
        h = self._stage(self.middle, h, e)
        for upsample, join, stage in zip(self.upsample, self.join, self.up, strict=True):
            h = F.pixel_shuffle(upsample(h), 2)
            h = self._stage(stage, join(torch.cat([h, kept.pop()], dim=1)), e)
        out = self.out(self.norm(h)).flatten(2).transpose(1, 2)  # (B, H/p * W/p, p * p * C)
        return unpatchify(out, self.patch_size, (x.shape[2], x.shape[3]))

    def _stage(self, blocks: nn.Module, h: Tensor, e: Tensor) -> Tensor:
        for block in blocks.children():
            h = self.run(block, h, e)
        return h


class LatentDiffiT(Backbone):
    """The isotropic DiffiT, made for latent images.

    Arguments:
        img_size: the side of the images in pixels, or (height, width).
        in_channels: the number of channels of the input.
        patch_size: the side of a patch in pixels; it divides both sides of the image.
        depth: the number of blocks.
        hidden_dim: the width of a token and of the embedding.
        num_heads: the number of attention heads; it divides hidden_dim.
        mlp_ratio: the width of the perceptrons' hidden layer, in units of hidden_dim.
        dropout_attention: the dropout probability of the attention weights.
        num_classes: the number of classes; 0 is an unconditional network.
        use_checkpoint: trade time for memory in training.
        out_channels: the number of channels of the output; None means in_channels.
        dropout: the dropout probability of the branches' outputs.
        time_features: the number of sinusoids of c.
        time_scale: what c is multiplied by; 1000 suits c in [0, 1].

    Raises:
        ValueError: a setting out of its range, a patch size that does not divide the image, heads that do not divide the width.
    """

    def __init__(
        self,
        img_size: ImageSize = 32,
        in_channels: Count = 4,
        patch_size: Count = 2,
        depth: CountOrZero = 12,
        hidden_dim: Count = 384,
        num_heads: Count = 6,
        mlp_ratio: Positive = 4.0,
        dropout_attention: DropoutRate = 0.0,
        num_classes: CountOrZero = 0,
        use_checkpoint: bool = False,
        out_channels: Count | None = None,
        dropout: DropoutRate = 0.0,
        time_features: Annotated[int, Range(least=2)] = 256,
        time_scale: Finite = 1000.0,
    ) -> None:
        check_arguments(LatentDiffiT, locals())
        height, width = size = image_size(img_size, patch_size)
        super().__init__(in_channels, out_channels, num_classes, use_checkpoint=use_checkpoint, img_size=size)
        grid = height // patch_size, width // patch_size
        self.patch_size = patch_size
        self.embed = xavier(nn.Linear(patch_size**2 * in_channels, hidden_dim))
        self.time = xavier(TimeEmbedding(time_features, hidden_dim, time_scale))
        self.classes = ClassEmbedding(num_classes, hidden_dim) if num_classes else None
        block = partial(DiffiTBlock, hidden_dim, hidden_dim, num_heads, grid, mlp_ratio, dropout, dropout_attention)
        self.blocks = nn.ModuleList([block() for _ in range(depth)])
        self.norm = nn.LayerNorm(hidden_dim, eps=_EPS, elementwise_affine=False)
        self.out = zeroed(nn.Linear(hidden_dim, patch_size**2 * self.out_channels))

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        e = self.time(c)
        if self.classes is not None:
            e = e + self.classes(cond["y"])
        z = self.embed(patchify(x, self.patch_size)).to(x.dtype)[:, None]  # (B, 1, N, d), one window; wide under autocast
        for block in self.blocks:
            z = self.run(block, z, e)
        return unpatchify(self.out(self.norm(z[:, 0])), self.patch_size, (x.shape[2], x.shape[3]))


def _window(side: int, grid: tuple[int, int], level: int) -> tuple[int, int]:
    """The window of a level: the whole grid for side 0."""
    if side == 0:
        return grid
    if grid[0] % side or grid[1] % side:
        raise ValueError(f"a window of {side} x {side} does not divide the grid of level {level} ({grid[0]} x {grid[1]})")
    return side, side
