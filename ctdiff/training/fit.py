"""The training loop, as a generator. The caller logs, saves, plots and stops.

    for step in fit(objective, batches, optimizer, steps=1000, ema=ema):
        print(step.step, step.loss)

One step takes a batch and computes the gradient of its mean loss. To save memory, it can divide the batch into parts of equal
size. Then it clips the gradient, and updates the parameters, the learning rate and the moving average.

The noise depends only on the seed, the step and the place in the batch. So a step does not depend on the number of parts. A
loop that starts at step k with the saved state makes the same steps as a loop that started at step 0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from ctdiff.training.checkpoints import not_finite
from ctdiff.training.ema import MovingAverage
from diffusion_core import Objective, PerSampleRandomness
from diffusion_core.conditions import check_conditions
from diffusion_core.dropout import seeded

__all__ = ["DIVERGED", "MAX_SKIPPED", "Batch", "BatchSequence", "TrainStep", "fit"]

P = TypeVar("P")

Batch: TypeAlias = tuple[Tensor, Mapping[str, Tensor]]
"""Clean examples x_0 (B, *event), and a dictionary of their conditions, such as {"y": labels}. It is {} without conditions."""


@runtime_checkable
class BatchSequence(Protocol):
    """A sequence of batches that gives the batch of any step, such as `ctdiff.data.Batches`."""

    def __getitem__(self, step: int, /) -> Batch:
        """Return the batch of a step, counted from 0."""


MAX_SKIPPED = 10
"""A training ends with an error after this number of steps in a row without a finite gradient."""
DIVERGED = "the training has diverged; use a lower learning rate or a smaller norm for clipping"
"""The end of messages about a training whose numbers are not finite."""


@dataclass(frozen=True)
class TrainStep:
    """The record of one training step.

    Arguments:
        step: the number of finished steps, including this one.
        loss: the mean loss of the batch per dimension.
        grad_norm: the norm of the gradient before clipping.
        lr: the learning rate of this step.
        skipped: whether the parameters were not changed because the loss or the gradient was not finite.
        images_per_second: the number of examples divided by the time of this step.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    skipped: bool
    images_per_second: float


def fit(
    objective: Objective[P],
    batches: BatchSequence | Iterable[Batch | Sequence[Tensor] | Tensor],
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
    """Train, and yield a record after every step.

    `fit` checks its arguments at once. Other errors are raised later, during the iteration over its result.

    Arguments:
        objective: the training objective. It returns one loss for each example (B,). This loss is a sum over the dimensions
            of the example. `fit` divides the loss by the number of dimensions, so that learning rates and norms do not depend
            on the size of the images.
        batches: a sequence or an iterable of pairs (x_0, cond). The item `batches[k]` of a sequence is the batch of step k,
            counted from 0. The first batch of an iterable, for example of a DataLoader, is the batch of step `start`. A batch
            without conditions may also be x_0 or (x_0,). A pair of two tensors, for example images and labels of a DataLoader,
            is an error, because conditions need names: give `((x_0, {"y": y}) for x_0, y in loader)`.
        optimizer: the optimiser of the parameters to train.
        steps: the total number of steps, including the `start` steps that are already done.
        ema: the moving average. It is updated after every step, except after a step that was skipped because its loss or
            gradient was not finite.
        scheduler: the learning-rate schedule. It makes one step for each step of the optimiser.
        clip: the largest norm of the gradient; a larger gradient is scaled to this norm. None means no clipping.
        accumulation: the number of parts that a batch is divided into. The gradients of the parts are added up. More parts
            need less memory, and give the same gradient up to rounding.
        seed: the seed of the noise.
        start: the number of steps that are already done.

    Raises:
        TypeError: `batches` is neither a sequence nor an iterable, or it is a tensor, a mapping, or a Dataset, whose items are
            examples and not batches. During the iteration: a batch does not have one of the forms above.
        ValueError: steps < 1, accumulation < 1, start is not in 0 .. steps, or clip is not positive. During the iteration:
            there are fewer batches than steps, or a condition does not have one row for each example.
        FloatingPointError: in each of ten steps in a row, the loss or the gradient was not finite. Or a weight is not finite
            after the last step. Both are raised only during the iteration.
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


def _numbered(batches: BatchSequence | Iterable[Batch | Sequence[Tensor] | Tensor], start: int) -> Callable[[int], Batch]:
    """Return a function from the number of a step to its batch."""
    if isinstance(batches, (Dataset, Tensor, Mapping)):
        raise TypeError(
            f"batches is of type {type(batches).__name__}, which holds single examples, expected a sequence or an iterable of "
            "batches, such as DataLoader(dataset, batch_size=64, shuffle=True)"
        )
    if isinstance(batches, BatchSequence):
        sequence, first = batches, 0

        def take(step: int) -> object:
            return sequence[step]

    elif isinstance(batches, Iterable):
        iterator, first = iter(batches), start

        def take(step: int) -> object:
            return next(iterator)

    else:
        raise TypeError(f"batches is of type {type(batches).__name__}, expected a sequence or an iterable of pairs (x_0, cond)")

    def fetch(step: int) -> Batch:
        try:
            batch = take(step)
        except (IndexError, StopIteration) as error:
            raise ValueError(f"there are only {step - first} batches, expected another one for step {step + 1}") from error
        return _as_batch(batch)

    return fetch


def _as_batch(batch: object) -> Batch:
    """Return a batch as a pair (x_0, cond).

    Raises:
        TypeError, ValueError: it is no batch, or a condition does not have one row for each example.
    """
    parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    x_0, cond = parts if len(parts) == 2 else (*parts, {}) if len(parts) == 1 else (None, None)
    if not isinstance(x_0, Tensor):
        kinds = ", ".join(type(part).__name__ for part in parts)
        found = f"({kinds})" if isinstance(batch, (tuple, list)) else kinds
        raise TypeError(f"a batch is {found}, expected a tensor x_0 or a pair (x_0, cond), such as (x_0, {{'y': labels}})")
    if not isinstance(cond, Mapping):
        raise TypeError(
            f"a batch is (x_0, {type(cond).__name__}), expected a dictionary of conditions, as in (x_0, {{'y': labels}}): "
            "fit(objective, ((x_0, {'y': y}) for x_0, y in loader), ...)"
        )
    check_conditions(cond, len(x_0))
    return x_0, cond


def _gradient(
    objective: Objective[P], x_0: Tensor, cond: Mapping[str, Tensor], seed: int, step: int, parts: int, device: torch.device
) -> float:
    """Compute the gradient of the mean loss per dimension of a batch, part by part, and return this loss."""
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
        with seeded(sample.seeds):  # recomputed blocks have the same dropout in the backward pass
            part_loss.backward()
        seen.append((sample, losses.detach()))
        loss += part_loss.detach()
    for sample, losses in seen:  # after the last part, so that all parts use the same density
        objective.learn(sample, losses)
    return float(loss)
