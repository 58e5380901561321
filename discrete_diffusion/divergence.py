"""The ELBO integrand of one dimension, and its gradient, without large intermediate tensors.

    l(x_0) = sum_{y != x} R_t[y, x] w_y phi(r_y / w_y),   phi(z) = z - 1 - log z

w_y is the conditional ratio and r_y the posterior ratio (see `process.py`).

The three terms of phi cancel where z is near 1. So all three are computed from the same rounded number `z = r / w`.
Then `z - 1` is exact, `log z` is accurate to the last digit, and the error of phi is one rounding error of `z - 1`.
The form `m - log1p(m)` with `m = (r - w) / w` is not used. It loses all digits where r is much smaller than w, because m
is then rounded to -1. The function `weighted_phi` has a small relative error for any r and w.

In the leave-one-out parameterisation, `r_y = u_y / u_x` with `u = p P`. One autograd function computes the integrand for
a few images at a time, so that the tensors stay in the cache. It computes the gradient with respect to the logits in the
same pass:

    dl/dr_y = R_t[y, x] (1 - w_y / r_y),   dl/du_y = dl/dr_y / u_x,   dl/du_x = -sum_y dl/dr_y r_y / u_x
    dl/dp = dl/du P^T,   dl/dlogits = p (dl/dp - <p, dl/dp>)

In this function phi is as accurate as z. The rounding error of l is small compared to `sum_y R_t[y, x] w_y`. This sum is
the exit rate of the reverse process given x_0, at the state x.

Precision: near t = 0 transition probabilities underflow in float32. Near t = 1 the difference r - w cancels. Examples at
such times are computed in float64, the others in float32. On an accelerator all examples are computed in float64, because
the program would have to wait for the accelerator to get the times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_core.values import ANYTHING, ends, least
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates.base import TransitionKernel

__all__ = ["conditional_divergence", "rate_divergence", "weighted_phi"]

_CHUNK = 2**19  # elements of a chunk: its few arrays fit in the cache
_LEAST = 1e-150  # replaces zero probabilities in float64: its inverse and the product of two stay in range
_NEAR = 0.1  # where |r / w - 1| is below this, phi is computed as a series
_TERMS = {torch.float32: 2, torch.float64: 6}  # number of terms: the rest is below a rounding error of phi


class _WeightedPhi(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(r, w)
        z, excess = r / w, r - w
        m = z - 1
        value = torch.log(z).neg_().add_(m).mul_(w)
        tiny = torch.finfo(z.dtype).tiny
        low, high = ends(z, ANYTHING)
        if not (low >= tiny and high < torch.inf):
            # z can be out of range, for example where w = 0. There the two logarithms are separate; xlogy(0, .) is 0.
            inside = (z >= tiny) & (z < torch.inf)
            value = torch.where(inside, value, excess - (torch.xlogy(w, r) - torch.xlogy(w, w)))
        # log(1 + m) = 2 atanh(s) with s = m / (2 + m), so phi = m - 2 atanh(s) = m s - 2 (s^3 / 3 + s^5 / 5 + ..).
        s = excess / (r + w)
        square = s.square()
        rest = torch.zeros_like(s)
        for j in reversed(range(_TERMS[z.dtype])):
            rest.mul_(square).add_(2 / (2 * j + 3))
        near = rest.mul_(square).mul_(w).sub_(excess).mul_(s).neg_()
        return torch.where(m.abs_() < _NEAR, near, value)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        r, w = ctx.saved_tensors
        return upstream[0] * torch.where(w > 0, (r - w) / r, 1.0), None


def weighted_phi(r: Tensor, w: Tensor) -> Tensor:
    """Return `w phi(r / w)` for every entry, with a small relative error and differentiable in r.

    The value is r where w = 0, and infinite where r = 0 < w.

    Arguments:
        r: non-negative numbers of any shape, in float32 or float64.
        w: non-negative numbers of the same shape and dtype. They get no gradient.
    """
    value: Tensor = _WeightedPhi.apply(r, w)
    return value


def conditional_divergence(process: CTMC, x_0: Tensor, x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Return the ELBO integrand for any posterior ratio, in nats / unit of t: (B, *event).

    Arguments:
        process: the forward process.
        x_0: clean states (B, *event).
        x_t: noisy states (B, *event).
        t: the time, () or (B,).
        r: the model's posterior ratio (B, *event, n). The result has the dtype of r, or float64 if the time needs it.
    """
    dtype = torch.promote_types(process.rate_dtype(t), r.dtype)
    w = process.conditional_ratio(x_0, x_t, t, dtype)
    rates = process.rates_into(x_t, t, dtype)
    # Where the rate is zero, r can be any number or undefined. r is replaced by w there, so that the term is zero.
    terms = weighted_phi(torch.where(rates > 0, r.to(dtype), w), w)
    total: Tensor = torch.linalg.vecdot(rates, terms)
    return total


def rate_divergence(process: CTMC, x_0: Tensor, x_t: Tensor, t: Tensor, scores: Tensor) -> Tensor:
    """Return the ELBO integrand in the leave-one-out parameterisation, differentiable in the logits.

    Arguments:
        process: the forward process.
        x_0: clean states (B, *event).
        x_t: noisy states (B, *event).
        t: the time, () or (B,).
        scores: log p_loo (B, *event, S), up to a constant for each dimension.

    Returns:
        The integrand of every dimension (B, *event), in nats / unit of t.
    """
    values: Tensor = _LeaveOneOutDivergence.apply(scores.flatten(1, -2), process, x_0.flatten(1), x_t.flatten(1), t)
    return values.reshape(x_0.shape)


def _chunks(dtypes: Sequence[torch.dtype], elements: int) -> Iterator[tuple[slice, torch.dtype]]:
    """Yield slices of consecutive examples that have one dtype and fit in the cache. `elements` is the size of one example."""
    start = 0
    for end in range(1, len(dtypes) + 1):
        if end == len(dtypes) or dtypes[end] != dtypes[start] or (end - start + 1) * elements > _CHUNK:
            yield slice(start, end), dtypes[start]
            start = end


class _LeaveOneOutDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, process: CTMC, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        values, gradient = _evaluate(scores, process, x_0, x_t, t, ctx.needs_input_grad[0])
        ctx.save_for_backward(scores, x_0, x_t, t)
        ctx.process, ctx.gradient = process, gradient
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        # Scaling in place halves memory and time. A second pass through a retained graph computes the gradient again.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            scores, x_0, x_t, t = ctx.saved_tensors
            gradient = _evaluate(scores, ctx.process, x_0, x_t, t, True)[1]
        return gradient.mul_(upstream[0][..., None]), None, None, None, None


def _evaluate(
    scores: Tensor, process: CTMC, x_0: Tensor, x_t: Tensor, t: Tensor, differentiate: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the integrand (B, D) and, if `differentiate`, its gradient with respect to the scores (B, D, S)."""
    kernel = process.kernel(t, torch.float64)
    beta = process.schedule(t.double())[0].expand(len(x_0))
    values = torch.empty(x_0.shape, dtype=scores.dtype, device=scores.device)
    gradient = torch.empty_like(scores) if differentiate else None
    dtypes = [torch.promote_types(dtype, scores.dtype) for dtype in process.divergence_dtypes(t.expand(len(x_0)))]
    for part, dtype in _chunks(dtypes, scores.shape[1:].numel()):
        rates = process.rates.rates_to(x_t[part], dtype).scatter_(-1, x_t[part, :, None], 0.0)
        out = None if gradient is None else gradient[part]
        here = kernel.select(part, dtype)
        values[part] = _divergence_and_slope(
            here, rates, beta[part, None].to(dtype), scores[part].to(dtype), x_0[part], x_t[part], out
        )
    return values, gradient


def _divergence_and_slope(
    kernel: TransitionKernel, rates: Tensor, beta: Tensor, scores: Tensor, x_0: Tensor, x_t: Tensor, gradient: Tensor | None
) -> Tensor:
    """Return the integrand (b, D) of some images. Write its gradient with respect to the scores to `gradient` (b, D, S).

    With `z = r / w`, every sum over y is an inner product:

        l = <R w, z - 1 - log z>,      sum_y dl/dr_y r_y = <R, r - w>,      dl/dr = R (r - w) / r

    r and w are both multiplied by P[x_0, x], which saves a division.

    `rates` (b, D, n) is R[., x_t] without the diagonal and is overwritten. beta is (b, 1).
    """
    at_x = x_t[..., None]
    p = torch.softmax(scores, -1)
    r = kernel.matmul(p)
    w = kernel.rows(x_0)
    u_x, q_x = r.gather(-1, at_x), w.gather(-1, at_x)
    r.mul_(q_x / u_x)
    if w.dtype == torch.float64:  # probabilities can be zero only in float64
        r, w = _without_zeros(r, w, rates)
    if gradient is not None:
        slope = r - w
        drift = torch.linalg.vecdot(rates, slope)[..., None]
        slope.div_(r).mul_(rates).scatter_(-1, at_x, drift.div_(q_x).neg_())
    z = r.div_(w)
    logarithm = torch.log(z)
    values: Tensor = torch.linalg.vecdot(w.mul_(rates), z.sub_(1).sub_(logarithm)) * (beta / q_x[..., 0])
    if gradient is None:
        return values
    by_p = kernel.rmatmul(slope)
    scale = beta[..., None] / u_x
    centre = torch.linalg.vecdot(p, by_p)[..., None]
    by_p = torch.addcmul(centre.mul_(scale).neg_(), by_p, scale, out=by_p)
    if by_p.dtype == gradient.dtype:
        torch.mul(by_p, p, out=gradient)
    else:
        gradient.copy_(by_p.mul_(p))
    return values


def _without_zeros(r: Tensor, w: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    """Return r and a positive w that give the same terms `R w phi(r / w)`.

    Values of w below 1e-150 become 1e-150, and the same amount is added to r. Where the rate is zero, r becomes w.
    """
    if least(r, w) >= _LEAST:
        return r, w
    positive = w.clamp(min=_LEAST)
    return torch.where(rates > 0, r.add_(positive - w), positive), positive
