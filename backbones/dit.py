"""DiT: a vision transformer with four kinds of conditioning on time and class.

The image is cut into patches. Each patch becomes a token with a fixed sin-cos position, and `depth` blocks of the same
class follow. Time and class are embedded as vectors e_t and e_y. There are four block classes, which use them in
different ways:

    InContextBlock        e_t and e_y are two more tokens, which are removed after the last block
    CrossAttentionBlock   between self-attention and MLP, the tokens attend to the sequence (e_t, e_y)
    AdaLNBlock            shift and scale of both layer norms are linear in SiLU(e_t + e_y)
    AdaLNZeroBlock        like AdaLNBlock, with a gate on each residual branch

Shift, scale and gate of an AdaLNZeroBlock are 0 at initialisation, so a new block is the identity. For this reason it is
the best of the four in the paper, at equal compute. The block is:

    z = z + gate_1 * attention((1 + scale_1) * norm(z) + shift_1)
    z = z + gate_2 * mlp((1 + scale_2) * norm(z) + shift_2)

The block class also defines which tokens enter the first block and which layer follows the last one. `DiT` itself does
not depend on the block class. With `num_classes = 0` the network has only the time as a condition. The paper does not
say how the modulation of AdaLNBlock is initialised. Here the modulation is 0 at initialisation, so a new block is an
ordinary pre-norm block.

References:
    Scalable diffusion models with transformers (Peebles & Xie, 2023) | https://arxiv.org/abs/2212.09748
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.adaln import EPS, AdaLNFinalLayer, conditions, modulate
from backbones.attention import CrossAttention, TokenAttention, perceptron
from backbones.base import Backbone, DropoutRate, normal, xavier, zeroed
from backbones.embeddings import (
    ClassEmbedding,
    ImageSize,
    TimeEmbedding,
    image_size,
    patchify,
    sincos_positions,
    unpatchify,
)
from diffusion_core.ranges import Count, CountOrZero, Finite, Positive, Range, check_arguments

__all__ = [
    "DIT_SIZES",
    "AdaLNBlock",
    "AdaLNZeroBlock",
    "CrossAttentionBlock",
    "DiT",
    "DiTBlock",
    "FinalLayer",
    "InContextBlock",
]

DIT_SIZES: dict[str, dict[str, Any]] = {
    f"{name}/{patch_size}": {"patch_size": patch_size, "depth": depth, "hidden_dim": hidden_dim, "num_heads": num_heads}
    for name, depth, hidden_dim, num_heads in (("S", 12, 384, 6), ("B", 12, 768, 12), ("L", 24, 1024, 16), ("XL", 28, 1152, 16))
    for patch_size in (2, 4, 8)
}
"""The published sizes by name and patch size, "S/2" to "XL/8". Each entry has arguments of `DiT`."""


class FinalLayer(nn.Module):
    """The final layer, from tokens to patches: a layer norm and a linear layer that is 0 at initialisation.

    Arguments:
        dim: the width of a token.
        out_features: the number of output features of a patch.
    """

    def __init__(self, dim: int, out_features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.out = zeroed(nn.Linear(dim, out_features))

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """Map tokens to patches: (B, N, dim) -> (B, N, out_features). e is not used."""
        out: Tensor = self.out(self.norm(z))
        return out


class DiTBlock(nn.Module, ABC):
    """The base class of transformer blocks with time and class as conditions: (B, N, dim) -> (B, N, dim).

    Arguments:
        dim: the width of a token.
        num_heads: the number of attention heads.
        mlp_ratio: the width of the hidden layer of the MLP, in units of dim.
        dropout: the dropout probability of the outputs of the branches.
        dropout_attention: the dropout probability of the attention weights.
    """

    final_layer: ClassVar[type[FinalLayer] | type[AdaLNFinalLayer]] = FinalLayer
    """The layer after the last block."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = xavier(TokenAttention(dim, num_heads, True, dropout, dropout_attention))
        self.mlp = xavier(perceptron(dim, mlp_ratio, dropout, approximate="tanh"))

    @staticmethod
    def enter(z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input of the first block, and the condition that all blocks use.

        Arguments:
            z: the patch tokens (B, N, dim).
            e: the embedding of the time (B, 1, dim), or of time and class (B, 2, dim).

        Returns:
            The sequence, which starts with the patch tokens, and the condition of all blocks.
        """
        return z, e

    @abstractmethod
    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """Evaluate the block on the sequence z with the condition e. Both come from `enter`."""


class InContextBlock(DiTBlock):
    """A standard transformer block. Time and class are two more tokens of the sequence.

    The arguments are those of `DiTBlock`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, mlp_ratio, dropout, dropout_attention)
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)

    @staticmethod
    def enter(z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([z, e], dim=1), e

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        z = z + self.attention(self.norm1(z))
        out: Tensor = z + self.mlp(self.norm2(z))
        return out


class CrossAttentionBlock(DiTBlock):
    """A transformer block in which the tokens also attend to time and class by cross-attention.

    The arguments are those of `DiTBlock`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, mlp_ratio, dropout, dropout_attention)
        self.cross = xavier(CrossAttention(dim, num_heads, True, dropout, dropout_attention))
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.norm3 = nn.LayerNorm(dim, eps=EPS)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        z = z + self.attention(self.norm1(z))
        z = z + self.cross(self.norm2(z), e)
        out: Tensor = z + self.mlp(self.norm3(z))
        return out


class _ModulatedBlock(DiTBlock):
    """A block with `parts` modulation vectors, which are linear in SiLU(e_t + e_y) and 0 at initialisation."""

    final_layer = AdaLNFinalLayer
    parts: ClassVar[int]

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, mlp_ratio, dropout, dropout_attention)
        self.modulation = zeroed(nn.Linear(dim, self.parts * dim))

    @staticmethod
    def enter(z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return z, F.silu(e.sum(1))


class AdaLNBlock(_ModulatedBlock):
    """A transformer block with adaptive layer norms (adaLN): time and class determine their shift and scale.

    The arguments are those of `DiTBlock`.
    """

    name: ClassVar[str] = "adaln"
    parts = 4

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        shift_1, scale_1, shift_2, scale_2 = conditions(self.modulation, e, z, self.parts)
        z = z + self.attention(modulate(z, shift_1, scale_1))
        out: Tensor = z + self.mlp(modulate(z, shift_2, scale_2))
        return out


class AdaLNZeroBlock(_ModulatedBlock):
    """A transformer block with adaLN-Zero: time and class determine the shift, scale and gate of each residual branch.

    A new block is the identity. The arguments are those of `DiTBlock`.
    """

    name: ClassVar[str] = "adaln_zero"
    parts = 6

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = conditions(self.modulation, e, z, self.parts)
        z = torch.addcmul(z, gate_1, self.attention(modulate(z, shift_1, scale_1)))
        return torch.addcmul(z, gate_2, self.mlp(modulate(z, shift_2, scale_2)))


class DiT(Backbone):
    """DiT, the diffusion transformer: a vision transformer on patches.

    The published models learn mean and variance, so `out_channels = 2 * in_channels`:
    `DiT(32, 4, **DIT_SIZES["S/2"], num_classes=1000, out_channels=8)`.

    Arguments:
        img_size: (height, width) of the images in pixels, or one number for both.
        in_channels: the number of input channels.
        patch_size: the side of a patch in pixels, which must divide height and width. Each patch is one token.
        depth: the number of transformer blocks.
        hidden_dim: the width of a token; a multiple of 4 and of num_heads.
        num_heads: the number of attention heads of each block.
        mlp_ratio: the width of the hidden layer of the MLPs, in units of hidden_dim.
        dropout_attention: the dropout probability of the attention weights.
        num_classes: the number of classes of the labels; 0 means a network without labels.
        use_checkpoint: recompute activations in the backward pass instead of storing them. Training then needs less
            memory and more time.
        out_channels: the number of output channels; None means as many as in the input.
        dropout: the dropout probability of the outputs of attention and MLP layers; 0 suits short training runs.
        conditioning: the class of the transformer blocks. Each class uses the embeddings of time and label in a
            different way. `adaln_zero` is the best in the paper.
        time_features: the number of sinusoids in the embedding of the time.
        time_scale: the factor that the time is multiplied by before it is embedded; 1000 suits times in [0, 1].

    Raises:
        ValueError: a setting is out of its range, patch_size does not divide the image, or hidden_dim is not a multiple
            of 4 and of num_heads.
    """

    name: ClassVar[str] = "dit"

    positions: Tensor

    def __init__(
        self,
        img_size: ImageSize = 28,
        in_channels: Count = 1,
        patch_size: Count = 4,
        depth: CountOrZero = 4,
        hidden_dim: Count = 160,
        num_heads: Count = 5,
        mlp_ratio: Positive = 4.0,
        dropout_attention: DropoutRate = 0.0,
        num_classes: CountOrZero = 0,
        use_checkpoint: bool = False,
        out_channels: Count | None = None,
        dropout: DropoutRate = 0.0,
        conditioning: type[DiTBlock] = AdaLNZeroBlock,
        time_features: Annotated[int, Range(least=2)] = 256,
        time_scale: Finite = 1000.0,
    ) -> None:
        check_arguments(DiT, locals())
        height, width = size = image_size(img_size, patch_size)
        super().__init__(in_channels, out_channels, num_classes, use_checkpoint=use_checkpoint, img_size=size)
        self.patch_size = patch_size
        self.conditioning = conditioning
        grid = height // patch_size, width // patch_size
        self.register_buffer("positions", sincos_positions(grid, hidden_dim), persistent=False)
        self.embed = xavier(nn.Linear(patch_size**2 * in_channels, hidden_dim))
        self.time = normal(TimeEmbedding(time_features, hidden_dim, time_scale), std=0.02)
        self.classes = ClassEmbedding(num_classes, hidden_dim) if num_classes else None
        self.blocks = nn.ModuleList(
            [conditioning(hidden_dim, num_heads, mlp_ratio, dropout, dropout_attention) for _ in range(depth)]
        )
        self.final = conditioning.final_layer(hidden_dim, patch_size**2 * self.out_channels)

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        z = self.embed(patchify(x, self.patch_size)) + self.positions  # (B, N, d)
        e = self.time(c)[:, None]
        if self.classes is not None:
            e = torch.cat([e, self.classes(cond["y"])[:, None]], dim=1)  # (B, 2, d)
        patches = z.shape[1]
        z, e = self.conditioning.enter(z, e)
        for block in self.blocks:
            z = self.run(block, z, e)
        return unpatchify(self.final(z[:, :patches], e), self.patch_size, (x.shape[2], x.shape[3]))
