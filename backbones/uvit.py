"""U-ViT: a vision transformer with the long skip connections of a U-Net.

The image, the time and the class are all tokens of one sequence,

    z = [time, class, patch_1, .., patch_N] + learned positions

which passes depth / 2 blocks, a middle block and depth / 2 blocks; a block of the second half
first joins its input with the output of its mirror image in the first half,
`Linear([z, skip])` from 2 d to d. The time token is the sinusoids themselves, with no perceptron
(the authors' default). A 3x3 convolution smooths the patch borders away at the end; it is left
out where a pixel has S logits, whose convolution would cost more than the transformer.

Every layer starts as published, the last ones with small random weights: a fresh U-ViT outputs small
numbers, not 0 as the other backbones do.

References:
    All are worth words: a ViT backbone for diffusion models (Bao et al., 2023) | https://arxiv.org/abs/2209.12152
"""

from __future__ import annotations

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
"""The published sizes: arguments of `UViT`. The paper's tables count the middle block too: 13, 17, 21 and 29 layers."""


class TransformerBlock(nn.Module):
    """A pre-norm transformer block, with a long skip connection where asked: (B, N, dim) -> (B, N, dim).

    Arguments:
        dim: the width of a token.
        num_heads: the number of attention heads.
        mlp_ratio: the width of the hidden layer of the perceptron, in units of dim.
        qkv_bias: whether queries, keys and values have a bias.
        dropout: the dropout probability of both branches' outputs.
        dropout_attention: the dropout probability of the attention weights.
        skip: whether the block joins a long skip connection.
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
        """Evaluate the block on z, joined with the one `skip` (B, N, dim) where it has a long skip connection."""
        if self.skip is not None:
            # The sum of the branches stays in the dtype it has, float32 under autocast too.
            z = self.skip(torch.cat([z, *skip], dim=-1)).to(z.dtype)
        z = z + self.attention(self.norm1(z))
        out: Tensor = z + self.mlp(self.norm2(z))
        return out


class UViT(Backbone):
    """U-ViT: a transformer with skip connections from its first half to its second.

    Arguments:
        img_size: the height and the width of the images in pixels; one number is both.
        in_channels: the number of channels of the input.
        patch_size: the side of a patch in pixels; it divides both sides of the image. Each patch is one token.
        depth: the number of transformer blocks beside the middle one; an even number.
        hidden_dim: the width of a token; num_heads divides it.
        num_heads: the number of heads of each attention.
        mlp_ratio: the width of the hidden layer of the perceptrons, in units of hidden_dim.
        dropout_attention: the probability of dropping an attention weight in training.
        num_classes: the number of classes that images are labelled with; 0 is a network without labels.
        use_checkpoint: compute activations again in the backward pass instead of keeping them: training needs
            less memory and more time.
        out_channels: the number of channels of the output; None means as many as in the input.
        dropout: the probability of dropping an output of an attention or a perceptron in training; 0 suits short trainings.
        qkv_bias: queries, keys and values have a bias.
        final_conv: a 3x3 convolution smooths the borders of the patches at the end. It is costly where the output has many
            channels, as with a logit for each value of a pixel.
        time_mlp: a perceptron of two layers follows the sinusoids of the time; else the sinusoids are the time's token.
        time_scale: what the time is multiplied by before its sinusoids are formed; 1000 suits times in [0, 1].

    Raises:
        ValueError: a setting out of its range, a patch size that does not divide the image, an odd depth, heads that
            do not divide the width.
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
        settings: dict[str, Any] = {
            "mlp_ratio": mlp_ratio,
            "qkv_bias": qkv_bias,
            "dropout": dropout,
            "dropout_attention": dropout_attention,
        }
        self.embed = nn.Linear(patch_size**2 * in_channels, hidden_dim)
        self.time: nn.Module = SinusoidalEmbedding(hidden_dim, time_scale)
        if time_mlp:
            self.time = truncated_normal(TimeEmbedding(hidden_dim, hidden_dim, time_scale, 4 * hidden_dim))
        # Of the size of the other tokens, as torch starts a table and the authors leave it.
        self.classes = ClassEmbedding(num_classes, hidden_dim, std=1.0) if num_classes else None
        self.extras = 2 if num_classes else 1
        tokens = self.extras + (height // patch_size) * (width // patch_size)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens, hidden_dim), std=0.02))
        half = depth // 2
        self.first = nn.ModuleList([TransformerBlock(hidden_dim, num_heads, **settings) for _ in range(half)])
        self.middle = TransformerBlock(hidden_dim, num_heads, **settings)
        self.second = nn.ModuleList([TransformerBlock(hidden_dim, num_heads, skip=True, **settings) for _ in range(half)])
        self.norm = nn.LayerNorm(hidden_dim)
        self.out = truncated_normal(nn.Linear(hidden_dim, patch_size**2 * self.out_channels))
        self.final = nn.Conv2d(self.out_channels, self.out_channels, 3, padding=1) if final_conv else nn.Identity()

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        # Sinusoids of a double-precision time come down to the parameters' dtype; half precision starts inside the blocks.
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
