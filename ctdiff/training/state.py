"""The state of a training between two steps, and how it is saved and restored.

On a CPU, a training that was stopped and restored gives the same bits as a training without a stop. The parameters, the moving
average, the optimiser, the learning-rate schedule, the learned density of times and all global random states are restored.
Noise and data order need no state, because both are functions of the step.
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
    """The parts of a training that change from step to step.

    Arguments:
        network: the network that is trained.
        ema: its moving average.
        optimizer: the optimiser.
        scheduler: the learning-rate schedule.
        times: the sampler of training times. It has a state if it learns a density. None means that there is no such state.
    """

    network: nn.Module
    ema: MovingAverage
    optimizer: Optimizer
    scheduler: LRScheduler
    times: TimeSampler | None = None

    def save(self, folder: Path, step: int, keep: int = 2) -> Path:
        """Write a checkpoint of step `step`, keep the last `keep` checkpoints, and return its folder.

        Raises:
            FloatingPointError: weights are not finite. Nothing is written, and older checkpoints are kept.
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
        """Restore the state of one checkpoint, and return its step.

        Raises:
            CheckpointError: a file is missing or damaged, or belongs to another training, or weights are not finite.
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
            raise CheckpointError(f"{path / 'state.pt'} belongs to another training: {error}") from error

    def restore(self, folder: Path) -> tuple[int, list[CheckpointError]]:
        """Restore the newest checkpoint that can be read.

        Returns:
            Its step (0 if there is no checkpoint), and the errors of newer checkpoints.

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
