"""The ELBO integrand of one dimension, and its gradient, without large intermediate tensors.

    l(x_0) = sum_{y != x} R_t[y, x] w_y phi(r_y / w_y),   phi(z) = z - 1 - log z
           = sum_{y != x} R_t[y, x] ( (r_y - w_y) - w_y log1p((r_y - w_y) / w_y) )

The second form matters: near t = 1 the ratios agree to many digits while the rate is in the
thousands, and the terms of the first one cancel to nothing.

For the leave-one-out reading, `r_y = u_y / u_x` with `u = p P`, the integrand is computed by
one autograd function over a few images at a time, which stay in cache; the gradient with respect to
the logits is formed in the same pass:

    dl/dr_y = R_t[y, x] (1 - w_y / r_y),   dl/du_y = dl/dr_y / u_x,   dl/du_x = -sum_y dl/dr_y r_y / u_x
    dl/dp = dl/du P^T,   dl/dlogits = p (dl/dp - <p, dl/dp>)

Precision: near t = 0 transition probabilities fall below what float32 holds, near t = 1 the
difference r - w cancels; examples at such times are computed in float64, the others in
float32. On an accelerator, where looking at the times would stall it, all are in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_core import readable
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates.base import TransitionKernel

__all__ = ["conditional_divergence", "rate_divergence"]

_CHUNK = 2**18  # elements: the handful of arrays of a chunk stay in cache


def _divergence(rates: Tensor, r: Tensor, w: Tensor) -> Tensor:
    """`sum_y rates_y w_y phi(r_y / w_y)` over the last axis, exact where w_y = 0: (..., n) -> (...)."""
    excess = r - w
    if readable(w) and bool(w.amin() > torch.finfo(w.dtype).tiny):
        logarithm = torch.div(excess, w).log1p_()
    else:
        # Where w = 0 the logarithm must be finite, since it meets that 0; no logarithm of floats is beyond 1e4.
        logarithm = (excess / w.clamp(min=torch.finfo(w.dtype).tiny)).log1p_().clamp_(max=1e4)
    total: Tensor = torch.linalg.vecdot(rates, excess.sub_(logarithm.mul_(w)))
    return total


def conditional_divergence(process: CTMC, x_0: Tensor, x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """The integrand for any posterior ratio: x_0, x_t (B, *event), r (B, *event, n) -> (B, *event).

    Arguments:
        process: the forward process.
        x_0: clean states.
        x_t: noisy states.
        t: the time, () or (B,).
        r: the model's posterior ratio.
    """
    w = process.conditional_ratio(x_0, x_t, t).to(r.dtype)
    rates = process.rates_into(x_t, t, r.dtype)
    # Where the rate is zero r may be infinite: such a term is zero, not undefined.
    return _divergence(rates, torch.where(rates > 0, r, w), w)


def rate_divergence(process: CTMC, x_0: Tensor, x_t: Tensor, t: Tensor, scores: Tensor) -> Tensor:
    """The integrand in the leave-one-out reading, differentiable in the logits.

    Arguments:
        process: the forward process.
        x_0: clean states (B, *event).
        x_t: noisy states (B, *event).
        t: the time, () or (B,).
        scores: log p_loo up to a constant (B, *event, S).

    Returns:
        the integrand of every dimension in nats / unit of t: (B, *event).
    """
    batch = len(x_0)
    dimensions = x_0.flatten(1).shape[1]
    values: Tensor = _LeaveOneOutDivergence.apply(
        scores.reshape(batch, dimensions, -1), process, x_0.reshape(batch, -1), x_t.reshape(batch, -1), t
    )
    return values.reshape(x_0.shape)


def _chunks(dtypes: Sequence[torch.dtype], elements: int) -> Iterator[tuple[slice, torch.dtype]]:
    """Slices of consecutive examples that share a dtype and fit the cache together; elements is the size of one example."""
    start = 0
    for end in range(1, len(dtypes) + 1):
        if end == len(dtypes) or dtypes[end] != dtypes[start] or (end - start + 1) * elements > _CHUNK:
            yield slice(start, end), dtypes[start]
            start = end


class _LeaveOneOutDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, process: CTMC, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        kernel = process.kernel(t, torch.float64)
        beta = process.schedule(t.double())[0].expand(len(x_0))
        values = torch.empty(x_0.shape, dtype=scores.dtype, device=scores.device)
        gradient = torch.empty_like(scores) if ctx.needs_input_grad[0] else None
        dtypes = [torch.promote_types(dtype, scores.dtype) for dtype in process.divergence_dtypes(t.expand(len(x_0)))]
        for part, dtype in _chunks(dtypes, scores[0].numel()):
            rates = process.rates.rates_to(x_t[part], dtype).scatter_(-1, x_t[part, :, None], 0.0)
            out = None if gradient is None else gradient[part]
            here = kernel.select(part, dtype)
            value = _divergence_and_slope(
                here, rates, beta[part, None].to(dtype), scores[part].to(dtype), x_0[part], x_t[part], out
            )
            values[part] = value
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0][..., None], None, None, None, None


def _divergence_and_slope(
    kernel: TransitionKernel, rates: Tensor, beta: Tensor, scores: Tensor, x_0: Tensor, x_t: Tensor, gradient: Tensor | None
) -> Tensor:
    """The integrand (b, D) of some images; its gradient by the scores is written to `gradient` (b, D, S).

    `rates` (b, D, n) are R[., x_t] without the diagonal, and are used up; beta is (b, 1).
    """
    at_x = x_t[..., None]
    p = torch.softmax(scores, -1)
    u = kernel.propagate(p)
    q = kernel.rows(x_0)
    # Everything below is multiplied by q_x, which saves a division: r q_x = u q_x / u_x and w q_x = q.
    u_x, q_x = u.gather(-1, at_x), q.gather(-1, at_x)
    r = u.mul_(q_x / u_x)
    values = _divergence(rates, r, q).mul_(beta / q_x[..., 0])
    if gradient is None:
        return values
    # Where r = 0, w is 0 too, and the slope is the rate.
    slope = rates.addcmul_(rates, q.div_(r.clamp_(min=torch.finfo(r.dtype).tiny)), value=-1)
    scale = beta[..., None] / u_x
    at_x_slope = torch.linalg.vecdot(slope, r)[..., None] / q_x
    pulled = kernel.pull(slope.mul_(scale).scatter_(-1, at_x, -at_x_slope * scale))
    centre = torch.linalg.vecdot(p, pulled)[..., None]
    if pulled.dtype == gradient.dtype:
        torch.mul(pulled.sub_(centre), p, out=gradient)
    else:
        gradient.copy_(pulled.sub_(centre).mul_(p))
    return values
