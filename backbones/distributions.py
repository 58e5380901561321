"""Distributions over S values, one at every position, that may know them without the S axis.

A head of a network returns one of these. `Categorical` has a logit for each value; the truncated
logistic (`backbones.logistic`) has a location and a scale, so that the log-probability of one
value and a sample cost O(1) a position. They know no process.

A sample is an inverse CDF of uniform numbers the caller draws, so that the caller owns the
randomness. A uniform number with b bits stands for an interval of width 2^-b and is read as its
centre: otherwise u = 0, once in 2^24 float32 numbers, would return the first value however
improbable it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.chunks import chunks, evaluated_by_chunks
from backbones.exponentials import decayed, log_sum

__all__ = ["Categorical", "Distribution", "Mixture", "centred", "first_above", "inverse_cdf"]

_BLOCK = 16


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """The smallest k whose cumulative weight exceeds a fraction u of the total: (..., S), (...) -> int64 (...).

    In two levels: the sums of blocks of 16 weights choose a block, then its weights choose the value. With S = 256
    that is 32 numbers a position instead of 256 cumulative ones. A value of weight 0 is never returned.

    Arguments:
        weights: non-negative weights (..., S), not necessarily normalised, not all 0.
        u: uniform numbers in [0, 1), of the shape of weights without its last axis.

    Raises:
        ValueError: u has another shape or is not floating, or weights are infinite or not numbers.
    """
    if u.shape != weights.shape[:-1] or not u.is_floating_point():
        raise ValueError(f"u has shape {tuple(u.shape)} and dtype {u.dtype}, expected floating {tuple(weights.shape[:-1])}")
    size = weights.shape[-1]
    rows = weights.detach().reshape(-1, size).contiguous()
    u = centred(u.reshape(-1, 1), torch.promote_types(torch.promote_types(weights.dtype, u.dtype), torch.float32))
    if size > 2 * _BLOCK:
        rows = _padded(rows)
        rows = rows.view(len(rows), rows.shape[1] // _BLOCK, _BLOCK)  # (N, S/16, 16)
        block, left = _chosen(_block_sums(rows), u)
        start = torch.arange(len(rows), device=rows.device)[:, None] * rows.shape[1]
        chosen = rows.view(-1, _BLOCK).index_select(0, (start + block)[:, 0])  # (N, 16)
        index = block[:, 0] * _BLOCK + first_above(chosen, left[:, 0])
    else:
        index = _first_above(*_cumulative(rows, u))
    return index.view(weights.shape[:-1])


def _padded(weights: Tensor) -> Tensor:
    """Weights 0 after the last one, up to a multiple of four blocks.

    Four, because a matrix-vector product rounds the last rows otherwise where their number is no multiple of it, and
    what is drawn for a position must not depend on how many others there are.
    """
    missing = -weights.shape[-1] % (4 * _BLOCK)
    return F.pad(weights, (0, missing)) if missing else weights


def _block_sums(weights: Tensor) -> Tensor:
    """The sums over the last axis, of 16: (..., n, 16) -> (..., n).

    A product with ones is twice as fast as `sum` on a CPU; with `out` it keeps its precision under autocast.
    """
    sums = weights.new_empty(weights.shape[:-1])
    torch.mv(weights.reshape(-1, _BLOCK), weights.new_ones(_BLOCK), out=sums.view(-1))
    return sums


def centred(u: Tensor, dtype: torch.dtype) -> Tensor:
    """The centre of the interval that a uniform number stands for, in a dtype as wide as its own.

    Arguments:
        u: uniform numbers in [0, 1).
        dtype: the dtype of the result.
    """
    return u.to(dtype) + torch.finfo(u.dtype).eps / 4


def _below(total: Tensor) -> Tensor:
    """The largest number below a positive one: the one whose bits are less by 1 (`nextafter` is not vectorised)."""
    bits = torch.int64 if total.dtype == torch.float64 else torch.int32
    return (total.view(bits) - 1).view(total.dtype)


def _cumulative(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The cumulative weights (N, n), and the fraction u of the total, kept below it whatever was rounded: (N, 1)."""
    cumulative = weights.cumsum(-1, dtype=u.dtype)
    total = cumulative[:, -1:].contiguous()  # read thrice
    if total.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((total < torch.inf).all()):
        raise ValueError("weights are infinite or not numbers: nothing can be drawn from them")
    return cumulative, torch.minimum(u * total, _below(total))


def _first_above(cumulative: Tensor, threshold: Tensor) -> Tensor:
    """The first k whose cumulative weight exceeds a threshold below the total: (N, n), (N, 1) -> (N, 1).

    Its weight is positive, since the cumulative weight rises there. Counting the others beats a search, and in floating
    point a comparison and its sum take half as long as in booleans; with `out` they stay so under autocast.
    """
    below = torch.le(cumulative, threshold, out=torch.empty_like(cumulative))
    count = below.new_empty(len(below))
    torch.mv(below, below.new_ones(below.shape[-1]), out=count)
    return count.long().unsqueeze(-1)


def first_above(weights: Tensor, v: Tensor) -> Tensor:
    """The first k whose cumulative weight exceeds v, which is kept from 0 to below the total: (N, n), (N,) -> (N,)."""
    cumulative = weights.cumsum(-1, dtype=v.dtype)
    total = cumulative[:, -1:].contiguous()
    return _first_above(cumulative, torch.minimum(v[:, None].clamp(min=0), _below(total)))[:, 0]


def _chosen(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The first k whose cumulative weight exceeds a fraction u of the total, and what is left of that before k."""
    cumulative, threshold = _cumulative(weights, u)
    index = _first_above(cumulative, threshold)
    before = torch.where(index > 0, cumulative.gather(-1, (index - 1).clamp_(min=0)), 0)
    return index, threshold - before


class Distribution(ABC):
    """Independent distributions over the values 0 .. S - 1 at every position (B, *event).

    Arguments:
        shape: the positions (B, *event).
        num_values: the number S of values.

    Raises:
        ValueError: num_values < 2.
    """

    def __init__(self, shape: torch.Size, num_values: int) -> None:
        if num_values < 2:
            raise ValueError(f"num_values = {num_values}, expected at least 2")
        self.shape = shape
        self.num_values = num_values

    @abstractmethod
    def parameters(self) -> tuple[Tensor, ...]:
        """The tensors that say everything: each (B, *event) with axes of its own after them, or none."""

    @abstractmethod
    def with_parameters(self, parameters: Sequence[Tensor]) -> Distribution:
        """Distributions of this kind, for as many examples as the given parameters have."""

    def defined(self) -> Tensor:
        """Of which examples the parameters say a distribution, being finite: bool (B,)."""
        ends = [parameter.flatten(1).aminmax(dim=1) for parameter in self.parameters()]
        return torch.stack([low.isfinite() & high.isfinite() for low, high in ends]).all(0)

    @property
    @abstractmethod
    def logits(self) -> Tensor:
        """Normalised log-probabilities (B, *event, S)."""

    @property
    def scores(self) -> Tensor:
        """Log-probabilities up to a constant a position (B, *event, S): `logits`, unless less work gives them."""
        return self.logits

    @cached_property
    def probs(self) -> Tensor:
        """Probabilities (B, *event, S)."""
        return decayed(self.logits)

    @abstractmethod
    def log_prob(self, k: Tensor) -> Tensor:
        """The log-probability of the integers k (B, *event), in nats: (B, *event)."""

    @abstractmethod
    def log_expectation(self, weights: Callable[[slice], Tensor]) -> Tensor:
        """`log sum_k p(k) f_k` of positive functions f of the values, in nats: (B, *event).

        Arguments:
            weights: some examples -> their f (b, *event, S), without a gradient.
        """

    @abstractmethod
    def sample(self, u: Tensor) -> Tensor:
        """The values (B, *event), int64, that uniform numbers u (B, *event) in [0, 1) stand for."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The most probable value at every position: (B, *event), int64."""

    def _check_values(self, k: Tensor) -> None:
        if k.shape != self.shape or k.is_floating_point() or k.is_complex() or k.dtype == torch.bool:
            raise ValueError(
                f"k has shape {tuple(k.shape)} and dtype {k.dtype}, expected integers of shape {tuple(self.shape)}"
            )
        if k.device.type == "cpu" and k.numel() and not torch.compiler.is_compiling():
            low, high = (int(end) for end in k.aminmax())
            if low < 0 or high >= self.num_values:
                raise ValueError(f"k has values in {low} .. {high}, expected 0 .. {self.num_values - 1}")

    def _check_uniform(self, u: Tensor) -> None:
        if u.shape != self.shape or not u.is_floating_point():
            raise ValueError(f"u has shape {tuple(u.shape)} and dtype {u.dtype}, expected floating {tuple(self.shape)}")
        if u.device.type == "cpu" and u.numel() and not torch.compiler.is_compiling():
            low, high = (float(end) for end in u.aminmax())
            if not (low >= 0 and high < 1):
                raise ValueError(f"u has values in {low} .. {high}, expected numbers in [0, 1)")


class _PickedLogSoftmax(torch.autograd.Function):
    """`log_softmax(logits)[k]` in chunks that stay in the cache; nothing of the size of the logits is kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(logits, k)
        out = logits.new_empty(k.shape)
        for part in chunks(len(logits), logits.numel(), logits.device):
            out[part] = logits[part].log_softmax(-1).gather(-1, k[part].unsqueeze(-1)).squeeze(-1)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """`grad (onehot(k) - softmax(logits))`."""
        logits, k = ctx.saved_tensors
        out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        for part in chunks(len(logits), logits.numel(), logits.device):
            weight = grad[part].unsqueeze(-1)
            torch.softmax(logits[part], -1, out=out[part]).mul_(-weight).scatter_add_(-1, k[part].unsqueeze(-1), weight)
        return out, None


class Categorical(Distribution):
    """A distribution with one logit a value.

    The log-probability of one value is a softmax and a gather in one function, chunk by chunk, forward and
    backward: the cross-entropy of S = 256 values costs less than one product with a 256 x 256 matrix.

    Arguments:
        logits: unnormalised logits (B, *event, S) in float32 or float64; a value of probability 0 has -inf.

    Raises:
        ValueError: logits of another dtype, with fewer than two axes or two values.
    """

    def __init__(self, logits: Tensor) -> None:
        if logits.ndim < 2 or logits.dtype not in (torch.float32, torch.float64):
            shape = tuple(logits.shape)
            raise ValueError(
                f"logits have shape {shape} and dtype {logits.dtype}, expected (B, *event, S) in float32 or float64"
            )
        super().__init__(logits.shape[:-1], logits.shape[-1])
        self.unnormalised = logits

    def parameters(self) -> tuple[Tensor, ...]:
        return (self.unnormalised,)

    def with_parameters(self, parameters: Sequence[Tensor]) -> Categorical:
        return Categorical(*parameters)

    def defined(self) -> Tensor:
        # A value of probability 0 has -inf; NaN is larger than any number.
        return self.unnormalised.amax(-1).isfinite().flatten(1).all(1)

    @property
    def scores(self) -> Tensor:
        return self.unnormalised

    @cached_property
    def logits(self) -> Tensor:
        return self.unnormalised.log_softmax(-1)

    @cached_property
    def probs(self) -> Tensor:
        return self.unnormalised.softmax(-1)

    def log_prob(self, k: Tensor) -> Tensor:
        self._check_values(k)
        out: Tensor = _PickedLogSoftmax.apply(self.unnormalised, k.long())
        return out

    def log_expectation(self, weights: Callable[[slice], Tensor]) -> Tensor:
        def tilted(some: Distribution, part: slice) -> Tensor:
            return torch.logsumexp(some.logits + weights(part).log(), -1).to(some.logits.dtype)

        return evaluated_by_chunks(tilted, self)

    def sample(self, u: Tensor) -> Tensor:
        self._check_uniform(u)
        logits = self.unnormalised.detach()
        parts = chunks(len(logits), logits.numel(), logits.device)
        if self.num_values % (4 * _BLOCK):
            return torch.cat([inverse_cdf(logits[part].softmax(-1), u[part]) for part in parts])
        # The two levels of inverse_cdf, the second from the logits: so no more than the block sums is ever stored.
        blocks = self.num_values // _BLOCK
        sums = logits.new_empty(*self.shape, blocks)
        for part in parts:
            sums[part] = _block_sums(logits[part].softmax(-1).unflatten(-1, (blocks, _BLOCK)))
        centre = centred(u.reshape(-1, 1), torch.promote_types(sums.dtype, u.dtype))
        block, left = _chosen(sums.view(-1, blocks), centre)
        place = (block * _BLOCK + torch.arange(_BLOCK, device=u.device)).view(*self.shape, _BLOCK)
        left /= sums.view(-1, blocks).gather(1, block)
        return block.view(u.shape) * _BLOCK + inverse_cdf(logits.gather(-1, place).softmax(-1), left.view(u.shape))

    def mode(self) -> Tensor:
        return self.unnormalised.argmax(-1)


class Mixture(Distribution):
    """A mixture of distributions: `p(k) = sum_j w_j p_j(k)`, w = softmax(weights).

    Arguments:
        weights: the unnormalised log-weights (J, B, *event) of the J components.
        components: J distributions of the same shape (B, *event) and number of values.

    Raises:
        ValueError: no components, or components and weights of different shapes or numbers of values.
    """

    def __init__(self, weights: Tensor, components: Sequence[Distribution]) -> None:
        if not components:
            raise ValueError(f"components = {components}, expected at least one distribution")
        first = components[0]
        if any(part.shape != first.shape or part.num_values != first.num_values for part in components):
            given = [(tuple(part.shape), part.num_values) for part in components]
            raise ValueError(f"components have shapes and numbers of values {given}, expected equal ones")
        if weights.shape != (len(components), *first.shape):
            raise ValueError(f"weights have shape {tuple(weights.shape)}, expected {(len(components), *first.shape)}")
        super().__init__(first.shape, first.num_values)
        self.log_weights = weights.log_softmax(0)
        self.components = tuple(components)

    def parameters(self) -> tuple[Tensor, ...]:
        """The log-weights (B, *event, J), then those of the components in turn."""
        return (self.log_weights.movedim(0, -1), *(tensor for part in self.components for tensor in part.parameters()))

    def with_parameters(self, parameters: Sequence[Tensor]) -> Mixture:
        weights, *tensors = parameters
        given = iter(tensors)
        components = [part.with_parameters([next(given) for _ in part.parameters()]) for part in self.components]
        return Mixture(weights.movedim(-1, 0), components)

    def defined(self) -> Tensor:
        weights = self.log_weights.amax(0).isfinite().flatten(1).all(1)  # that of a component may be 0
        return torch.stack([weights, *(part.defined() for part in self.components)]).all(0)

    @cached_property
    def logits(self) -> Tensor:
        out = self.log_weights[0].unsqueeze(-1) + self.components[0].logits
        for weight, part in zip(self.log_weights[1:], self.components[1:], strict=True):
            out = torch.logaddexp(out, weight.unsqueeze(-1) + part.logits)
        return out

    def log_prob(self, k: Tensor) -> Tensor:
        return log_sum(self.log_weights + torch.stack([part.log_prob(k) for part in self.components]))

    def log_expectation(self, weights: Callable[[slice], Tensor]) -> Tensor:
        parts = torch.stack([part.log_expectation(weights) for part in self.components])
        return log_sum(self.log_weights + parts)

    def sample(self, u: Tensor) -> Tensor:
        """One uniform number chooses the component, and what is left of it the value."""
        self._check_uniform(u)
        weights = self.log_weights.detach().double().exp().flatten(1).t()  # (N, J)
        chosen, left = _chosen(weights, centred(u.reshape(-1, 1), torch.float64))
        u = (left / weights.gather(1, chosen)).clamp_(max=1 - torch.finfo(torch.float64).eps).view(u.shape)
        chosen = chosen.view(u.shape)
        out = self.components[0].sample(u)
        for j, part in enumerate(self.components[1:], start=1):
            out = torch.where(chosen == j, part.sample(u), out)
        return out

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)
