"""Functions of distributions, a few examples at a time.

With S values a position, whatever has an axis of S is hundreds of times larger than what a compact
head returns. On a CPU such arrays leave the cache, and reading them costs more than computing
them. So the batch is cut into chunks that fit, and the gradient by the distribution's
parameters is formed while a chunk is there:

    value = f(theta),      d (sum_i g_i value_i) / d theta_i = g_i  d value_i / d theta_i

which holds as every position has its own value and its own parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from backbones.distributions import Distribution

__all__ = ["chunks", "evaluated_by_chunks"]

_CHUNK = 2**18  # elements: 1 MB of float32, so that a chunk and its result stay in a CPU core's cache


def chunks(batch: int, elements: int, device: torch.device) -> Iterator[slice]:
    """Slices of the batch, at least one: on a CPU as many examples as fit the cache, elsewhere all of them.

    Arguments:
        batch: the number B of examples.
        elements: how many numbers all of them have.
        device: where they are.
    """
    size = max(1, _CHUNK * batch // max(elements, 1)) if device.type == "cpu" else max(batch, 1)
    return (slice(start, start + size) for start in range(0, max(batch, 1), size))


def evaluated_by_chunks(function: Callable[[Distribution, slice], Tensor], distribution: Distribution) -> Tensor:
    """A number for every position, differentiable in the distribution's parameters: (B, *event).

    Arguments:
        function: (the distributions of some examples, which ones) -> their values (b, *event); the value
            of a position depends on that position's distribution only.
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
