"""The base class of distributions over S values. A subclass need not store an array with an axis of size S.

The head of a network returns a distribution. `Categorical` has a logit for each value. The truncated logistic has a location
and a scale, so the log-probability of one value and a sample cost O(1) for each position. Distributions do not depend on a
process.

An array with an axis of size S may be hundreds of times larger than the parameters of the distribution. On a CPU such
an array does not fit in the cache, and reading the array takes longer than computing it. So functions of such arrays
are evaluated in chunks of the batch that fit in the cache. The gradient with respect to the parameters theta is
computed together with the value of a chunk:

    value = f(theta),      d (sum_i g_i value_i) / d theta_i = g_i  d value_i / d theta_i

This holds because the value of a position depends only on the parameters of that position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_core.distributions.numerics import chunks, flushed_exp
from diffusion_core.lazy import lazy_property
from diffusion_core.values import NOTHING, ends

__all__ = ["Distribution", "evaluated_by_chunks"]


class Distribution(ABC):
    """Independent distributions over the values 0 .. S - 1, one at each position (B, *event).

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
        """Return the tensors that define the distributions, each (B, *event) or (B, *event, ...)."""

    @abstractmethod
    def with_parameters(self, parameters: Sequence[Tensor]) -> Distribution:
        """Return distributions of the same class with other parameters. The number of examples may differ."""

    def defined(self) -> Tensor:
        """Return whether the parameters of each example are valid, without NaN or infinities: bool (B,)."""
        ends = [parameter.flatten(1).aminmax(dim=1) for parameter in self.parameters()]
        return torch.stack([low.isfinite() & high.isfinite() for low, high in ends]).all(0)

    @property
    @abstractmethod
    def logits(self) -> Tensor:
        """Normalised log-probabilities (B, *event, S)."""

    @property
    def scores(self) -> Tensor:
        """Log-probabilities up to a constant for each position (B, *event, S). They may be cheaper than `logits`."""
        return self.logits

    @lazy_property
    def probs(self) -> Tensor:
        """Probabilities (B, *event, S)."""
        return flushed_exp(self.logits)

    @abstractmethod
    def log_prob(self, k: Tensor) -> Tensor:
        """Return the log-probability of the integers k (B, *event), in nats: (B, *event)."""

    @abstractmethod
    def log_expectation(self, weights: Callable[[slice], Tensor]) -> Tensor:
        """Return `log sum_k p(k) f_k`, in nats, for a non-negative weight f_k of each value: (B, *event).

        Arguments:
            weights: a function of a slice of the batch. It returns f for these examples (b, *event, S), without a gradient.
        """

    @abstractmethod
    def sample(self, u: Tensor) -> Tensor:
        """Sample by the inverse CDF: uniform numbers u in [0, 1), (B, *event) -> values (B, *event), int64."""

    @abstractmethod
    def mode(self) -> Tensor:
        """Return the most probable value at every position: (B, *event), int64."""

    def _check_values(self, k: Tensor) -> None:
        if k.shape != self.shape or k.is_floating_point() or k.is_complex() or k.dtype == torch.bool:
            raise ValueError(
                f"k has shape {tuple(k.shape)} and dtype {k.dtype}, expected integers of shape {tuple(self.shape)}"
            )
        low, high = ends(k, NOTHING)
        if low < 0 or high >= self.num_values:
            raise ValueError(f"k has values in {low} .. {high}, expected 0 .. {self.num_values - 1}")

    def _check_uniform(self, u: Tensor) -> None:
        if u.shape != self.shape or not u.is_floating_point():
            raise ValueError(f"u has shape {tuple(u.shape)} and dtype {u.dtype}, expected floating {tuple(self.shape)}")
        low, high = ends(u, NOTHING)
        if not (low >= 0 and high < 1):
            raise ValueError(f"u has values in {low} .. {high}, expected numbers in [0, 1)")


def evaluated_by_chunks(function: Callable[[Distribution, slice], Tensor], distribution: Distribution) -> Tensor:
    """Evaluate a function of distributions in chunks of the batch, with gradients for their parameters: (B, *event).

    Arguments:
        function: (the distributions of a chunk, the slice of the chunk) -> values (b, *event). The value of a position must
            depend only on the distribution at that position.
        distribution: the distributions of the whole batch.
    """
    parameters = distribution.parameters()
    if parameters[0].device.type != "cpu" or torch.compiler.is_compiling():
        return function(distribution, slice(None))
    values: Tensor = _ByChunks.apply(function, distribution, *parameters)
    return values


class _ByChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Any, distribution: Distribution, *parameters: Tensor) -> Tensor:
        needed = ctx.needs_input_grad[2:]
        differentiated = [i for i, need in enumerate(needed) if need]
        gradients = {i: torch.empty_like(parameters[i]) for i in differentiated}
        values = []
        for part in chunks(len(parameters[0]), distribution.shape.numel() * distribution.num_values, parameters[0].device):
            leaves = [p[part].detach().requires_grad_(need) for p, need in zip(parameters, needed, strict=True)]
            with torch.set_grad_enabled(bool(differentiated)):
                value = function(distribution.with_parameters(leaves), part)
                total = value.sum()
            if differentiated:
                found = torch.autograd.grad(total, [leaves[i] for i in differentiated])
                for i, gradient in zip(differentiated, found, strict=True):
                    gradients[i][part] = gradient
            values.append(value.detach())
        ctx.differentiated = differentiated
        ctx.save_for_backward(*gradients.values())
        return torch.cat(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        out: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        for i, gradient in zip(ctx.differentiated, ctx.saved_tensors, strict=True):
            out[i + 2] = gradient * upstream.reshape(*upstream.shape, *(1,) * (gradient.ndim - upstream.ndim))
        return tuple(out)
