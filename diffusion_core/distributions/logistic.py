"""The truncated logistic distribution over S values, with two parameters: a location and a scale.

Let mu be the location and `kappa = 1 / scale`. Value k has the bin `[E_k, E_{k+1}]`, with `E_j = -1 + 2 j / S`. Its
probability is the mass of a logistic distribution in the bin, divided by the mass in [-1, 1]. Let F be the logistic CDF and
`z_j = kappa (E_j - mu)`. Then

    F(z_{k+1}) - F(z_k) = sigmoid(z_{k+1}) sigmoid(-z_k) (1 - exp(-2 kappa / S))

The right side is a product, so its logarithm is accurate in both tails. The logarithm of the difference of two CDFs would be
wrong by a hundred nats in the upper tail. Use `log sigmoid(z) = min(z, 0) - s(z)` with the even function
`s(z) = log(1 + e^{-|z|})`. The mass of [-1, 1] has the same form as the mass of a bin. Then

    log p(k) = kappa [min(E_{k+1}, mu) - min(1, mu) + max(-1, mu) - max(E_k, mu)]
               - s(z_{k+1}) - s(z_k) + s(z_S) + s(z_0) + log(1 - e^{-2 kappa / S}) - log(1 - e^{-2 kappa})

The piecewise linear terms in brackets are subtracted before the product with kappa. So the value is accurate even if mu is far
outside of [-1, 1].

References:
    PixelCNN++ (Salimans et al., 2017) | https://arxiv.org/abs/1701.05517
    Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021) | https://arxiv.org/abs/2107.03006
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_core.distributions.base import Distribution
from diffusion_core.distributions.inversion import centred
from diffusion_core.distributions.numerics import chunks, flushed_exp
from diffusion_core.lazy import lazy_property
from diffusion_core.values import ANYTHING, NOTHING, ends

__all__ = ["TruncatedLogistic"]

_NOTHING = -80.0  # 1 + exp(-80) rounds to 1; below -87 `torch.exp` is a hundred times slower


def _shared(edge: Tensor | float, mu: Tensor, rate: Tensor) -> Tensor:
    """Return `s = log(1 + exp(-|edge - mu| rate))`, which occurs in both log sigmoid(z) and log sigmoid(-z)."""
    return torch.log(1 + torch.exp((-(edge - mu).abs() * rate).clamp(min=_NOTHING)))


def _edge(j: Tensor, num_values: int) -> Tensor:
    """Return the lower edge of bin j: `-1 + 2 j / S`, exactly -1 for j = 0 and 1 for j = S."""
    return 2 * j / num_values - 1


class _LogisticLogits(torch.autograd.Function):
    """All S log-probabilities, computed in chunks: mu, kappa, offset (B, *event) -> (B, *event, S).

    Backward, with G the incoming gradient: the derivative with respect to z_j is
    `H_j = G_{j-1} - sigmoid(z_j) (G_{j-1} + G_j)`, where G_{-1} = G_S = 0.
    """

    @staticmethod
    def forward(ctx: Any, mu: Tensor, rate: Tensor, offset: Tensor, num_values: int) -> Tensor:
        ctx.save_for_backward(mu, rate)
        edges = _edge(torch.arange(num_values + 1, dtype=mu.dtype, device=mu.device), num_values)
        out = mu.new_empty(*mu.shape, num_values)
        for part in chunks(len(mu), out.numel(), mu.device):
            m, k = mu[part].unsqueeze(-1), rate[part].unsqueeze(-1)
            shared = (edges - m).abs_().mul_(-k).clamp_(min=_NOTHING).exp_().add_(1).log_()  # (b, *event, S + 1)
            inside = m.clamp(-1, 1)  # cancels the linear terms of the mass of [-1, 1]
            lines = torch.minimum(edges[1:], inside).sub_(torch.maximum(edges[:-1], inside)).mul_(k)
            lines.sub_(shared[..., 1:]).sub_(shared[..., :-1])
            torch.add(lines, offset[part].unsqueeze(-1), out=out[part])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of mu, kappa and the offset."""
        mu, rate = ctx.saved_tensors
        size = grad.shape[-1]
        edges = _edge(torch.arange(size + 1, dtype=mu.dtype, device=mu.device), size)
        total, sum_h, sum_he = torch.empty_like(mu), torch.empty_like(mu), torch.empty_like(mu)
        for part in chunks(len(mu), grad.numel(), mu.device):
            g, m, k = grad[part], mu[part].unsqueeze(-1), rate[part].unsqueeze(-1)
            h = (edges - m).mul_(k).sigmoid_()
            h[..., 0].mul_(g[..., 0])
            h[..., 1:-1].mul_(g[..., 1:] + g[..., :-1])
            h[..., -1].mul_(g[..., -1])
            total[part] = g.sum(-1)
            sum_h[part] = total[part] - h.sum(-1)
            sum_he[part] = torch.linalg.vecdot(g, edges[1:]) - torch.linalg.vecdot(h, edges)
        low, high = mu.clamp(min=-1), mu.clamp(max=1)
        # d (low - high) / d mu. At the jumps, -1 and 1, it is the mean of both sides, as autograd computes it for the offset.
        outside = (torch.sign(mu - 1) + torch.sign(mu + 1)) / 2
        return rate * (total * outside - sum_h), sum_he - mu * sum_h + total * (low - high), total, None


class _LogSum(torch.autograd.Function):
    """`log sum_k f_k s_{k+1} (1 - s_k)` with `s_k = sigmoid(kappa (edge_k - mu))`. The forward pass computes the gradient.

    Let `m_k` be the terms of the sum divided by the sum. Then

        d/d mu    = -kappa sum_k m_k (1 - s_{k+1} - s_k)
        d/d kappa = sum_k m_k ((1 - s_{k+1}) (edge_{k+1} - mu) - s_k (edge_k - mu))

    `1 - s` is computed as another sigmoid, so that both are accurate near 0 and 1. All terms underflow if f is positive only
    far from mu. In this case the logarithms of the terms are computed, and the largest is subtracted.
    """

    @staticmethod
    def forward(ctx: Any, mu: Tensor, rate: Tensor, size: int, weights: Callable[[slice], Tensor]) -> Tensor:
        out, by_mu, by_rate = torch.empty_like(mu), torch.empty_like(mu), torch.empty_like(mu)
        for part in chunks(len(mu), mu.numel() * size, mu.device):
            f = weights(part)
            m, k = (value[part].unsqueeze(-1).to(f.dtype) for value in (mu, rate))
            edges = _edge(torch.arange(size + 1, dtype=f.dtype, device=f.device), size)
            z = torch.addcmul(-m * k, edges, k)  # (b, *event, S + 1)
            below = z.sigmoid()
            above = z.neg_().sigmoid_()
            terms = (below[..., 1:] * above[..., :-1]).mul_(f)
            basis = torch.stack([torch.ones_like(edges), edges], -1)  # (S + 1, 2)
            total = terms.sum(-1)
            out[part] = total.log()
            least = 2**32 * torch.finfo(f.dtype).tiny  # below this total, terms that underflowed to 0 may matter
            if not ends(total, ANYTHING)[0] >= least:
                z = torch.addcmul(-m * k, edges, k)
                logs = F.logsigmoid(z[..., 1:]) + F.logsigmoid(-z[..., :-1]) + f.log()
                shift = torch.where(total < least, logs.amax(-1), 0)
                terms = torch.where((total < least)[..., None], flushed_exp(logs - shift[..., None]), terms)
                total = terms.sum(-1)
                out[part] = total.log() + shift
            right, right_edge = ((terms * above[..., 1:]) @ basis[1:]).unbind(-1)
            left, left_edge = ((terms * below[..., :-1]) @ basis[:-1]).unbind(-1)
            difference = right - left
            by_mu[part] = -k[..., 0] * difference / total
            by_rate[part] = (right_edge - left_edge - m[..., 0] * difference) / total
        ctx.save_for_backward(by_mu, by_rate)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_mu, by_rate = ctx.saved_tensors
        return grad * by_mu, grad * by_rate, None, None


class TruncatedLogistic(Distribution):
    """The truncated logistic distribution: a logistic distribution restricted to [-1, 1], in S bins of equal width.

    The log-probability of one value costs O(1), and so does a sample. Only `logits` makes an array with an axis of size S.
    `log_scale` is clamped to [-12, 8], and its gradient is 0 outside. In float32 a smaller scale gives one value all
    the probability, and a larger scale gives the uniform distribution. Gradients would overflow there.

    Arguments:
        mu: the location (B, *event), in float32 or float64. The S bins divide the interval [-1, 1].
        log_scale: the logarithm of the scale (B, *event), in the same units.
        num_values: the number S of values.

    Raises:
        ValueError: mu and log_scale have different shapes or dtypes or are in half precision, or num_values < 2.
    """

    log_scale_bounds = (-12.0, 8.0)

    def __init__(self, mu: Tensor, log_scale: Tensor, num_values: int) -> None:
        if mu.shape != log_scale.shape or mu.dtype != log_scale.dtype or mu.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"mu and log_scale have shapes {tuple(mu.shape)}, {tuple(log_scale.shape)} and dtypes {mu.dtype}, "
                f"{log_scale.dtype}, expected equal ones in float32 or float64"
            )
        super().__init__(mu.shape, num_values)
        self.mu = mu
        self.log_scale = log_scale.clamp(*self.log_scale_bounds)

    def parameters(self) -> tuple[Tensor, ...]:
        return self.mu, self.log_scale

    def with_parameters(self, parameters: Sequence[Tensor]) -> TruncatedLogistic:
        mu, log_scale = parameters
        return TruncatedLogistic(mu, log_scale, self.num_values)

    @lazy_property
    def _rate(self) -> Tensor:
        return torch.exp(-self.log_scale)

    @lazy_property
    def _log_widths(self) -> Tensor:
        """The logarithm of `(1 - e^{-2 kappa / S}) / (1 - e^{-2 kappa})`."""
        return torch.log(-torch.expm1(-2 / self.num_values * self._rate)) - torch.log(-torch.expm1(-2 * self._rate))

    @lazy_property
    def _offset(self) -> Tensor:
        """The terms of log p(k) that do not depend on k, without the linear terms in brackets."""
        return _shared(1.0, self.mu, self._rate) + _shared(-1.0, self.mu, self._rate) + self._log_widths

    @lazy_property
    def logits(self) -> Tensor:
        out: Tensor = _LogisticLogits.apply(self.mu, self._rate, self._offset, self.num_values)
        return out

    def log_prob(self, k: Tensor) -> Tensor:
        self._check_values(k)
        mu, rate, k = self.mu, self._rate, k.to(self.mu.dtype)
        a, b, one = _edge(k, self.num_values), _edge(k + 1, self.num_values), torch.ones_like(mu)
        # At a tie, maximum and minimum split the gradient equally, which gives the derivative of the sum. clamp does not.
        lines = torch.minimum(b, mu) - torch.minimum(one, mu) + (torch.maximum(-one, mu) - torch.maximum(a, mu))
        return lines * rate - _shared(b, mu, rate) - _shared(a, mu, rate) + self._offset

    def log_expectation(self, weights: Callable[[slice], Tensor]) -> Tensor:
        # Far outside of [-1, 1] the result does not depend on the location, and the masses would underflow. So mu is clamped.
        reach = (2 - math.log(torch.finfo(self.mu.dtype).eps)) / self._rate.detach()
        mu = torch.maximum(torch.minimum(self.mu, 1 + reach), -1 - reach)
        inside = F.logsigmoid(self._rate * (1 - mu)) + F.logsigmoid(self._rate * (1 + mu))
        total: Tensor = _LogSum.apply(mu, self._rate, self.num_values, weights)
        return total - inside + self._log_widths

    def sample(self, u: Tensor) -> Tensor:
        """Sample by the inverse CDF in float64.

        Let `w = 2 kappa`, and let `t = exp(kappa (-1 - mu))` be the odds at the lower end. A fraction u of the mass is below

            -1 + [ log(1 + u (1 - e^{-w}) / (e^{-w} + t)) - log(1 - u (1 - r)) ] / kappa,   r = e^{-w} (1 + t) / (e^{-w} + t)

        Logarithms of sums of exponentials are computed directly, so that nothing underflows or overflows.
        """
        self._check_uniform(u)
        u = centred(u, torch.float64)
        log_t = (-1 - self.mu.detach().double()) * (rate := self._rate.detach().double())
        width = 2 * rate
        below = torch.logaddexp(-width, log_t)
        first = F.softplus(u.log() + torch.log(-torch.expm1(-width)) - below, threshold=40.0)
        second = torch.log1p(u * torch.expm1(F.softplus(log_t, threshold=40.0) - width - below))
        return self._value_at((first - second) / rate * (self.num_values / 2))

    def mode(self) -> Tensor:
        return self._value_at((self.mu.detach().double() + 1) * (self.num_values / 2))

    def _value_at(self, place: Tensor) -> Tensor:
        """Return the value at a position, in bins from the lower end. Positions outside get the first or the last value."""
        if math.isnan(ends(place, NOTHING)[0]):
            raise ValueError("a location or a scale is NaN, expected finite parameters to draw from")
        return place.clamp_(0, self.num_values - 1).long()  # rounds down, as no position is negative after the clamp
