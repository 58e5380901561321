"""What a training is made of between two steps, and how it is put down and taken up again.

On a CPU a training that was stopped and restored continues bit for bit: parameters, average,
optimiser, schedule, what the density of times has learned and every global random state come back
as they were. Noise and data order need no state, since both are functions of the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ctdiff.training.checkpoints import (
    CheckpointError,
    check_weights,
    complete_checkpoints,
    load_weights,
    not_finite,
    read_state,
    write_checkpoint,
)
from ctdiff.training.ema import MovingAverage
from ctdiff.training.fit import DIVERGED
from ctdiff.training.generators import generator_states, restore_generators
from diffusion_core import TimeSampler

__all__ = ["TrainingState"]


@dataclass(frozen=True)
class TrainingState:
    """The moving parts of a training.

    Arguments:
        network: what is trained.
        ema: its moving average.
        optimizer: what moves the parameters.
        scheduler: what moves the learning rate.
        times: the density of training times, which may learn; None where there is nothing to keep of it.
    """

    network: nn.Module
    ema: MovingAverage
    optimizer: Optimizer
    scheduler: LRScheduler
    times: TimeSampler | None = None

    def save(self, folder: Path, step: int, keep: int = 2) -> Path:
        """Write a checkpoint of step `step`, keeping the last `keep`; returns its folder.

        Raises:
            FloatingPointError: weights are not finite. Nothing is written, and older checkpoints stay.
        """
        for network, what in ((self.network, "the weights"), (self.ema.module, "the averaged weights")):
            if (which := not_finite(network)) is not None:
                raise FloatingPointError(f"{what} after step {step} are not finite ({which}): {DIVERGED}")
        weights = {"model": self.network.state_dict(), "ema": self.ema.module.state_dict()}
        state = {
            "ema_updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "times": {} if self.times is None else self.times.state_dict(),
            "random": generator_states(),
        }
        return write_checkpoint(folder, step, weights, state, keep)

    def load(self, path: Path) -> int:
        """Take up one checkpoint; returns its step.

        Raises:
            CheckpointError: a file is missing, broken, or of another training, or weights are not finite.
        """
        state = read_state(path / "state.pt")
        for network, name in ((self.network, "model"), (self.ema.module, "ema")):
            load_weights(network, path / f"{name}.safetensors")
            check_weights(network, path / f"{name}.safetensors")
        try:
            self.ema.n_averaged.fill_(state["ema_updates"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            if self.times is not None:
                self.times.load_state_dict(state["times"])
            restore_generators(state["random"])
            return int(state["step"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path / 'state.pt'} is of another training: {error}") from error

    def restore(self, folder: Path) -> tuple[int, list[CheckpointError]]:
        """Take up the newest checkpoint that can be read.

        Returns:
            Its step (0 where there is no checkpoint), and what was wrong with the newer ones.

        Raises:
            CheckpointError: there are checkpoints and none can be read.
        """
        broken: list[CheckpointError] = []
        for _, path in reversed(complete_checkpoints(folder)):
            try:
                return self.load(path), broken
            except CheckpointError as error:
                broken.append(error)
        if broken:
            raise CheckpointError("no checkpoint can be read: " + "; ".join(map(str, broken)))
        return 0, []
