"""The moving average of the parameters of a network. Samples are drawn with the averaged parameters.

With a large learning rate, the parameters move around an optimum. Their average is closer to it. After n updates, the next
update is

    ema <- d_n ema + (1 - d_n) theta,     d_n = min(decay, (1 + n) / (10 + n))

The decay d_n is small at first. So the initial parameters have a small weight, even after a short training. Only the network
is averaged. The tables of a process are not parameters, so they are not copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["MovingAverage"]


class MovingAverage(AveragedModel):
    """The exponential moving average of a network, with a warm-up of its decay.

    Its attribute `module` is a network with the averaged parameters, in evaluation mode and without gradients.

    References:
        Exponential moving average of weights in deep learning (Morales-Brotons et al., 2024) | https://arxiv.org/abs/2411.18704

    Arguments:
        network: the network whose parameters are averaged.
        decay: the decay after the warm-up, which is the largest value of d_n, in [0, 1).

    Raises:
        ValueError: the decay is outside [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay = {decay}, expected a number in [0, 1)")
        super().__init__(network, multi_avg_fn=self._lerp)
        self.decay = decay
        self._source = (network,)  # in a tuple, so that the network is no sub-module of its average
        self.module.eval().requires_grad_(False)

    @property
    def updates(self) -> int:
        """The number of updates so far."""
        return int(self.n_averaged)

    def update(self) -> None:
        """Update the average with the current parameters of the network."""
        self.update_parameters(self._source[0])

    def train(self, mode: bool = True) -> MovingAverage:
        """Stay in evaluation mode, because the average is never trained."""
        return super().train(False)

    def _lerp(self, averaged: Any, current: Any, updates: Tensor | int) -> None:
        n = int(updates)
        decay = min(self.decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)
