"""The moving average of a network's parameters: what samples are drawn from.

A network trained at a large learning rate wanders around its optimum; the average of where
it has been lies closer. With n updates made so far,

    ema <- d_n ema + (1 - d_n) theta,     d_n = min(decay, (1 + n) / (10 + n))

so that a short run is not an average with the initialisation. Only the network is averaged:
the tables of a process are no parameters and are not copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["MovingAverage"]


class MovingAverage(AveragedModel):
    """The exponential moving average of a network, with a warm-up of its decay.

    Its `.module` is a network like the given one, in evaluation mode and without gradients.

    References:
        Exponential moving average of weights in deep learning (Morales-Brotons et al., 2024) | https://arxiv.org/abs/2411.18704

    Arguments:
        network: the network to follow.
        decay: the weight d of the past once warm, in [0, 1).

    Raises:
        ValueError: the decay is outside [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay = {decay}, expected a number in [0, 1)")
        super().__init__(network, multi_avg_fn=self._lerp)
        self.decay = decay
        self._source = (network,)  # in a tuple, so that the followed network is no sub-module of its average
        self.module.eval().requires_grad_(False)

    @property
    def updates(self) -> int:
        """How many updates were made."""
        return int(self.n_averaged)

    def update(self) -> None:
        """Take the network's present parameters into the average."""
        self.update_parameters(self._source[0])

    def train(self, mode: bool = True) -> MovingAverage:
        """Stay in evaluation mode: the average is never trained."""
        return super().train(False)

    def _lerp(self, averaged: Any, current: Any, updates: Tensor | int) -> None:
        n = int(updates)
        decay = min(self.decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)
