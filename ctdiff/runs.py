"""A run is the folder of a training. `load_run` loads its model.

runs/<name>/config.json                 every key of the configuration
            classes.json                the names of the labels 0, 1, ..., if the data have names
            data.json                   the number, the shape and the hash of the images
            metrics.jsonl               one JSON object per step
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
from ctdiff.devices import check_device
from ctdiff.run_folder import RunError, RunFolder
from ctdiff.training.checkpoints import (
    CheckpointError,
    check_weights,
    complete_checkpoints,
    load_weights,
)
from diffusion_core import Denoiser, NotFiniteError, Sampler

__all__ = ["RUNS", "Run", "RunError", "RunFolder", "load_run"]

RUNS = Path("runs")
"""The default folder of the runs, in the working directory."""


@dataclass(frozen=True)
class Run:
    """The model of a run, loaded from a checkpoint.

    Arguments:
        path: the folder of the run.
        config: the configuration of the run.
        step: the number of training steps that the weights have had.
        denoiser: the denoiser, in evaluation mode.
    """

    path: Path
    config: ConfigDict
    step: int
    denoiser: Denoiser[object]

    @property
    def checkpoint(self) -> Path:
        """The folder of the checkpoint with the weights."""
        return RunFolder(self.path).checkpoints / f"step_{self.step:07d}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the labels 0, 1, ...; empty if the data had no names.

        Raises:
            RunError: the file of the names is damaged.
        """
        return RunFolder(self.path).read_classes()

    @contextmanager
    def named(self) -> Iterator[None]:
        """Make a context that adds the name of the checkpoint to the message of a `NotFiniteError`.

        Raises:
            NotFiniteError: the output of the network is not finite.
        """
        try:
            yield
        except NotFiniteError as error:
            raise NotFiniteError(f"{self.checkpoint}: {error}") from error

    def sampler(self, steps: int | None = None, name: str | None = None) -> Sampler[object]:
        """Make the sampler of the configuration.

        Arguments:
            steps: the number of reverse steps. None means the number in the configuration.
            name: the name of another sampler, such as "ddim". None means the sampler of the configuration.
        """
        config = self.config if name is None else configuration.changed(self.config, {"sampler.name": name})
        return recipe.build_sampler(config, self.denoiser, steps)

    def images(self, x: Tensor) -> Tensor:
        """Convert samples x_0 to pixels 0 .. S - 1, int64 (N, C, H, W). A pixel that is still masked is S."""
        return recipe.build_pixels(self.config).decode(x)

    def encode(self, images: Tensor) -> Tensor:
        """Convert pixels 0 .. S - 1 (N, C, H, W) to clean data x_0 of the process: the inverse of `images`."""
        return recipe.build_pixels(self.config).encode(images.long().to(self.config.training.device))


def load_run(path: str | Path, checkpoint: int | None = None, ema: bool = True, device: str = "cpu") -> Run:
    """Load the model of a run.

    Arguments:
        path: the folder of the run.
        checkpoint: the training step of a checkpoint. None means the newest checkpoint that can be read.
        ema: whether to load the moving average of the weights instead of the last weights.
        device: the device of the model.

    Raises:
        RunError: the folder is not a run, or the checkpoint does not exist.
        CheckpointError: the given checkpoint is damaged, or all checkpoints are damaged, or the weights are not finite.
        ConfigError: this machine does not have the device, or the configuration of the run is damaged.

    Warns:
        UserWarning: a newer checkpoint is damaged, so an older one is loaded.
    """
    check_device(device, "device")
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
    if not found:
        raise RunError(f"{folder.path} has no checkpoint yet")
    if wanted is not None and wanted not in steps:
        raise RunError(f"{folder.path} has no checkpoint {wanted}, expected one of {steps}")
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
