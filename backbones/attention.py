"""Attention: among tokens, from one sequence to another, among tokens that are told the time, among pixels.

    out = softmax(q k^T / sqrt(d) + mask) v

by torch's fused kernel, which never stores the matrix of weights (only on a CPU, with a mask that learns, torch
has no fused kernel). Nothing in it knows the order of the tokens: without a mask or positions, permuted tokens give
the permuted output.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import DropoutRate, group_norm, xavier, zeroed
from diffusion_core.dropout import Dropout
from diffusion_core.ranges import Count, check_arguments

__all__ = [
    "CrossAttention",
    "ImageAttention",
    "TimeDependentAttention",
    "TokenAttention",
    "TokenLinear",
    "attend",
    "check_heads",
    "perceptron",
    "relative_bias",
]


def check_heads(width: Count, num_heads: Count, dropout_attention: DropoutRate = 0.0) -> None:
    """Refuse a number of heads that does not divide the width, and a dropout that is no probability.

    Arguments:
        width: the width that the heads divide among them.
        num_heads: the number of heads.
        dropout_attention: the dropout probability of the attention weights.

    Raises:
        ValueError: num_heads < 1 or it does not divide width, width < 1, dropout_attention outside [0, 1).
    """
    check_arguments(check_heads, locals())
    if width % num_heads:
        raise ValueError(f"num_heads = {num_heads} does not divide the width {width}")


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: Dropout | None = None) -> Tensor:
    """Softmax attention of each head: queries (B, N, heads, d), keys and values (B, M, heads, d) -> (B, N, heads d).

    The softmax is formed in float32 or better, whatever the dtype of its input.

    Arguments:
        q: the queries.
        k: the keys.
        v: the values.
        mask: numbers that broadcast to (B, heads, N, M) and are added to the scores before the
            softmax; -inf hides a key.
        dropout: of the weights; None drops none.
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, heads, N or M, d)
    dtype = q.dtype
    # On a CPU torch's backward kernel for bfloat16 is several times slower than that for float32.
    narrow = q.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16)
    if narrow:
        q, k, v = q.float(), k.float(), v.float()
    if mask is not None:
        mask = mask.to(q.dtype)
    with torch.autocast("cpu", enabled=False) if narrow else nullcontext():
        if dropout is not None and dropout.active:
            scores = q @ k.mT * q.shape[-1] ** -0.5
            out = dropout((scores if mask is None else scores + mask).softmax(-1)) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2).to(dtype)


class TokenLinear(nn.Linear):
    """A linear layer of many tokens, `nn.Linear` in all but its time, and its last digit, on a CPU.

    There torch fills the output with the bias and lets the product read it again, which takes longer than adding
    the bias to the product. Half precision keeps torch's layer, which rounds once.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The layer on every token: (.., in_features) -> (.., out_features)."""
        single = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        if self.bias is None or x.device.type != "cpu" or not single:
            return super().forward(x)
        return F.linear(x, self.weight).add_(self.bias)


def perceptron(dim: int, ratio: float = 4.0, dropout: float = 0.0, approximate: str = "none") -> nn.Sequential:
    """The two-layer perceptron of a transformer block: (B, N, dim) -> (B, N, dim).

    Arguments:
        dim: the width of a token.
        ratio: the width of the hidden layer, in units of dim.
        dropout: the dropout probability of both layers' outputs.
        approximate: how GELU is evaluated: "none" exactly, "tanh" by its usual approximation.

    Raises:
        ValueError: the hidden layer would be empty, or ratio is not finite.
    """
    if not 1 <= ratio * dim < math.inf:
        raise ValueError(f"mlp_ratio = {ratio} leaves {ratio * dim:g} hidden features of a width of {dim}, expected at least 1")
    hidden = int(ratio * dim)
    return nn.Sequential(
        TokenLinear(dim, hidden),
        nn.GELU(approximate=approximate),
        Dropout(dropout),
        TokenLinear(hidden, dim),
        Dropout(dropout),
    )


class TokenAttention(nn.Module):
    """Multi-head self-attention: (B, N, dim) -> (B, N, dim).

    Arguments:
        dim: the width of a token.
        num_heads: the number of heads; it divides dim.
        qkv_bias: whether queries, keys and values have a bias.
        dropout: the dropout probability of the output.
        dropout_attention: the dropout probability of the attention weights.

    Raises:
        ValueError: heads that do not divide the width, or a dropout_attention outside [0, 1).
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
        check_heads(dim, num_heads, dropout_attention)
        self.num_heads = num_heads
        self.dropout_attention = Dropout(dropout_attention)
        self.qkv = TokenLinear(dim, 3 * dim, bias=qkv_bias)
        self.proj = TokenLinear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among the N tokens of each example."""
        # Split before the heads move: the gradients of q, k and v then meet in one copy, already in place.
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # each (B, N, heads, d)
        out = attend(q, k, v, dropout=self.dropout_attention)
        projected: Tensor = self.dropout(self.proj(out))
        return projected


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to another sequence: (B, N, dim), (B, M, dim) -> (B, N, dim).

    Arguments:
        dim: the width of a token.
        num_heads: the number of heads; it divides dim.
        qkv_bias: whether queries, keys and values have a bias.
        dropout: the dropout probability of the output.
        dropout_attention: the dropout probability of the attention weights.

    Raises:
        ValueError: heads that do not divide the width, or a dropout_attention outside [0, 1).
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
        check_heads(dim, num_heads, dropout_attention)
        self.num_heads = num_heads
        self.dropout_attention = Dropout(dropout_attention)
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend from x to the context (B, M, dim)."""
        q = self.q(x).unflatten(-1, (self.num_heads, -1))  # (B, N, heads, d)
        k, v = self.kv(context).unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # each (B, M, heads, d)
        out = attend(q, k, v, dropout=self.dropout_attention)
        projected: Tensor = self.dropout(self.proj(out))
        return projected


def relative_bias(table: Tensor, window: tuple[int, int]) -> Tensor:
    """The numbers of a table of displacements, for each query and key: (heads, (2h - 1)(2w - 1)) -> (heads, h w, h w).

    Places are numbered row by row. Query (y, x) is parted from key (v, u) by the displacement `(y - v + h - 1, x - u + w - 1)`.
    With `r = h - 1 - v` its row is y + r, and the rows y .. y + h - 1 are a slice of the table: no indices are kept.

    Arguments:
        table: the numbers of each head, one a displacement, row by row.
        window: height h and width w of a window.
    """
    h, w = window
    slices = table.unflatten(1, (2 * h - 1, 2 * w - 1)).unfold(1, h, 1).unfold(2, w, 1)  # (heads, h, w, h, w)
    bias: Tensor = slices.flip((3, 4)).reshape(len(table), h * w, h * w)
    return bias


class TimeDependentAttention(nn.Module):
    """Time-dependent multi-head self-attention (TMSA) inside windows: (B, G, N, dim) -> (B, G, N, dim).

    Queries, keys and values are linear in the token plus linear in the embedding e; the mask is a table with a bias
    for each head and each displacement between two places of a window. What that means is in `diffit.py`.

    References:
        DiffiT: diffusion vision transformers for image generation (Hatamizadeh et al., 2023) | https://arxiv.org/abs/2312.02139

    Arguments:
        dim: the width of a token.
        time_dim: the width of the embedding of time.
        num_heads: the number of heads; it divides dim.
        window: height and width of a window, whose product is N.
        dropout: the dropout probability of the output.
        dropout_attention: the dropout probability of the attention weights.

    Raises:
        ValueError: heads that do not divide the width, or a dropout_attention outside [0, 1).
    """

    def __init__(
        self,
        dim: int,
        time_dim: int,
        num_heads: int,
        window: tuple[int, int],
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads, dropout_attention)
        displacements = (2 * window[0] - 1) * (2 * window[1] - 1)
        self.num_heads = num_heads
        self.window = window
        self.dropout_attention = Dropout(dropout_attention)
        self.qkv = xavier(nn.Linear(dim, 3 * dim))
        self.time = xavier(nn.Linear(time_dim, 3 * dim, bias=False))
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_heads, displacements), std=0.02))
        self.proj = xavier(nn.Linear(dim, dim, bias=False))
        self.dropout = Dropout(dropout)

    def heads(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B * G, N, heads, d), of tokens x (B, G, N, dim) at times e (B, time_dim)."""
        qkv = self.qkv(x) + self.time(e)[:, None, None]  # (B, G, N, 3 dim)
        q, k, v = qkv.flatten(0, 1).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        return q, k, v

    def bias(self) -> Tensor:
        """The additive bias of every head, query and key: (heads, N, N)."""
        return relative_bias(self.table, self.window)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Attend among the N tokens of each window."""
        out = attend(*self.heads(x, e), self.bias()[None], self.dropout_attention)
        projected: Tensor = self.dropout(self.proj(out.reshape(x.shape)))
        return projected


class ImageAttention(nn.Module):
    """Residual multi-head self-attention among the pixels of a feature map, the identity when fresh.

    Arguments:
        channels: the width of the feature map.
        num_heads: the number of heads; it divides channels.
        groups: the number of groups of the norm, where it divides channels.
        residual_scale: what the sum of x and its update is multiplied by; sqrt(1/2) keeps the variance of equal parts.

    Raises:
        ValueError: heads that do not divide the channels, or groups < 1.
    """

    def __init__(self, channels: int, num_heads: int = 4, groups: int = 8, residual_scale: float = 1.0) -> None:
        super().__init__()
        check_heads(channels, num_heads)
        self.num_heads = num_heads
        self.residual_scale = residual_scale
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, channels, H, W) -> (B, channels, H, W)."""
        batch, channels, height, width = x.shape
        heads = self.qkv(self.norm(x)).reshape(batch, 3, self.num_heads, -1, height * width)
        q, k, v = heads.permute(0, 4, 1, 2, 3).unbind(2)  # each (B, H W, heads, d)
        attended = attend(q, k, v).transpose(1, 2)  # (B, channels, H W)
        projected: Tensor = self.proj(attended.reshape(batch, channels, height, width))
        out = x + projected
        return out if self.residual_scale == 1 else self.residual_scale * out
