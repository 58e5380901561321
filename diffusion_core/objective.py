"""The training objective: one module from data to unreduced losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffusion_core.base import Denoiser, Loss
from diffusion_core.conditions import Null, check_conditions, null_like
from diffusion_core.guidance import null_values
from diffusion_core.randomness import Generator, Randomness, as_randomness
from diffusion_core.tensors import per_example
from diffusion_core.times import TimeSampler

__all__ = ["Objective"]


class Objective(nn.Module):
    """Draw times, evaluate the loss, weight it by 1 / density: what is wrapped for training.

    With p the density of the time sampler, `E[forward(x_0)] = E_x0 int loss(x_0, t) dt`.

    Arguments:
        denoiser: the denoiser to train.
        loss: the unreduced loss.
        times: the density of training times.
        label_dropout: the probability that the conditions of an example which have a null value are replaced by it.
        null: the values that mean "none", by condition; None is the network's null class of y.

    Raises:
        ValueError: no probability, no null value where one is needed, or times that leave out some the loss needs.
    """

    def __init__(
        self,
        denoiser: Denoiser[object],
        loss: Loss,
        times: TimeSampler,
        label_dropout: float = 0.0,
        null: Mapping[str, Null] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout = {label_dropout}, expected a probability in [0, 1]")
        loss.check_times(times)
        self.denoiser = denoiser
        self.loss = loss
        self.times = times
        self.label_dropout = label_dropout
        self.null = null_values(denoiser, null) if label_dropout > 0 else {}

    def forward(self, x_0: Tensor, generator: Generator = None, **cond: Tensor) -> Tensor:
        """The weighted loss of each example: x_0 (B, *event) and conditions with B rows -> (B,).

        Raises:
            TypeError: a condition is no tensor.
            ValueError: x_0 is not (B, *event), or a condition has not B rows.
        """
        self.denoiser.check_event(x_0)
        check_conditions(cond, len(x_0))
        randomness = as_randomness(generator)
        t, weight = (values.to(x_0.device) for values in self.times(len(x_0), randomness))
        given = self._some(cond, x_0, randomness) if self.null and cond else cond
        loss = self.loss(self.denoiser, x_0, t, randomness, **given)
        if self.training:  # what is measured on held-out data must not move the training
            self.times.update(t.detach(), loss.detach())
        return loss * weight

    def _some(self, cond: Mapping[str, Tensor], x_0: Tensor, randomness: Randomness) -> dict[str, Tensor]:
        """The conditions with null values in the examples whose conditions are dropped."""
        dropped = randomness.uniform((len(x_0),), device=x_0.device) < self.label_dropout
        null = {name: null_like(name, self.null[name], value) for name, value in cond.items() if name in self.null}
        return {**cond, **{name: torch.where(per_example(dropped, none), none, cond[name]) for name, none in null.items()}}
