"""A run: the folder that a training leaves, and how to get its model back.

runs/<name>/config.json                 every key of the configuration
            metrics.jsonl               one JSON object a step
            checkpoints/step_XXXXXXX/   see `ctdiff.training.checkpoints`
            samples/*.png, loss.png     pictures

run = load_run("runs/mnist")
images = run.images(run.sampler(steps=100).sample(16, seeds=range(16)))
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import Tensor

from ctdiff import build
from ctdiff import config as configuration
from ctdiff.training.checkpoints import (
    CheckpointError,
    complete_checkpoints,
    load_weights,
    remove_leftovers,
    write_atomically,
)
from diffusion_core import Denoiser, Sampler

__all__ = ["Run", "RunError", "RunFolder", "load_run"]

_FREE_SECTIONS = ("sampler", "saving")
"""Sections that do not change what is trained: they may differ between a run and its resumption."""


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message names it and says what can be done."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run.

    Arguments:
        path: the run's folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """The records of every step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """The folder of pictures."""
        return self.path / "samples"

    def read_config(self) -> ConfigDict:
        """The saved configuration.

        Raises:
            RunError: this is not a run.
            ConfigError: the file is damaged.
        """
        try:
            text = self.config.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{self.path} is not a run: {self.config} cannot be read ({error})") from error
        return configuration.from_json(text, str(self.config))

    def prepare(self, config: ConfigDict, fresh: bool = False) -> None:
        """Make the folder ready for a training, before any work is done.

        Arguments:
            config: what is to be trained.
            fresh: delete what an earlier training left.

        Raises:
            RunError: the folder cannot be written, or holds a run of another configuration.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if fresh:
                self._clear()
            elif complete_checkpoints(self.checkpoints):  # without one there is nothing that could be lost
                self._compare(config)
            self.samples.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            remove_leftovers(self.checkpoints)
            write_atomically(self.config, configuration.to_json(config).encode())
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error}") from error

    def _compare(self, config: ConfigDict) -> None:
        changed = configuration.differences(self.read_config(), config, ignore=(*_FREE_SECTIONS, "training.device"))
        if changed:
            listed = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())
            raise RunError(
                f"{self.path} holds a run of another configuration: {listed}. "
                "Give another --workdir, or --fresh to delete that run and train anew"
            )

    def _clear(self) -> None:
        self.config.unlink(missing_ok=True)  # first: what is left without it is no run
        self.metrics.unlink(missing_ok=True)
        (self.path / "loss.png").unlink(missing_ok=True)
        for folder in (self.checkpoints, self.samples):
            if folder.exists():
                shutil.rmtree(folder)


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
    denoiser: Denoiser

    def sampler(self, steps: int | None = None, name: str | None = None) -> Sampler:
        """The configuration's sampler, or another one by name, with another number of steps."""
        return build.build_sampler(self.config, self.denoiser, name, steps)

    def images(self, x: Tensor) -> Tensor:
        """What a sampler returns, as integers: pixels 0 .. S-1 (S where masked), int64 (N, C, H, W)."""
        return build.build_pixels(self.config).decode(x)


def load_run(path: str | Path, checkpoint: int | None = None, ema: bool = True, device: str = "cpu") -> Run:
    """Load the model of a run.

    Arguments:
        path: the run's folder.
        checkpoint: the step of a checkpoint that is there; None loads the newest that can be read.
        ema: the moving average of the weights instead of the last ones.
        device: where the model goes.

    Raises:
        RunError: this is not a run, or it has no such checkpoint.
        CheckpointError: the checkpoint, or every one of them, is broken.

    Warns:
        UserWarning: a newer checkpoint is broken.
    """
    folder = RunFolder(Path(path))
    config = folder.read_config()
    config.training.device = device
    network = build.build_network(config)
    step = _load_newest(folder, network, "ema" if ema else "model", checkpoint)
    denoiser = build.build_denoiser(config, build.build_process(config), network)
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
                for broken in errors:
                    warnings.warn(f"{broken}; step {step} is loaded instead", stacklevel=3)
                return step
    raise CheckpointError("; ".join(map(str, errors)))
