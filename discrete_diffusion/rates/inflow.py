"""The probability flow into the noisy state of every dimension, and draws of the state that the flow comes from.

Let w be weights over the clean value and x a noisy value. The reverse process jumps from x to y with a rate proportional to
`(w P)_y R[y, x]`. With `H[x_0, x] = sum_{y != x} P[x_0, y] R[y, x]`, the sum of these rates and a draw of y need only sums
over x_0:

    total   sum_{y != x} (w P)_y R[y, x] = sum_{x_0} w(x_0) H[x_0, x]
    draw    x_0 with a probability proportional to w(x_0) H[x_0, x],  then y with one proportional to P[x_0, y] R[y, x]

So the product w P is not computed.

Scores are the logarithms of the weights. The weights are computed as `exp(score - shift)`. The shift of a dimension is its
largest score, or 0 where this causes no overflow or underflow. Weights are computed in chunks and are not stored.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from diffusion_core.distributions import inverse_cdf
from diffusion_core.distributions.numerics import chunks, flushed_exp

__all__ = ["Inflow"]


class _Kernel(Protocol):
    """The methods of a transition kernel that an inflow needs."""

    def inflow(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def inflow_columns(self, x: Tensor) -> Tensor: ...

    def draw_inflow(self, x_0: Tensor, x: Tensor, u: Tensor) -> Tensor: ...


class Inflow:
    """The flow into the noisy states of a batch at one time, with draws of jump destinations.

    It has the attributes `at_x = (w P)_x` and `total = sum_{y != x} (w P)_y R[y, x]`, both (B, *event).

    Arguments:
        kernel: P_tau for one tau of shape ().
        scores: log w over the data states (B, *event, S). A score of -inf is a weight of 0.
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
        """The shift: the number that was subtracted from all scores of a dimension, (B, *event)."""
        return self._shift.view(self._shape)

    def weights(self, part: slice) -> Tensor:
        """Return the weights of some dimensions, (M, S), and store their shift."""
        scores = self._scores[part]
        shift = torch.amax(scores, -1, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)
        self._shift[part] = shift
        weights = scores - shift
        return flushed_exp(weights, out=weights)

    def draw(self, positions: Tensor, u: Tensor) -> Tensor:
        """Draw destinations of jumps out of x: flat positions (M,), uniforms (M, 3) in float64 -> (M,)."""
        return self._kernel.draw_inflow(self._sources(positions, u[:, 0]), self._x.index_select(0, positions), u[:, 2])

    def _sources(self, positions: Tensor, u: Tensor) -> Tensor:
        """Draw `x_0 ~ w(x_0) H[x_0, x]` from all weights: flat positions (M,), uniforms (M,) -> (M,)."""
        x = self._x.index_select(0, positions)
        x_0 = torch.empty_like(x)
        for part in chunks(len(x), len(x) * self._scores.shape[-1], x.device):
            scores = self._scores.index_select(0, positions[part]).sub_(self._shift.index_select(0, positions[part]))
            weights = flushed_exp(scores, out=scores).mul_(self._kernel.inflow_columns(x[part]))
            x_0[part] = inverse_cdf(weights, u[part])
        return x_0
