"""U-ViT: a vision transformer with the long skip connections of a U-Net.

The image, the time and the class are all tokens of one sequence,

    z = [time, class, patch_1, .., patch_N] + learned positions

which passes depth / 2 blocks, a middle block and depth / 2 blocks; a block of the second half
first joins its input with the output of its mirror image in the first half,
`Linear([z, skip])` from 2 d to d. The time token is the sinusoids themselves, with no perceptron
(the authors' default). A 3x3 convolution smooths the patch borders away at the end; it is left
out where a pixel has S logits, whose convolution would cost more than the transformer.

References:
    All are worth words: a ViT backbone for diffusion models (Bao et al., 2023) | https://arxiv.org/abs/2209.12152
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.attention import TokenAttention
from backbones.base import Backbone, zeroed
from backbones.embeddings import ClassEmbedding, SinusoidalEmbedding, TimeEmbedding, patchify, unpatchify

__all__ = ["TransformerBlock", "UViT"]


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
        hidden = int(mlp_ratio * dim)
        self.skip = nn.Linear(2 * dim, dim) if skip else None
        self.norm1 = nn.LayerNorm(dim)
        self.attention = TokenAttention(dim, num_heads, qkv_bias, dropout, dropout_attention)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )

    def forward(self, z: Tensor, skip: Tensor | None = None) -> Tensor:
        """Evaluate the block on z, joined with `skip` (B, N, dim) where it has a long skip connection."""
        if self.skip is not None:
            z = self.skip(torch.cat([z, z if skip is None else skip], dim=-1))
        z = z + self.attention(self.norm1(z))
        out: Tensor = z + self.mlp(self.norm2(z))
        return out


class UViT(Backbone):
    """The U-ViT.

    Arguments:
        img_size: the side of the images in pixels, or (height, width).
        in_channels: the number of channels of the input.
        patch_size: the side of a patch in pixels; it divides both sides of the image.
        depth: the number of blocks beside the middle one; even.
        hidden_dim: the width of a token.
        num_heads: the number of attention heads.
        mlp_ratio: the width of the perceptrons' hidden layer, in units of hidden_dim.
        dropout_attention: the dropout probability of the attention weights.
        num_classes: the number of classes; 0 is an unconditional network.
        use_checkpoint: trade time for memory in training.
        out_channels: the number of channels of the output; None means in_channels.
        dropout: the dropout probability of the blocks' outputs.
        qkv_bias: whether queries, keys and values have a bias.
        final_conv: whether a 3x3 convolution follows the last linear layer.
        time_mlp: whether a two-layer perceptron follows the sinusoids of c.
        time_scale: what c is multiplied by; 1000 suits c in [0, 1].

    Raises:
        ValueError: a patch size that does not divide the image, an odd depth, heads that do not divide the width.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 28,
        in_channels: int = 1,
        patch_size: int = 2,
        depth: int = 12,
        hidden_dim: int = 512,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        dropout_attention: float = 0.0,
        num_classes: int = 0,
        use_checkpoint: bool = False,
        out_channels: int | None = None,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        final_conv: bool = True,
        time_mlp: bool = False,
        time_scale: float = 1000.0,
    ) -> None:
        super().__init__(in_channels, in_channels if out_channels is None else out_channels, num_classes)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if patch_size < 1 or height % patch_size or width % patch_size or min(height, width) < 1:
            raise ValueError(f"patch_size = {patch_size} does not divide the image ({height} x {width})")
        if depth < 0 or depth % 2:
            raise ValueError(f"depth = {depth}, expected an even number of blocks")
        self.img_size = (height, width)
        self.patch_size = patch_size
        self.use_checkpoint = use_checkpoint
        settings: dict[str, Any] = {
            "mlp_ratio": mlp_ratio,
            "qkv_bias": qkv_bias,
            "dropout": dropout,
            "dropout_attention": dropout_attention,
        }
        self.embed = nn.Linear(patch_size**2 * in_channels, hidden_dim)
        self.time: nn.Module = SinusoidalEmbedding(hidden_dim, time_scale)
        if time_mlp:
            self.time = TimeEmbedding(hidden_dim, hidden_dim, time_scale)
        self.classes = ClassEmbedding(num_classes, hidden_dim) if num_classes else None
        self.extras = 2 if num_classes else 1
        tokens = self.extras + (height // patch_size) * (width // patch_size)
        self.positions = nn.Parameter(torch.empty(1, tokens, hidden_dim))
        half = depth // 2
        self.first = nn.ModuleList([TransformerBlock(hidden_dim, num_heads, **settings) for _ in range(half)])
        self.middle = TransformerBlock(hidden_dim, num_heads, **settings)
        self.second = nn.ModuleList([TransformerBlock(hidden_dim, num_heads, skip=True, **settings) for _ in range(half)])
        self.norm = nn.LayerNorm(hidden_dim)
        self.out = nn.Linear(hidden_dim, patch_size**2 * self.out_channels)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.positions, std=0.02)
        # The last layer, whichever it is, is 0: a fresh network has nothing to unlearn.
        self.final = zeroed(nn.Conv2d(self.out_channels, self.out_channels, 3, padding=1)) if final_conv else nn.Identity()
        if not final_conv:
            zeroed(self.out)

    def predict(self, x: Tensor, c: Tensor, y: Tensor | None) -> Tensor:
        if tuple(x.shape[2:]) != self.img_size:
            height, width = self.img_size
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {self.in_channels}, {height}, {width})")
        z = self.embed(patchify(x, self.patch_size))
        heads = [self.time(c).to(z.dtype)[:, None]]
        if self.classes is not None:
            heads.append(self.classes(y)[:, None])
        z = torch.cat([*heads, z], dim=1) + self.positions  # (B, extras + N, d)
        kept = []
        for block in self.first:
            z = self._run(block, z)
            kept.append(z)
        z = self._run(self.middle, z)
        for block in self.second:
            z = self._run(block, z, kept.pop())
        z = self.out(self.norm(z)[:, self.extras :])
        out: Tensor = self.final(unpatchify(z, self.patch_size, self.img_size))
        return out

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        saving = self.use_checkpoint and torch.is_grad_enabled()
        out: Tensor = checkpoint(block, *inputs, use_reentrant=False) if saving else block(*inputs)
        return out


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
