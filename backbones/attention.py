"""Self-attention for sequences of tokens and for the pixels of a feature map.

    out = softmax(q k^T / sqrt(d)) v

by torch's fused kernel, which never stores the matrix of weights.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import group_norm, zeroed

__all__ = ["ImageAttention", "TokenAttention", "check_heads"]


def check_heads(width: int, num_heads: int) -> None:
    """Refuse a number of heads that does not divide the width.

    Raises:
        ValueError: num_heads < 1 or it does not divide width.
    """
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"num_heads = {num_heads} does not divide the width {width}")


class TokenAttention(nn.Module):
    """Multi-head self-attention: (B, N, dim) -> (B, N, dim).

    Arguments:
        dim: the width of a token.
        num_heads: the number of heads; it divides dim.
        qkv_bias: whether queries, keys and values have a bias.
        dropout: the dropout probability of the output.
        dropout_attention: the dropout probability of the attention weights.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = False,
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.dropout_attention = dropout_attention
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among the N tokens of each example."""
        batch, n, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout_attention if self.training else 0.0)
        projected: Tensor = self.dropout(self.proj(out.transpose(1, 2).reshape(batch, n, dim)))
        return projected


class ImageAttention(nn.Module):
    """Residual multi-head self-attention among the pixels of a feature map, the identity when fresh.

    Arguments:
        channels: the width of the feature map.
        num_heads: the number of heads; it divides channels.
        groups: the number of groups of the norm, where it divides channels.
    """

    def __init__(self, channels: int, num_heads: int = 4, groups: int = 8) -> None:
        super().__init__()
        check_heads(channels, num_heads)
        self.num_heads = num_heads
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, channels, H, W) -> (B, channels, H, W)."""
        batch, channels, height, width = x.shape
        heads = self.qkv(self.norm(x)).reshape(batch, 3, self.num_heads, -1, height * width).transpose(-1, -2)
        q, k, v = heads.unbind(1)  # each (B, heads, H W, d)
        out = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        projected: Tensor = self.proj(out.reshape(batch, channels, height, width))
        return x + projected
