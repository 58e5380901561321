"""DiT: a plain vision transformer, and four ways to tell it the time and the class.

The image is cut into patches, each becomes a token with a fixed sin-cos position, and `depth`
equal blocks follow. Time and class are embedded as vectors e_t and e_y. A block of width d is told
them in one of four ways, each a class here:

    InContextBlock        e_t and e_y are two more tokens, dropped after the last block
    CrossAttentionBlock   tokens attend to the sequence (e_t, e_y) between self-attention and perceptron
    AdaLNBlock            shift and scale of both layer norms are linear in SiLU(e_t + e_y)
    AdaLNZeroBlock        so is a gate on each residual branch, and all three are 0 when fresh

The last is the best of them in the paper at equal arithmetic, since a fresh block is the identity:

    z = z + gate_1 * attention((1 + scale_1) * norm(z) + shift_1)
    z = z + gate_2 * mlp((1 + scale_2) * norm(z) + shift_2)

What a conditioning asks of the rest of the network, which tokens enter the first block and which
layer follows the last one, is said by its block class; `DiT` itself does not know which one it has.
With `num_classes = 0` only the time is told. The paper does not say how the modulation of
AdaLNBlock starts: here at 0, so that a fresh one is an ordinary pre-norm block.

References:
    Scalable diffusion models with transformers (Peebles & Xie, 2023) | https://arxiv.org/abs/2212.09748
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    "AdaLNFinalLayer",
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
"""The published sizes by name and patch size, "S/2" to "XL/8": arguments of `DiT`."""

_EPS = 1e-6
"""Of every layer norm, as published; torch's default is ten times as large."""


def _conditions(modulation: nn.Linear, e: Tensor, z: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Shifts, scales and gates, each (B, 1, d), from the condition e (B, d); as wide as z, under autocast too."""
    conditions: Tensor = modulation(e).to(z.dtype).unsqueeze(1)
    return conditions.chunk(parts, dim=-1)


def _modulate(z: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The layer norm of z (B, N, d) without parameters, then `(1 + scale) z + shift`; shift and scale (B, 1, d)."""
    return torch.addcmul(shift, F.layer_norm(z, z.shape[-1:], eps=_EPS), 1 + scale)


class FinalLayer(nn.Module):
    """From tokens to patches: a layer norm and a linear layer, which is 0 when fresh.

    Arguments:
        dim: the width of a token.
        out_features: the numbers of a patch.
    """

    def __init__(self, dim: int, out_features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.out = zeroed(nn.Linear(dim, out_features))

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """The patches of the tokens: (B, N, dim) -> (B, N, out_features)."""
        out: Tensor = self.out(self.norm(z))
        return out


class AdaLNFinalLayer(nn.Module):
    """From tokens to patches: a layer norm with shift and scale linear in the condition, and a linear layer; both 0 when fresh.

    Arguments:
        dim: the width of a token.
        out_features: the numbers of a patch.
    """

    def __init__(self, dim: int, out_features: int) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(dim, 2 * dim))
        self.out = zeroed(nn.Linear(dim, out_features))

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """The patches of the tokens under the condition e (B, dim): (B, N, dim) -> (B, N, out_features)."""
        shift, scale = _conditions(self.modulation, e, z, 2)
        out: Tensor = self.out(_modulate(z, shift, scale))
        return out


class DiTBlock(nn.Module, ABC):
    """A transformer block that is told time and class: (B, N, dim) -> (B, N, dim).

    Arguments:
        dim: the width of a token.
        num_heads: the number of attention heads.
        mlp_ratio: the width of the hidden layer of the perceptron, in units of dim.
        dropout: the dropout probability of the branches' outputs.
        dropout_attention: the dropout probability of the attention weights.
    """

    final_layer: ClassVar[type[FinalLayer] | type[AdaLNFinalLayer]] = FinalLayer
    """What follows the last block."""

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
        """What the first block takes, computed once for all blocks.

        Arguments:
            z: the patches' tokens (B, N, dim).
            e: the embeddings (B, 1 or 2, dim) of the time and, in a conditional network, the class.

        Returns:
            the sequence, which begins with the patches' tokens, and the condition of every block.
        """
        return z, e

    @abstractmethod
    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """Evaluate the block on the sequence z under the condition e, both as made by `enter`."""


class InContextBlock(DiTBlock):
    """A standard block; time and class are tokens of its sequence. Arguments as for `DiTBlock`."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, mlp_ratio, dropout, dropout_attention)
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)

    @staticmethod
    def enter(z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([z, e], dim=1), e

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        z = z + self.attention(self.norm1(z))
        out: Tensor = z + self.mlp(self.norm2(z))
        return out


class CrossAttentionBlock(DiTBlock):
    """A block whose tokens also attend to the time and the class. Arguments as for `DiTBlock`."""

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
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)
        self.norm3 = nn.LayerNorm(dim, eps=_EPS)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        z = z + self.attention(self.norm1(z))
        z = z + self.cross(self.norm2(z), e)
        out: Tensor = z + self.mlp(self.norm3(z))
        return out


class _ModulatedBlock(DiTBlock):
    """A block that takes `parts` vectors from the condition, linear in SiLU(e_t + e_y) and 0 when fresh."""

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
    """A block whose layer norms take shift and scale from the condition. Arguments as for `DiTBlock`."""

    name: ClassVar[str] = "adaln"
    parts = 4

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        shift_1, scale_1, shift_2, scale_2 = _conditions(self.modulation, e, z, self.parts)
        z = z + self.attention(_modulate(z, shift_1, scale_1))
        out: Tensor = z + self.mlp(_modulate(z, shift_2, scale_2))
        return out


class AdaLNZeroBlock(_ModulatedBlock):
    """A block whose branches take shift, scale and gate from the condition; the identity when fresh.

    Arguments as for `DiTBlock`.
    """

    name: ClassVar[str] = "adaln_zero"
    parts = 6

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = _conditions(self.modulation, e, z, self.parts)
        z = torch.addcmul(z, gate_1, self.attention(_modulate(z, shift_1, scale_1)))
        return torch.addcmul(z, gate_2, self.mlp(_modulate(z, shift_2, scale_2)))


class DiT(Backbone):
    """DiT, the diffusion transformer: blocks at one resolution that are told the time and the label.

    The published models learn the variance beside the mean, `out_channels = 2 * in_channels`:
    `DiT(32, 4, **DIT_SIZES["S/2"], num_classes=1000, out_channels=8)`.

    Arguments:
        img_size: the height and the width of the images in pixels; one number is both.
        in_channels: the number of channels of the input.
        patch_size: the side of a patch in pixels; it divides both sides of the image. Each patch is one token.
        depth: the number of transformer blocks.
        hidden_dim: the width of a token, a multiple of 4; num_heads divides it.
        num_heads: the number of heads of each attention.
        mlp_ratio: the width of the hidden layer of the perceptrons, in units of hidden_dim.
        dropout_attention: the probability of dropping an attention weight in training.
        num_classes: the number of classes that images are labelled with; 0 is a network without labels.
        use_checkpoint: compute activations again in the backward pass instead of keeping them: training needs
            less memory and more time.
        out_channels: the number of channels of the output; None means as many as in the input.
        dropout: the probability of dropping an output of an attention or a perceptron in training; 0 suits short trainings.
        conditioning: how blocks are told the time and the label. adaln_zero was the best of four in the paper.
        time_features: the number of sinusoids of the time.
        time_scale: what the time is multiplied by before its sinusoids are formed; 1000 suits times in [0, 1].

    Raises:
        ValueError: a setting out of its range, a patch size that does not divide the image, heads that do not
            divide the width, a width that is no multiple of 4.
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
