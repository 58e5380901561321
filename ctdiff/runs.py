"""A run: the folder that a training leaves, and how to get its model back.

runs/<name>/config.json                 every key of the configuration
            classes.json                the names of the labels 0, 1, ..., where the data have names
            data.json                   which images: how many, their shape, a hash
            metrics.jsonl               one JSON object a step
            checkpoints/step_XXXXXXX/   see `ctdiff.training.checkpoints`
            samples/*.png, loss.png     pictures

run = load_run("runs/mnist")
images = run.images(run.sampler(steps=100).sample(16, seeds=range(16)))
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import Tensor

from ctdiff import config as configuration
from ctdiff import recipe
from ctdiff.run_folder import RunError, RunFolder, locked
from ctdiff.training.checkpoints import (
    CheckpointError,
    check_weights,
    complete_checkpoints,
    load_weights,
)
from diffusion_core import Denoiser, NotFiniteError, Sampler

__all__ = ["Run", "RunError", "RunFolder", "load_run", "locked"]


@dataclass(frozen=True)
class Run:
    """A trained model.

    Arguments:
        path: the run's folder.
        config: its configuration.
        step: how many training steps the weights have seen.
        denoiser: the denoiser, in evaluation mode.
    """

    path: Path
    config: ConfigDict
    step: int
    denoiser: Denoiser[object]

    @property
    def checkpoint(self) -> Path:
        """The folder that the weights were read from."""
        return RunFolder(self.path).checkpoints / f"step_{self.step:07d}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the labels 0, 1, ...; empty where the data had none.

        Raises:
            RunError: the file that holds them is damaged.
        """
        return RunFolder(self.path).read_classes()

    @contextmanager
    def named(self) -> Iterator[None]:
        """While this context lasts, say which checkpoint a network is of whose output is not finite.

        Raises:
            NotFiniteError: the same, with the checkpoint's name.
        """
        try:
            yield
        except NotFiniteError as error:
            raise NotFiniteError(f"{self.checkpoint}: {error}") from error

    def sampler(self, steps: int | None = None, name: str | None = None) -> Sampler[object]:
        """The configuration's sampler, or one with another number of steps, or another one by name."""
        config = self.config if name is None else configuration.changed(self.config, {"sampler.name": name})
        return recipe.build_sampler(config, self.denoiser, steps)

    def images(self, x: Tensor) -> Tensor:
        """What a sampler returns, as integers: pixels 0 .. S-1 (S where masked), int64 (N, C, H, W)."""
        images: Tensor = recipe.build_pixels(self.config).decode(x)
        return images

    def encode(self, images: Tensor) -> Tensor:
        """Integers 0 .. S-1 (N, C, H, W) as the clean data x_0 of this run's process: the inverse of `images`."""
        x_0: Tensor = recipe.build_pixels(self.config).encode(images.long().to(self.config.training.device))
        return x_0


def load_run(path: str | Path, checkpoint: int | None = None, ema: bool = True, device: str = "cpu") -> Run:
    """Load the model of a run.

    Arguments:
        path: the run's folder.
        checkpoint: the step of a checkpoint that is there; None loads the newest that can be read.
        ema: the moving average of the weights instead of the last ones.
        device: where the model goes.

    Raises:
        RunError: this is not a run, or it has no such checkpoint.
        CheckpointError: the checkpoint, or every one of them, is broken, or its weights are not finite.
        ConfigError: this machine has no such device, or the run's configuration is damaged.

    Warns:
        UserWarning: a newer checkpoint is broken.
    """
    configuration.check_device(device, "device")
    folder = RunFolder(Path(path))
    config = folder.read_config()
    config.training.device = device
    network = recipe.build_network(config)
    step = _load_newest(folder, network, "ema" if ema else "model", checkpoint)
    denoiser = recipe.build_denoiser(config, recipe.build_process(config), network)
    return Run(folder.path, config, step, denoiser.eval().requires_grad_(False))


def _load_newest(folder: RunFolder, network: torch.nn.Module, name: str, wanted: int | None) -> int:
    found = complete_checkpoints(folder.checkpoints)
    steps = [step for step, _ in found]
    if wanted is not None and wanted not in steps:
        raise RunError(f"{folder.path} has no checkpoint {wanted}; there are {steps or 'none'}")
    if not found:
        raise RunError(f"{folder.path} has no checkpoint yet")
    errors: list[CheckpointError] = []
    for step, path in reversed(found):
        if wanted in (None, step):
            try:
                load_weights(network, path / f"{name}.safetensors")
            except CheckpointError as error:
                errors.append(error)
            else:
                check_weights(network, path / f"{name}.safetensors")
                for broken in errors:
                    warnings.warn(f"{broken}; step {step} is loaded instead", stacklevel=3)
                return step
    raise CheckpointError("; ".join(map(str, errors)))
