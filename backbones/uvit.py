"""U-ViT: a vision transformer with the long skip connections of a U-Net.

The patches of the image, the time and the class are tokens of one sequence:

    z = [time, class, patch_1, .., patch_N] + learned positions

The sequence passes through depth / 2 blocks, a middle block, and another depth / 2 blocks. The blocks after the middle
have long skip connections: the last block gets the output of the first block, the second last block that of the second
block, and so on. A block concatenates this output with its input z, and `Linear([z, skip])` maps them from 2 d to d
features. The time token is the vector of sinusoids of the time, without an MLP, as in the authors' default. A 3x3
convolution at the end smooths the borders of the patches. Leave this convolution out if the network has one logit
for each value of a pixel: with so many channels the convolution would cost more than the transformer.

All layers are initialised as published. The last layers have small random weights, so a new U-ViT returns small
numbers. The other backbones return 0.

References:
    All are worth words: a ViT backbone for diffusion models (Bao et al., 2023) | https://arxiv.org/abs/2209.12152
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from backbones.attention import TokenAttention, TokenLinear, perceptron
from backbones.base import Backbone, DropoutRate, truncated_normal
from backbones.embeddings import (
    ClassEmbedding,
    ImageSize,
    SinusoidalEmbedding,
    TimeEmbedding,
    image_size,
    patchify,
    unpatchify,
)
from diffusion_core.ranges import Count, CountOrZero, Finite, Positive, Range, check_arguments

__all__ = ["UVIT_SIZES", "TransformerBlock", "UViT"]

UVIT_SIZES: dict[str, dict[str, Any]] = {
    "S": {"depth": 12, "hidden_dim": 512, "num_heads": 8, "mlp_ratio": 4.0},
    "M": {"depth": 16, "hidden_dim": 768, "num_heads": 12, "mlp_ratio": 4.0},
    "L": {"depth": 20, "hidden_dim": 1024, "num_heads": 16, "mlp_ratio": 4.0},
    "H": {"depth": 28, "hidden_dim": 1152, "num_heads": 16, "mlp_ratio": 4.0},
}
"""The published sizes, as arguments of `UViT`. The paper also counts the middle block, so it has 13, 17, 21 and 29 layers."""


class TransformerBlock(nn.Module):
    """A pre-norm transformer block with an optional long skip connection: (B, N, dim) -> (B, N, dim).

    Arguments:
        dim: the width of a token.
        num_heads: the number of attention heads.
        mlp_ratio: the width of the hidden layer of the MLP, in units of dim.
        qkv_bias: whether queries, keys and values have a bias.
        dropout: the dropout probability of the outputs of both branches.
        dropout_attention: the dropout probability of the attention weights.
        skip: whether the block has a long skip connection.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.skip = truncated_normal(TokenLinear(2 * dim, dim)) if skip else None
        self.norm1 = nn.LayerNorm(dim)
        self.attention = truncated_normal(TokenAttention(dim, num_heads, qkv_bias, dropout, dropout_attention))
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = truncated_normal(perceptron(dim, mlp_ratio, dropout))

    def forward(self, z: Tensor, *skip: Tensor) -> Tensor:
        """Evaluate the block on z (B, N, dim). With a long skip connection, a second input `skip` (B, N, dim) is needed."""
        if self.skip is not None:
            # Keep the dtype of the residual stream, which is float32 even under autocast.
            z = self.skip(torch.cat([z, *skip], dim=-1)).to(z.dtype)
        z = z + self.attention(self.norm1(z))
        out: Tensor = z + self.mlp(self.norm2(z))
        return out


class UViT(Backbone):
    """U-ViT, a vision transformer with long skip connections.

    Arguments:
        img_size: (height, width) of the images in pixels, or one number for both.
        in_channels: the number of input channels.
        patch_size: the side of a patch in pixels, which must divide height and width. Each patch is one token.
        depth: the number of transformer blocks without the middle one; it must be even.
        hidden_dim: the width of a token; a multiple of num_heads.
        num_heads: the number of attention heads of each block.
        mlp_ratio: the width of the hidden layer of the MLPs, in units of hidden_dim.
        dropout_attention: the dropout probability of the attention weights.
        num_classes: the number of classes of the labels; 0 means a network without labels.
        use_checkpoint: recompute activations in the backward pass instead of storing them. Training then needs less
            memory and more time.
        out_channels: the number of output channels; None means as many as in the input.
        dropout: the dropout probability of the outputs of attention and MLP layers; 0 suits short training runs.
        qkv_bias: whether queries, keys and values have a bias.
        final_conv: whether a 3x3 convolution at the end smooths the borders of the patches. It is slow if the output has
            many channels, for example a logit for each value of a pixel.
        time_mlp: if True, the time token is a two-layer MLP of the sinusoids; if False, it is the sinusoids themselves.
        time_scale: the factor that the time is multiplied by before it is embedded; 1000 suits times in [0, 1].

    Raises:
        ValueError: a setting is out of its range, patch_size does not divide the image, depth is odd, or num_heads does
            not divide hidden_dim.
    """

    name: ClassVar[str] = "uvit"

    def __init__(
        self,
        img_size: ImageSize = 28,
        in_channels: Count = 1,
        patch_size: Count = 4,
        depth: CountOrZero = 4,
        hidden_dim: Annotated[int, Range(least=2)] = 192,
        num_heads: Count = 6,
        mlp_ratio: Positive = 3.0,
        dropout_attention: DropoutRate = 0.0,
        num_classes: CountOrZero = 0,
        use_checkpoint: bool = False,
        out_channels: Count | None = None,
        dropout: DropoutRate = 0.0,
        qkv_bias: bool = False,
        final_conv: bool = True,
        time_mlp: bool = False,
        time_scale: Finite = 1000.0,
    ) -> None:
        check_arguments(UViT, locals())
        height, width = size = image_size(img_size, patch_size)
        super().__init__(in_channels, out_channels, num_classes, use_checkpoint=use_checkpoint, img_size=size)
        if depth % 2:
            raise ValueError(f"depth = {depth}, expected an even number of blocks")
        self.patch_size = patch_size
        make = partial(TransformerBlock, hidden_dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias)
        make = partial(make, dropout=dropout, dropout_attention=dropout_attention)
        self.embed = nn.Linear(patch_size**2 * in_channels, hidden_dim)
        self.time: nn.Module = SinusoidalEmbedding(hidden_dim, time_scale)
        if time_mlp:
            self.time = truncated_normal(TimeEmbedding(hidden_dim, hidden_dim, time_scale, 4 * hidden_dim))
        # The std of torch's embeddings, which the authors keep: class vectors are as large as the other tokens.
        self.classes = ClassEmbedding(num_classes, hidden_dim, std=1.0) if num_classes else None
        self.extras = 2 if num_classes else 1
        tokens = self.extras + (height // patch_size) * (width // patch_size)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens, hidden_dim), std=0.02))
        half = depth // 2
        self.first = nn.ModuleList([make() for _ in range(half)])
        self.middle = make()
        self.second = nn.ModuleList([make(skip=True) for _ in range(half)])
        self.norm = nn.LayerNorm(hidden_dim)
        self.out = truncated_normal(nn.Linear(hidden_dim, patch_size**2 * self.out_channels))
        self.final = nn.Conv2d(self.out_channels, self.out_channels, 3, padding=1) if final_conv else nn.Identity()

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        # Sinusoids of a double-precision time get the dtype of the parameters. Autocast to half precision starts in the blocks.
        extras = [self.time(c).to(self.positions.dtype)[:, None]]
        if self.classes is not None:
            extras.append(self.classes(cond["y"])[:, None])
        z = torch.cat([*extras, self.embed(patchify(x, self.patch_size))], dim=1) + self.positions  # (B, extras + N, d)
        kept = []
        for block in self.first:
            z = self.run(block, z)
            kept.append(z)
        z = self.run(self.middle, z)
        for block in self.second:
            z = self.run(block, z, kept.pop())
        z = self.out(self.norm(z[:, self.extras :]))
        out: Tensor = self.final(unpatchify(z, self.patch_size, (x.shape[2], x.shape[3])))
        return out
