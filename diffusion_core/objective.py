"""The training objective: one module from data to unreduced losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusion_core.base import Denoiser, Loss
from diffusion_core.randomness import Generator, as_randomness
from diffusion_core.times import TimeSampler

__all__ = ["Objective"]


class Objective(nn.Module):
    """Draw times, evaluate the loss, weight it by 1 / density: what is wrapped for training.

    With p the density of the time sampler, `E[forward(x_0)] = E_x0 int loss(x_0, t) dt`.

    Arguments:
        denoiser: the denoiser to train.
        loss: the unreduced loss.
        times: the density of training times.
        label_dropout: the probability that a label is replaced by the null class.
        null_class: the label that means "no label"; needed where label_dropout > 0.

    Raises:
        ValueError: no probability, no null class where one is needed, or times that leave out some the loss needs.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        loss: Loss,
        times: TimeSampler,
        label_dropout: float = 0.0,
        null_class: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout = {label_dropout}, expected a probability in [0, 1]")
        if label_dropout > 0 and null_class is None:
            raise ValueError(f"label_dropout = {label_dropout} needs a null_class, got None")
        loss.check_times(times)
        self.denoiser = denoiser
        self.loss = loss
        self.times = times
        self.label_dropout = label_dropout
        self.null_class = null_class

    def forward(self, x_0: Tensor, y: Tensor | None = None, generator: Generator = None) -> Tensor:
        """The weighted loss of each example: x_0 (B, *event), y (B,) or None -> (B,)."""
        self.denoiser.check_event(x_0)
        randomness = as_randomness(generator)
        t, weight = (values.to(x_0.device) for values in self.times(len(x_0), randomness))
        if y is not None and self.null_class is not None and self.label_dropout > 0:
            dropped = randomness.uniform((len(x_0),), device=y.device) < self.label_dropout
            y = torch.where(dropped, self.null_class, y)
        loss = self.loss(self.denoiser, x_0, t, y, randomness)
        if self.training:  # what is measured on held-out data must not move the training
            self.times.update(t.detach(), loss.detach())
        return loss * weight
