"""The training loop, as a generator: the caller logs, saves, plots and stops.

    for step in fit(objective, batches, optimizer, steps=1000, ema=ema):
        print(step.step, step.loss)

One step: draw a batch, sum the gradient of its mean loss over equal parts, clip it, move the
parameters, the learning rate and the average.

Noise is keyed by (seed, step, place in the batch). A step then does not depend on how the
batch was divided, nor on the steps before it: with the parameters of step k, step k + 1 is
the same whether the loop ran through or was started there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ctdiff.training.checkpoints import not_finite
from ctdiff.training.ema import MovingAverage
from diffusion_core import Objective, PerSampleRandomness
from diffusion_core.conditions import check_conditions
from diffusion_core.dropout import seeded

__all__ = ["DIVERGED", "MAX_SKIPPED", "Batch", "BatchSequence", "TrainStep", "fit"]

P = TypeVar("P")

Batch: TypeAlias = tuple[Tensor, Mapping[str, Tensor]]
"""Clean examples x_0 (B, *event) and their conditions by name, such as labels y (B,); {} without any."""


@runtime_checkable
class BatchSequence(Protocol):
    """Batches that can be entered at any step, such as `ctdiff.data.Batches`."""

    def __getitem__(self, step: int, /) -> Batch:
        """The batch of a step, counted from 0."""


MAX_SKIPPED = 10
"""So many steps in a row without a finite gradient end a training: its parameters are lost."""
DIVERGED = "the training has diverged; lower the learning rate or clip more tightly"
"""What is said of a training whose numbers are not finite any more."""


@dataclass(frozen=True)
class TrainStep:
    """What one step did.

    Arguments:
        step: how many steps are done, this one included.
        loss: the mean loss of the batch, a dimension.
        grad_norm: the norm of the gradient before clipping.
        lr: the learning rate of this step.
        skipped: whether the parameters were left alone because loss or gradient was not finite.
        images_per_second: examples over the time of this step.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    skipped: bool
    images_per_second: float


def fit(
    objective: Objective[P],
    batches: BatchSequence | Iterable[Batch],
    optimizer: Optimizer,
    *,
    steps: int,
    ema: MovingAverage | None = None,
    scheduler: LRScheduler | None = None,
    clip: float | None = None,
    accumulation: int = 1,
    seed: int = 0,
    start: int = 0,
) -> Iterator[TrainStep]:
    """Train, yielding after every step.

    Arguments:
        objective: draws what a step needs, and returns the loss of each example (B,), a sum over dimensions. It is
            divided by the number of dimensions, so that rates and norms mean the same for images of any size.
        batches: pairs (x_0, cond): `batches[k]` is the batch of step k, counted from 0; or an
            iterable, such as a DataLoader, whose first batch is that of step `start`.
        optimizer: holds the parameters to train.
        steps: the number of the last step.
        ema: the average to update after every step.
        scheduler: the learning rate's schedule, stepped with the optimiser.
        clip: the largest norm of the gradient; None does not clip.
        accumulation: in how many parts a batch passes through the network. Less memory, the same gradient.
        seed: keys the noise.
        start: how many steps are done already.

    Raises:
        TypeError: the batches are neither a sequence nor an iterable; while iterating, the second of a batch is no mapping.
        ValueError: steps or accumulation below 1, start outside 0 .. steps, clip not positive; while
            iterating, the batches ended, or a condition has another number of rows than x_0.
        FloatingPointError: while iterating, after ten steps in a row without a finite gradient, or after the last step
            if it has left weights that are not finite.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}, expected at least 1")
    if not 0 <= start <= steps:
        raise ValueError(f"start = {start}, expected 0 .. steps = {steps}")
    if accumulation < 1:
        raise ValueError(f"accumulation = {accumulation}, expected at least 1")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip = {clip}, expected a positive norm or None")
    fetch = _numbered(batches, start)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    largest = math.inf if clip is None else clip

    def run() -> Iterator[TrainStep]:
        skipped_in_a_row = 0
        for step in range(start, steps):
            began = time.perf_counter()
            x_0, cond = fetch(step)
            objective.train()
            optimizer.zero_grad(set_to_none=True)
            loss = _gradient(objective, x_0, cond, seed, step, accumulation, parameters[0].device)
            grad_norm = float(nn.utils.clip_grad_norm_(parameters, largest))
            lr = float(optimizer.param_groups[0]["lr"])
            skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
            if not skipped:
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                if ema is not None:
                    ema.update()
            skipped_in_a_row = skipped_in_a_row + 1 if skipped else 0
            yield TrainStep(step + 1, loss, grad_norm, lr, skipped, len(x_0) / (time.perf_counter() - began))
            if skipped_in_a_row == MAX_SKIPPED:
                raise FloatingPointError(
                    f"{MAX_SKIPPED} steps in a row, up to step {step + 1}, had no finite gradient "
                    f"(loss {loss}, gradient norm {grad_norm}): {DIVERGED}"
                )
        if (which := not_finite(objective)) is not None:
            raise FloatingPointError(f"the weights after step {steps} are not finite ({which}): {DIVERGED}")

    return run()


def _numbered(batches: BatchSequence | Iterable[Batch], start: int) -> Callable[[int], Batch]:
    """The batch of a step, given its number."""
    if isinstance(batches, BatchSequence):
        sequence, first = batches, 0

        def take(step: int) -> Batch:
            return sequence[step]

    elif isinstance(batches, Iterable):
        iterator, first = iter(batches), start

        def take(step: int) -> Batch:
            return next(iterator)

    else:
        raise TypeError(f"batches is of type {type(batches).__name__}, expected a sequence or an iterable of pairs (x_0, cond)")

    def fetch(step: int) -> Batch:
        try:
            x_0, cond = take(step)
        except (IndexError, StopIteration) as error:
            raise ValueError(f"the batches ended after {step - first}, before step {step + 1}") from error
        if not isinstance(cond, Mapping):
            raise TypeError(
                f"a batch is (x_0, {type(cond).__name__}), expected conditions by name, such as (x_0, {{'y': labels}})"
            )
        check_conditions(cond, len(x_0))
        return x_0, cond

    return fetch


def _gradient(
    objective: Objective[P], x_0: Tensor, cond: Mapping[str, Tensor], seed: int, step: int, parts: int, device: torch.device
) -> float:
    """Form the gradient of the mean loss of the batch's dimensions, part by part; returns that loss."""
    total = len(x_0)
    size = -(-total // parts)
    loss = torch.zeros((), device=device)
    seen = []
    for first in range(0, total, size):
        part = x_0[first : first + size].to(device)
        given = {name: value[first : first + size].to(device) for name, value in cond.items()}
        noise = PerSampleRandomness.keyed(seed, step, first, len(part), total)
        sample, given = objective.draw(part, noise, **given)
        losses = objective(sample, **given)
        part_loss = losses.sum() / x_0.numel()
        with seeded(sample.seeds):  # blocks that are run again in the backward pass drop the same numbers
            part_loss.backward()
        seen.append((sample, losses.detach()))
        loss += part_loss.detach()
    for sample, losses in seen:  # after the last part, so that all parts are drawn from one density
        objective.learn(sample, losses)
    return float(loss)
