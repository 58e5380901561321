"""Importance sampling of training times: draw times with a large loss more often.

The mean of `loss / density` has the smallest variance if the density p(t) is proportional to `sqrt(E[loss(t)^2])`. The
weights 1 / p keep the mean the same as for uniform times. Training with a variational bound needs this, because its
terms differ by orders of magnitude.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_core.densities import find_piece
from diffusion_core.ranges import Count, Range, check_arguments
from diffusion_core.times import Early, Late, TimeSampler, check_interval, clamped
from diffusion_core.values import listed

__all__ = ["ImportanceTimes"]


class ImportanceTimes(TimeSampler):
    """A density of times that is learned during training: times with large recent losses are drawn more often.

    The density is constant on bins of equal length. It is uniform until every bin has `history` losses. Draws are
    stratified. In distributed training each process learns a density from its own losses, and its weights are 1 / this
    density.

    Arguments:
        t_min: the smallest time that is drawn.
        t_max: the largest time that is drawn.
        bins: the number of bins of equal length. For the loss of a chain of N steps, use N bins.
        history: the number of recent losses that each bin keeps.
        uniform_share: the fraction of draws that are uniform, so that every bin is still drawn.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    def __init__(
        self,
        t_min: Early = 0.01,
        t_max: Late = 1.0,
        bins: Count = 100,
        history: Count = 10,
        uniform_share: Annotated[float, Range(above=0, most=1)] = 0.001,
    ) -> None:
        check_arguments(ImportanceTimes, locals())
        check_interval(t_min, t_max)
        self.t_min = t_min
        self.t_max = t_max
        self.uniform_share = uniform_share
        self._squares: NDArray[np.float64] = np.zeros((bins, history))
        self._seen: NDArray[np.int64] = np.zeros(bins, dtype=np.int64)

    def probabilities(self) -> NDArray[np.float64]:
        """Return the probability of each bin (bins,)."""
        bins, history = self._squares.shape
        uniform = np.full(bins, 1 / bins)
        size = np.sqrt(self._squares.mean(1))
        if (self._seen < history).any() or size.sum() == 0:
            return uniform
        probabilities: NDArray[np.float64] = (1 - self.uniform_share) * size / size.sum() + self.uniform_share * uniform
        return probabilities

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = torch.tensor(self.probabilities(), device="cpu")
        place, inside = find_piece(u.double().cpu(), probabilities)
        width = (self.t_max - self.t_min) / len(probabilities)
        t = self.t_min + (place + inside) * width
        return clamped(t, self.t_min, self.t_max), (width / probabilities[place]).float()

    def update(self, t: Tensor, loss: Tensor) -> None:
        """Record the losses (n,) at the times t (n,). Losses that are not finite or outside the interval are ignored."""
        t, loss = t.detach().cpu(), loss.detach().cpu()
        bins, history = self._squares.shape
        # A bin includes its upper end, because the loss of a chain is measured there. float32 may have rounded that end up.
        position = (t.double() - self.t_min) / (self.t_max - self.t_min) * bins
        places = torch.where(position < 0, -1, (position * (1 - 2.0**-22)).ceil().clamp(min=1) - 1).long()
        numbers = zip(listed(places.expand(len(loss)), unseen=-1), listed(loss.double(), unseen=math.nan), strict=True)
        for place, value in numbers:  # with fake tensors, `listed` gives -1 and NaN, which are ignored
            if 0 <= place < bins and math.isfinite(value):
                self._squares[place, self._seen[place] % history] = value**2
                self._seen[place] += 1

    def state_dict(self) -> dict[str, Any]:
        return {"squares": torch.tensor(self._squares), "seen": torch.tensor(self._seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, mine in (("squares", self._squares), ("seen", self._seen)):
            if name not in state or tuple(state[name].shape) != mine.shape:
                found = tuple(state[name].shape) if name in state else None
                raise ValueError(f"{name} has shape {found} in the state, expected {mine.shape}")
            mine[...] = state[name].numpy()
