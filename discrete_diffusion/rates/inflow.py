"""The flow into the noisy state of every dimension, and draws of where it comes from.

For weights w over the clean value and a noisy value x, the reverse process jumps from x to y at a
rate proportional to `(w P)_y R[y, x]`. With `H[x_0, x] = sum_{y != x} P[x_0, y] R[y, x]`,

    total   sum_{y != x} (w P)_y R[y, x] = sum_{x_0} w(x_0) H[x_0, x]
    draw    x_0 ~ w(x_0) H[x_0, x],   then   y ~ P[x_0, y] R[y, x]

so the product w P is never formed.

Weights are given by their logarithms, the scores, and are `exp(score - shift)` with the largest
score of each dimension as its shift, or 0 where that will do: a chunk of them at a time, so that they are never stored.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from diffusion_core.distributions import inverse_cdf
from diffusion_core.distributions.numerics import chunks, flushed_exp

__all__ = ["Inflow"]


class _Kernel(Protocol):
    """What is asked of a transition kernel."""

    def inflow(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def inflow_columns(self, x: Tensor) -> Tensor: ...

    def draw_inflow(self, x_0: Tensor, x: Tensor, u: Tensor) -> Tensor: ...


class Inflow:
    """For one time and all dimensions of a batch.

    Arguments:
        kernel: P_tau for scalar tau.
        scores: log w over the data states (B, *event, S); -inf is a weight of 0.
        x: noisy states (B, *event).
    """

    def __init__(self, kernel: _Kernel, scores: Tensor, x: Tensor) -> None:
        self._prepare(kernel, scores, x)
        self.at_x, self.total = kernel.inflow(self.weights(slice(None)).view(scores.shape), x)

    def _prepare(self, kernel: _Kernel, scores: Tensor, x: Tensor) -> None:
        self._kernel = kernel
        self._scores = scores.flatten(0, -2)
        self._x = x.flatten()
        self._shape = x.shape
        self._shift = scores.new_empty(len(self._x), 1)

    @property
    def shift(self) -> Tensor:
        """What was subtracted from the scores of each dimension: (B, *event)."""
        return self._shift.view(self._shape)

    def weights(self, part: slice) -> Tensor:
        """The weights of some dimensions, and their shift: (M, S)."""
        scores = self._scores[part]
        shift = torch.amax(scores, -1, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)
        self._shift[part] = shift
        weights = scores - shift
        return flushed_exp(weights, out=weights)

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        """Where jumps out of x lead: flat positions (M,), uniforms (M, 3) in float64 -> (M,)."""
        return self._kernel.draw_inflow(self._sources(positions, u[:, 0]), self._x.index_select(0, positions), u[:, 2])

    def _sources(self, positions: Tensor, u: Tensor) -> Tensor:
        """`x_0 ~ w(x_0) H[x_0, x]` from all weights of some dimensions: flat positions (M,), uniforms (M,) -> (M,)."""
        x = self._x.index_select(0, positions)
        x_0 = torch.empty_like(x)
        for part in chunks(len(x), len(x) * self._scores.shape[-1], x.device):
            scores = self._scores.index_select(0, positions[part]).sub_(self._shift.index_select(0, positions[part]))
            weights = flushed_exp(scores, out=scores).mul_(self._kernel.inflow_columns(x[part]))
            x_0[part] = inverse_cdf(weights, u[part])
        return x_0
