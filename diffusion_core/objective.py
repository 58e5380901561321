"""The training objective: draw all random numbers of a training step, then compute the loss without random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from diffusion_core.base import Denoiser, Loss, Sample, active_positions
from diffusion_core.conditions import Null, check_conditions, null_like
from diffusion_core.dropout import number_layers, seeded
from diffusion_core.guidance import null_values
from diffusion_core.known import KnownMask, check_known
from diffusion_core.randomness import Generator, Randomness, as_randomness
from diffusion_core.ranges import Share, check_arguments
from diffusion_core.tensors import per_example
from diffusion_core.times import TimeSampler

__all__ = ["Objective"]

P = TypeVar("P")


class Objective(nn.Module, Generic[P]):
    """The training objective: a denoiser, its loss and the density of training times.

        sample, cond = objective.draw(x_0, generator, **cond)     # draw times, noise, conditions to drop, dropout seeds
        losses = objective(sample, **cond)                        # draw nothing: can be compiled or wrapped in DDP
        objective.learn(sample, losses)                           # update the density of times, if it is learned

    The loss of each example is divided by the probability density with which its time was drawn. So the mean loss does
    not depend on this density: `E[forward(draw(x_0))] = E_x0 int loss(x_0, t) dt`.

    Arguments:
        denoiser: the denoiser to train.
        loss: the unreduced loss.
        times: the density of training times.
        label_dropout: the probability that the conditions of an example are replaced by their null values.
        null: a dict. Its keys are the names of the conditions that label dropout replaces. Its values are their null
            values, which mean "no condition". None means only the labels y, with the null class of the network.
        known: draws the known positions of each example, for a model that completes examples. Known positions get no
            noise and do not count in the loss. The network gets their clean values and the condition `known`. None means
            no known positions.

    Raises:
        ValueError: the loss cannot train the denoiser, or does not fit the times (`Loss.check`). There are two more reasons
            if label_dropout > 0: `null` is None, but the network has no labels; or `null_values` does not accept `null`.
    """

    def __init__(
        self,
        denoiser: Denoiser[P],
        loss: Loss[P],
        times: TimeSampler,
        label_dropout: Share = 0.0,
        null: Mapping[str, Null] | None = None,
        known: KnownMask | None = None,
    ) -> None:
        check_arguments(Objective, locals())
        super().__init__()
        loss.check(denoiser, times)
        self.denoiser = denoiser
        self.loss = loss
        self.times = times
        self.label_dropout = label_dropout
        self.null = null_values(denoiser, null) if label_dropout > 0 else {}
        self.known = known
        self.has_dropout = number_layers(denoiser) > 0

    def draw(self, x_0: Tensor, generator: Generator = None, **cond: Tensor) -> tuple[Sample, dict[str, Tensor]]:
        """Draw all random numbers of a training step: times, noise, conditions to drop, and seeds of dropout.

        Arguments:
            x_0: clean data (B, *event).
            generator: the source of randomness.
            cond: conditions of the network by name, with B rows. If you give `known`, bool (B, *event), it is not
                drawn.

        Returns:
            The sample and the conditions. The conditions include `known` if it was drawn. They have null values for the
            examples whose conditions are dropped.

        Raises:
            TypeError: a condition is not a tensor.
            ValueError: x_0 is not (B, *event), a condition does not have B rows, or `known` is not bool (B, *event).
        """
        self.denoiser.check_event(x_0)
        check_conditions(cond, len(x_0))
        randomness = as_randomness(generator)
        if self.known is not None and "known" not in cond:
            cond["known"] = self.known(x_0.shape, randomness, x_0.device)
        if "known" in cond:
            check_known(cond["known"], x_0.shape)
        t, weight = (values.to(x_0.device) for values in self.times(len(x_0), randomness))
        given = self._some(cond, x_0, randomness) if self.null and cond else cond
        # If the condition `known` of an example is dropped, all its positions get noise.
        active = active_positions(self.denoiser, x_0, **given)
        sample = self.loss.draw(self.denoiser.process, x_0, t, randomness, active)
        seeds = None
        if self.has_dropout and self.training:
            seeds = (randomness.uniform((len(x_0),), torch.float64, x_0.device) * 2**53).long()
        return sample._replace(weight=weight, seeds=seeds), given

    def forward(self, sample: Sample, **cond: Tensor) -> Tensor:
        """Return the loss of each example times its weight: (B,). The loss is in nats or squared units."""
        with seeded(sample.seeds):
            loss = self.loss(self.denoiser, sample, **cond)
        return loss if sample.weight is None else loss * sample.weight

    def learn(self, sample: Sample, losses: Tensor) -> None:
        """Update the density of times with the losses (B,) that `forward` returned for a sample. Use only training data."""
        losses = losses.detach() if sample.weight is None else losses.detach() / sample.weight
        self.times.update(sample.t.detach(), losses)

    def _some(self, cond: Mapping[str, Tensor], x_0: Tensor, randomness: Randomness) -> dict[str, Tensor]:
        """Return the conditions, with null values for the examples whose conditions are dropped."""
        dropped = randomness.uniform((len(x_0),), device=x_0.device) < self.label_dropout
        null = {name: null_like(name, self.null[name], value) for name, value in cond.items() if name in self.null}
        return {**cond, **{name: torch.where(per_example(dropped, none), none, cond[name]) for name, none in null.items()}}
