"""Linear recurrences and the selective scan of a state-space model, without a loop over positions.

The recurrence of one head has a state h of N x P numbers. At each position there are an input u of P numbers, a log-decay
g, and two vectors b and c of N numbers:

    h_t = exp(g_t) h_{t-1} + b_t u_t^T,    y_t = h_t^T c_t,    h_{-1} = 0,    g_t <= 0

`selective_scan` cuts the sequence into chunks. Inside a chunk, y is a product of matrices, as in attention without a
softmax. Only the state at the end of each chunk is stored. The states at the ends of the chunks follow a recurrence
over the chunks, which `linear_recurrence` computes. The output is:

    y_t = sum_{s <= t} exp(g_{s+1} + .. + g_t) (c_t . b_s) u_s  +  exp(g_first + .. + g_t) H^T c_t

Here s runs over the positions of the chunk that contains t, and H is the state at the end of the previous chunk. Time
and memory are linear in the length of the sequence, because the size of a chunk is bounded.

All decays are stored as logarithms g <= 0, and only sums of g are exponentiated. So an exponential is at most 1, and
none overflows. The sum g_{s+1} + .. + g_t is computed separately for each pair (s, t). It is not the difference of two
cumulative sums, because that would lose the digits of a small decay after a large one. Decays and states are float32 or
wider, under autocast too. The products of b and c have the dtype of autocast. In bfloat16 these products do not
overflow; in float16 they can.

References:
    Prefix sums and their applications (Blelloch, 1990) | https://www.cs.cmu.edu/~guyb/papers/Ble93.pdf
    Mamba: linear-time sequence modeling with selective state spaces (Gu & Dao, 2023) | https://arxiv.org/abs/2312.00752
    Transformers are SSMs (Dao & Gu, 2024) | https://arxiv.org/abs/2405.21060
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

__all__ = ["linear_recurrence", "selective_scan"]

_CHUNK = 64
"""The largest number of positions in a chunk."""


def linear_recurrence(g: Tensor, x: Tensor) -> Tensor:
    """Return h with `h_t = exp(g_t) h_{t-1} + x_t` along dimension 1, where `h_{-1} = 0`.

    The method is the associative scan with log2(L) levels. Each level combines pairs of neighbours, so the next level
    has half the length. The work of all levels together is linear in L.

    Arguments:
        g: logarithms of the decays (B, L, ..), at most 0, broadcastable to x.
        x: the inputs (B, L, ..), L >= 1.
    """
    levels = []
    while x.shape[1] > 1:
        levels.append((g, x))
        pairs = x.shape[1] // 2 * 2
        x = x[:, 1:pairs:2] + torch.exp(g[:, 1:pairs:2]) * x[:, 0:pairs:2]
        g = g[:, 1:pairs:2] + g[:, 0:pairs:2]
    h = x  # at positions 1, 3, 5, .. of the level above
    for g, x in reversed(levels):
        later = (x.shape[1] - 1) // 2  # the even positions but the first
        even = x[:, 2::2] + torch.exp(g[:, 2::2]) * h[:, :later]
        even = torch.cat([x[:, :1], even], dim=1)
        odd = h if h.shape[1] == even.shape[1] else torch.cat([h, even[:, -1:]], dim=1)
        h = torch.stack([even, odd], dim=2).flatten(1, 2)[:, : x.shape[1]]
    return h


def selective_scan(u: Tensor, g: Tensor, b: Tensor, c: Tensor, chunk: int = _CHUNK) -> Tensor:
    """Return the outputs y (B, L, heads, P) of the recurrence `h_t = exp(g_t) h_{t-1} + b_t u_t^T`, `y_t = h_t^T c_t`.

    Arguments:
        u: the inputs (B, L, heads, P).
        g: logarithms of the decays (B, L, heads), at most 0.
        b: the weights of the inputs (B, L, N), shared by the heads.
        c: the weights of the outputs (B, L, N), shared by the heads.
        chunk: the largest number of positions in a chunk. It changes only the cost, not the result.
    """
    length = u.shape[1]
    number = -(-length // chunk)
    size = -(-length // number)
    u, g, b, c = (_chunks(part, number, size) for part in (u, g, b, c))
    g = rearrange(g.to(torch.promote_types(g.dtype, torch.float32)), "b n t heads -> b n heads t")

    decay = torch.exp(_sums_between(g))  # (B, n, heads, t, s)
    weights = (c @ b.mT).tril().unsqueeze(2) * decay
    u = rearrange(u, "b n t heads p -> b n heads t p")
    y = weights.to(u.dtype) @ u
    if number > 1:
        b_to_end = b.mT.unsqueeze(2) * decay[..., -1:, :]  # (B, n, heads, N, t)
        states = (b_to_end.to(u.dtype) @ u).to(decay.dtype)
        states = linear_recurrence(g.sum(-1)[..., None, None], states)[:, :-1]
        from_start = c.unsqueeze(2) * torch.exp(g.cumsum(-1)).unsqueeze(-1)  # (B, n, heads, t, N)
        before = from_start[:, 1:].to(u.dtype) @ states.to(u.dtype)
        y = torch.cat([y[:, :1], y[:, 1:] + before], dim=1)
    return rearrange(y, "b n heads t p -> b (n t) heads p")[:, :length]


def _chunks(x: Tensor, number: int, size: int) -> Tensor:
    """Cut dimension 1 into chunks: (B, L, ..) -> (B, number, size, ..). The last chunk is padded with zeros."""
    missing = number * size - x.shape[1]
    if missing:
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing))
    chunks: Tensor = x.unflatten(1, (number, size))
    return chunks


def _sums_between(g: Tensor) -> Tensor:
    """Return `g_{s+1} + .. + g_t` for all t and s <= t, and 0 for s > t: (.., T) -> (.., T, T)."""
    size = g.shape[-1]
    return g.unsqueeze(-1).expand(*g.shape, size).tril(-1).cumsum(-2)
