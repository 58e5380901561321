"""The categorical distribution. Its methods do not store a second array of the size of the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_core.distributions.base import Distribution, evaluated_by_chunks
from diffusion_core.distributions.inversion import BLOCK, block_sums, centred, chosen, inverse_cdf
from diffusion_core.distributions.numerics import chunks
from diffusion_core.lazy import lazy_property

__all__ = ["Categorical"]


class _PickedLogSoftmax(torch.autograd.Function):
    """`log_softmax(logits)[k]`, computed in chunks that fit in the cache. No array of the size of the logits is saved."""

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
        """Return `grad (onehot(k) - softmax(logits))`."""
        logits, k = ctx.saved_tensors
        out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        for part in chunks(len(logits), logits.numel(), logits.device):
            weight = grad[part].unsqueeze(-1)
            torch.softmax(logits[part], -1, out=out[part]).mul_(-weight).scatter_add_(-1, k[part].unsqueeze(-1), weight)
        return out, None


class Categorical(Distribution):
    """The categorical distribution, with one logit for each value.

    `log_prob` fuses the softmax and the gather and works in chunks, forward and backward. For S = 256 values it is cheaper
    than one product with a 256 x 256 matrix.

    Arguments:
        logits: unnormalised logits (B, *event, S) in float32 or float64. The logit of a value of probability 0 is -inf.

    Raises:
        ValueError: the logits have another dtype, fewer than two axes or fewer than two values.
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
        # Single logits may be -inf (probability 0), so only the largest is checked. It is NaN if any logit is NaN.
        return self.unnormalised.amax(-1).isfinite().flatten(1).all(1)

    @property
    def scores(self) -> Tensor:
        return self.unnormalised

    @lazy_property
    def logits(self) -> Tensor:
        return self.unnormalised.log_softmax(-1)

    @lazy_property
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
        if self.num_values % (4 * BLOCK):
            return torch.cat([inverse_cdf(logits[part].softmax(-1), u[part]) for part in parts])
        # The two levels of inverse_cdf. The second level starts from the logits again, so only the block sums are stored.
        blocks = self.num_values // BLOCK
        sums = logits.new_empty(*self.shape, blocks)
        for part in parts:
            sums[part] = block_sums(logits[part].softmax(-1).unflatten(-1, (blocks, BLOCK)))
        centre = centred(u.reshape(-1, 1), torch.promote_types(sums.dtype, u.dtype))
        block, left = chosen(sums.view(-1, blocks), centre)
        place = (block * BLOCK + torch.arange(BLOCK, device=u.device)).view(*self.shape, BLOCK)
        left /= sums.view(-1, blocks).gather(1, block)
        return block.view(u.shape) * BLOCK + inverse_cdf(logits.gather(-1, place).softmax(-1), left.view(u.shape))

    def mode(self) -> Tensor:
        return self.unnormalised.argmax(-1)
