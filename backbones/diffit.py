"""DiffiT: vision transformers with time-dependent self-attention.

Queries, keys and values are the sum of a linear function of the token x_s and a linear function of the time embedding
x_t. The embedding of the label is added to x_t.

    q_s = x_s W_qs + x_t W_qt + b_q,    and the same for k_s and v_s
    TMSA = softmax(q k^T / sqrt(d) + B) v

B is a learned table of biases, one for each head and each displacement between two positions of a window. Every block
has its own table. A block is `x + TMSA(LN(x), t)`, then `x + MLP(LN(x))`.

The formula shows what the time changes. The time part of the keys adds the same number to the scores of all keys of a
query, and the softmax removes it. The time part of the values is the same for all tokens, so it is added to the output
unchanged. The time therefore changes the queries, and with them the attention map, and it shifts the output.

`DiffiT` works on pixels. It is a U-shaped network of residual blocks

    x + Block(Conv3x3(SiLU(GN(x))), t)

with attention inside windows of the feature map. `LatentDiffiT` is a stack of blocks on the patches of a latent image.
Its window is the whole grid.

The paper does not define the following points clearly. Our choices are:

- The paper has 4 blocks per level in one place and 1, 2, 2, 2 in another. `blocks` allows both, and `DIFFIT_SIZES` has
  4. Each level has its blocks on the way down and again on the way up. The lowest level has them once.
- A residual block keeps the number of channels. The downsampler, a strided 3x3 convolution, changes it. On the way up
  the upsampler (1x1 convolution, pixel shuffle) changes it. A 1x1 convolution then maps the concatenation with the
  skip connection to the width of the level.
- The paper has windows of 8 for images of 64 px and of 4 for 32 px. We use the same window on all four levels. This
  window divides the feature maps of all levels, and it covers the whole feature map of the last level.
- The paper does not give the heads, groups and embedding width of the image-space sizes. We use 4, 32 and 512.
- Queries, keys and values have one bias each. There are no separate biases for the token and for the time. The output
  projection has no bias: the weights of the softmax sum to 1, so the bias of the values has the same effect.
- The latent model adds no positions to its patches. Only the tables of biases give it information about positions. Its
  last layer is linear. The norm before it has no parameters, because the linear layer can represent their effect.

With these choices the latent model has the published size (561 M): exactly 561,035,232 parameters. This is for 1000
classes, the null class and a learned variance (8 output channels for 4 input channels):
`LatentDiffiT(32, 4, **DIFFIT_SIZES["XL/2"], num_classes=1000, out_channels=8)`.

References:
    DiffiT: diffusion vision transformers for image generation (Hatamizadeh et al., 2023) | https://arxiv.org/abs/2312.02139
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from backbones.attention import TimeDependentAttention, perceptron
from backbones.base import Backbone, DropoutRate, group_norm, number_of_levels, one_or_each, xavier, zeroed
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

_IMAGE_SPACE = {
    "widths": (128, 256, 256, 256),
    "blocks": 4,
    "patch_size": 1,
    "groups": 32,
    "time_features": 128,
    "time_dim": 512,
}

DIFFIT_SIZES: dict[str, dict[str, Any]] = {
    "XL/2": {"patch_size": 2, "depth": 28, "hidden_dim": 1152, "num_heads": 16},
    "cifar10": {**_IMAGE_SPACE, "windows": 4},
    "ffhq64": {**_IMAGE_SPACE, "windows": 8},
}
"""The published sizes by name. "XL/2" has arguments of `LatentDiffiT`.

"cifar10" and "ffhq64" are named after data sets and have arguments of `DiffiT`.
"""

_EPS = 1e-6  # of all layer norms


class DiffiTBlock(nn.Module):
    """A transformer block with time-dependent attention: (B, G, N, dim) -> (B, G, N, dim).

    Arguments:
        dim: the width of a token.
        time_dim: the width of the time embedding.
        num_heads: the number of attention heads.
        window: height and width of a window; their product is N.
        mlp_ratio: the width of the hidden layer of the MLP, in units of dim.
        dropout: the dropout probability of the outputs of both branches.
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
    """A convolution and a transformer block on windows of a feature map: `x + Block(Conv3x3(SiLU(GN(x))), t)`.

    Arguments:
        dim: the width of the feature map.
        time_dim: the width of the time embedding.
        num_heads: the number of attention heads.
        window: height and width of a window, which must divide the feature map.
        groups: the largest number of groups of the norm; fewer are used if it does not divide dim.
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
        # Under autocast the convolution returns half precision. Layer norms and sums after it use the dtype of the weights.
        h = self.conv(F.silu(self.norm(x))).to(self.conv.weight.dtype)
        return x + from_windows(self.block(to_windows(h, self.window), e), self.window, (x.shape[2], x.shape[3]))


class DiffiT(Backbone):
    """DiffiT for pixels: a U-shaped vision transformer with time-dependent attention inside windows.

    Arguments:
        img_size: (height, width) of the images in pixels, or one number for both.
        in_channels: the number of input channels.
        widths: the number of channels of each level, finest level first.
        blocks: the number of residual blocks of each level, one number for all levels or one per level. Each level has them
            on the way down and again on the way up; the coarsest level has them once.
        windows: the side of the attention windows, in pixels of the level's feature map, one number for all levels or one
            per level. It must divide both sides of the feature map; 0 means one window that covers the feature map.
        num_heads: the number of attention heads, one number for all levels or one per level.
        mlp_ratio: the width of the hidden layer of the MLPs, in units of the width of their level.
        patch_size: the side p of a patch. The first layer turns each patch of p x p pixels into one position with p^2
            times as many channels (space to depth); 1 means no change. With 2, a convolution costs a quarter. No
            information is lost.
        groups: the largest number of groups of a group norm; fewer are used if it does not divide the number of channels.
        dropout: the dropout probability of the outputs of attention and MLP layers; 0 suits short training runs.
        dropout_attention: the dropout probability of the attention weights.
        num_classes: the number of classes of the labels; 0 means a network without labels.
        time_features: the number of sinusoids in the embedding of the time.
        time_dim: the width of the embedding of time and label.
        time_scale: the factor that the time is multiplied by before it is embedded; 1000 suits times in [0, 1].
        use_checkpoint: recompute activations in the backward pass instead of storing them. Training then needs less
            memory and more time.
        out_channels: the number of output channels; None means as many as in the input.

    Raises:
        ValueError: a setting is out of its range, a window does not divide its feature map, num_heads does not divide a
            width, or a setting has neither one value nor one value per level.
    """

    name: ClassVar[str] = "diffit"

    def __init__(
        self,
        img_size: ImageSize = 28,
        in_channels: Count = 1,
        widths: Annotated[Sequence[int], Range(least=1)] = (64, 128),
        blocks: Annotated[int | Sequence[int], Range(least=1)] = (1, 4),
        windows: Annotated[int | Sequence[int], Range(least=0)] = (7, 0),
        num_heads: Annotated[int | Sequence[int], Range(least=1)] = 4,
        mlp_ratio: Positive = 4.0,
        patch_size: Count = 2,
        groups: Count = 8,
        dropout: DropoutRate = 0.0,
        dropout_attention: DropoutRate = 0.0,
        num_classes: CountOrZero = 0,
        time_features: Annotated[int, Range(least=2)] = 64,
        time_dim: Count = 144,
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
        counts, heads = one_or_each("blocks", blocks, levels), one_or_each("num_heads", num_heads, levels)
        sides = one_or_each("windows", windows, levels)
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
        out = rearrange(self.out(self.norm(h)), "b d h w -> b (h w) d")
        return unpatchify(out, self.patch_size, (x.shape[2], x.shape[3]))

    def _stage(self, blocks: nn.Module, h: Tensor, e: Tensor) -> Tensor:
        for block in blocks.children():
            h = self.run(block, h, e)
        return h


class LatentDiffiT(Backbone):
    """DiffiT for latent images: transformer blocks with time-dependent attention on patches.

    Arguments:
        img_size: (height, width) of the images in pixels, or one number for both.
        in_channels: the number of input channels.
        patch_size: the side of a patch in pixels, which must divide height and width. Each patch is one token.
        depth: the number of transformer blocks.
        hidden_dim: the width of a token and of the embedding of time and label; a multiple of num_heads.
        num_heads: the number of attention heads of each block.
        mlp_ratio: the width of the hidden layer of the MLPs, in units of hidden_dim.
        dropout_attention: the dropout probability of the attention weights.
        num_classes: the number of classes of the labels; 0 means a network without labels.
        use_checkpoint: recompute activations in the backward pass instead of storing them. Training then needs less
            memory and more time.
        out_channels: the number of output channels; None means as many as in the input.
        dropout: the dropout probability of the outputs of attention and MLP layers; 0 suits short training runs.
        time_features: the number of sinusoids in the embedding of the time.
        time_scale: the factor that the time is multiplied by before it is embedded; 1000 suits times in [0, 1].

    Raises:
        ValueError: a setting is out of its range, patch_size does not divide the image, or num_heads does not divide
            hidden_dim.
    """

    name: ClassVar[str] = "latent_diffit"

    def __init__(
        self,
        img_size: ImageSize = 28,
        in_channels: Count = 1,
        patch_size: Count = 4,
        depth: CountOrZero = 4,
        hidden_dim: Count = 176,
        num_heads: Count = 4,
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
        z = self.embed(patchify(x, self.patch_size)).to(x.dtype)[:, None]  # (B, 1, N, d), one window, in the dtype of x
        for block in self.blocks:
            z = self.run(block, z, e)
        return unpatchify(self.out(self.norm(z[:, 0])), self.patch_size, (x.shape[2], x.shape[3]))


def _window(side: int, grid: tuple[int, int], level: int) -> tuple[int, int]:
    """Return the window of a level. Side 0 means the whole grid."""
    if side == 0:
        return grid
    if grid[0] % side or grid[1] % side:
        raise ValueError(f"a window of {side} x {side} does not divide the grid of level {level} ({grid[0]} x {grid[1]})")
    return side, side
