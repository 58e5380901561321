"""Attention layers of tokens: self-attention, cross-attention and time-dependent attention.

    out = softmax(q k^T / sqrt(d) + mask) v

Torch's fused kernel computes it without storing the matrix of weights. (On a CPU, torch has no fused kernel for a mask
with a gradient.) Attention does not depend on the order of the tokens: without a mask or positions, permuted tokens
give the permuted output.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from backbones.base import DropoutRate, xavier
from diffusion_core.dropout import Dropout
from diffusion_core.ranges import Count, check_arguments

__all__ = [
    "CrossAttention",
    "TimeDependentAttention",
    "TokenAttention",
    "TokenLinear",
    "attend",
    "check_heads",
    "perceptron",
    "relative_bias",
]


def check_heads(width: Count, num_heads: Count, dropout_attention: DropoutRate = 0.0) -> None:
    """Check that the number of heads divides the width and that the dropout is a probability.

    Arguments:
        width: the total width of the heads.
        num_heads: the number of heads.
        dropout_attention: the dropout probability of the attention weights.

    Raises:
        ValueError: num_heads < 1 or does not divide width, width < 1, or dropout_attention is outside [0, 1).
    """
    check_arguments(check_heads, locals())
    if width % num_heads:
        raise ValueError(f"num_heads = {num_heads} does not divide the width {width}")


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: Dropout | None = None) -> Tensor:
    """Compute multi-head attention: queries (B, N, heads, d), keys and values (B, M, heads, d) -> (B, N, heads d).

    The softmax is computed in float32 or float64 for every dtype of the input.

    Arguments:
        q: the queries.
        k: the keys.
        v: the values.
        mask: numbers that are added to the scores before the softmax, broadcastable to (B, heads, N, M); -inf hides a
            key.
        dropout: the dropout of the attention weights; None means no dropout.
    """
    q, k, v = (rearrange(part, "b n heads d -> b heads n d") for part in (q, k, v))
    dtype = q.dtype
    # On a CPU torch's backward kernel is several times slower in bfloat16 than in float32.
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
    return rearrange(out, "b heads n d -> b n (heads d)").to(dtype)


class TokenLinear(nn.Linear):
    """A linear layer for many tokens. It is faster than `nn.Linear` on a CPU and may differ in the last digit.

    On a CPU `nn.Linear` first fills the output with the bias, and the matrix product then reads this output again. It
    is faster to add the bias after the product. In half precision this class uses torch's layer, which rounds once.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to every token: (.., in_features) -> (.., out_features)."""
        single = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        if self.bias is None or x.device.type != "cpu" or not single:
            return super().forward(x)
        return F.linear(x, self.weight).add_(self.bias)


def perceptron(dim: int, ratio: float = 4.0, dropout: float = 0.0, approximate: str = "none") -> nn.Sequential:
    """Make the two-layer MLP of a transformer block: (B, N, dim) -> (B, N, dim).

    Arguments:
        dim: the width of a token.
        ratio: the width of the hidden layer, in units of dim.
        dropout: the dropout probability of the outputs of both layers.
        approximate: "none" for the exact GELU, "tanh" for its tanh approximation.

    Raises:
        ValueError: the hidden layer would be empty, or ratio is not finite.
    """
    if not 1 <= ratio * dim < math.inf:
        raise ValueError(f"mlp_ratio = {ratio} gives {ratio * dim:g} hidden features for width {dim}, expected at least 1")
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
        num_heads: the number of heads, which must divide dim.
        qkv_bias: whether queries, keys and values have a bias.
        dropout: the dropout probability of the output.
        dropout_attention: the dropout probability of the attention weights.

    Raises:
        ValueError: num_heads does not divide dim, or dropout_attention is outside [0, 1).
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
        # Split before the heads are moved: the backward pass then joins the gradients of q, k and v in one copy.
        q, k, v = rearrange(self.qkv(x), "b n (qkv heads d) -> b n qkv heads d", qkv=3, heads=self.num_heads).unbind(2)
        out = attend(q, k, v, dropout=self.dropout_attention)
        projected: Tensor = self.dropout(self.proj(out))
        return projected


class CrossAttention(nn.Module):
    """Multi-head cross-attention from tokens to another sequence: (B, N, dim), (B, M, dim) -> (B, N, dim).

    Arguments:
        dim: the width of a token.
        num_heads: the number of heads, which must divide dim.
        qkv_bias: whether queries, keys and values have a bias.
        dropout: the dropout probability of the output.
        dropout_attention: the dropout probability of the attention weights.

    Raises:
        ValueError: num_heads does not divide dim, or dropout_attention is outside [0, 1).
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
        q = rearrange(self.q(x), "b n (heads d) -> b n heads d", heads=self.num_heads)
        k, v = rearrange(self.kv(context), "b m (kv heads d) -> b m kv heads d", kv=2, heads=self.num_heads).unbind(2)
        out = attend(q, k, v, dropout=self.dropout_attention)
        projected: Tensor = self.dropout(self.proj(out))
        return projected


def relative_bias(table: Tensor, window: tuple[int, int]) -> Tensor:
    """Make the matrix of biases of all queries and keys from a table: (heads, (2h - 1)(2w - 1)) -> (heads, h w, h w).

    The table has one bias for each displacement. The pixels of a window are numbered row by row. The displacement from
    key (v, u) to query (y, x) is entry `(y - v + h - 1, x - u + w - 1)` of the table. So the keys of a query in row y
    use the rows y .. y + h - 1 of the table. This is a slice, so no index tensor is stored.

    Arguments:
        table: the biases of each head, one per displacement, row by row.
        window: height h and width w of a window.
    """
    h, w = window
    displacements = rearrange(table, "heads (rows columns) -> heads rows columns", rows=2 * h - 1)
    slices = displacements.unfold(1, h, 1).unfold(2, w, 1).flip((3, 4))
    return rearrange(slices, "heads y x v u -> heads (y x) (v u)")


class TimeDependentAttention(nn.Module):
    """Time-dependent multi-head self-attention (TMSA) inside windows: (B, G, N, dim) -> (B, G, N, dim).

    Queries, keys and values are the sum of a linear function of the token and a linear function of the embedding e. The
    attention mask comes from a learned table, which has a bias for each head and each displacement between two
    positions of a window. `diffit.py` has the formulas.

    References:
        DiffiT: diffusion vision transformers for image generation (Hatamizadeh et al., 2023) | https://arxiv.org/abs/2312.02139

    Arguments:
        dim: the width of a token.
        time_dim: the width of the time embedding.
        num_heads: the number of heads, which must divide dim.
        window: height and width of a window; their product is N.
        dropout: the dropout probability of the output.
        dropout_attention: the dropout probability of the attention weights.

    Raises:
        ValueError: num_heads does not divide dim, or dropout_attention is outside [0, 1).
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
        """Return q, k and v, each (B * G, N, heads, d), from tokens x (B, G, N, dim) and the embedding e (B, time_dim)."""
        qkv = self.qkv(x) + self.time(e)[:, None, None]  # (B, G, N, 3 dim)
        q, k, v = rearrange(qkv, "b g n (qkv heads d) -> (b g) n qkv heads d", qkv=3, heads=self.num_heads).unbind(2)
        return q, k, v

    def bias(self) -> Tensor:
        """Return the bias of each head, query and key: (heads, N, N)."""
        return relative_bias(self.table, self.window)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Attend among the N tokens of each window."""
        out = attend(*self.heads(x, e), self.bias()[None], self.dropout_attention)
        projected: Tensor = self.dropout(self.proj(out.reshape(x.shape)))
        return projected
