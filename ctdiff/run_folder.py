"""The folder of a run: its files, and the checks before a training writes to it."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from torch import nn

from ctdiff import config as configuration
from ctdiff.data import Splits, data_record
from ctdiff.files import FolderError, discard, locked, remove_leftovers, write_atomically
from ctdiff.model_source import ModelSource
from ctdiff.recipe.user_classes import user_modules
from ctdiff.sample_folders import clear_images
from ctdiff.training.checkpoints import CheckpointError, check_weights, complete_checkpoints, load_weights

__all__ = ["RUNS", "RunError", "RunFolder", "check_images", "class_names_of"]

RUNS = Path("runs")
"""The default folder of the runs, in the working directory."""

_PICTURE = re.compile(r"(step_\d{7,}|final|process|[a-z]\w*_\d+(_.*)?)\.(png|npz|gif)")
"""The names of the files that training and sampling write to `samples`. Other files there are never deleted."""


class RunError(FolderError):
    """An error about a run that cannot be used. The message names its folder and a way to solve the problem."""


@dataclass(frozen=True)
class RunFolder(ModelSource):
    """The paths of a run.

    Arguments:
        path: the folder of the run.
    """

    @property
    def output(self) -> Path:
        """The folder for samples and reports: the folder of the run itself."""
        return self.path

    @property
    def classes(self) -> Path:
        """The file of the names of the classes."""
        return self.path / "classes.json"

    @property
    def data(self) -> Path:
        """The file with the number, the shape and the hash of the training and test images."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """The file with a record of every training step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """The folder of the pictures of samples."""
        return self.path / "samples"

    def read_config(self) -> ConfigDict:
        """Read the saved configuration.

        Raises:
            RunError: the folder is not a run, because its configuration cannot be read.
            ConfigError: the file is damaged.
        """
        try:
            text = self.config.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{self.path} is not a run: {self.config} cannot be read ({error})") from error
        return configuration.from_json(text, str(self.config))

    def read_classes(self) -> tuple[str, ...]:
        if not self.classes.exists():
            return ()
        try:
            content = self.classes.read_bytes()
        except OSError as error:
            raise RunError(f"{self.classes} cannot be read ({error})") from error
        return class_names_of(content, self.classes)

    def steps(self) -> list[int]:
        return [step for step, _ in complete_checkpoints(self.checkpoints)]

    def load(self, network: nn.Module, checkpoint: int | None = None, ema: bool = True) -> tuple[int, Path]:
        """Load the weights of a checkpoint, as in `ModelSource.load`.

        Raises:
            RunError: the checkpoint does not exist.
            CheckpointError: the given checkpoint is damaged, or all checkpoints are damaged, or the weights are not finite.

        Warns:
            UserWarning: a newer checkpoint is damaged, so an older one is loaded.
        """
        found = complete_checkpoints(self.checkpoints)
        if not found:
            raise RunError(f"{self.path} has no checkpoint yet")
        if checkpoint is not None and checkpoint not in self.steps():
            raise RunError(f"{self.path} has no checkpoint {checkpoint}, expected one of {self.steps()}")
        errors: list[CheckpointError] = []
        for step, folder in reversed(found):
            if checkpoint in (None, step):
                weights = folder / f"{'ema' if ema else 'model'}.safetensors"
                try:
                    load_weights(network, weights)
                except CheckpointError as error:
                    errors.append(error)
                else:
                    check_weights(network, weights)
                    for broken in errors:
                        warnings.warn(f"{broken}; step {step} is loaded instead", stacklevel=4)
                    return step, weights
        raise CheckpointError("; ".join(map(str, errors)))

    def saved_config(self) -> ConfigDict | None:
        """Read the configuration of the run in the folder. None if the folder has none of the files that a run writes.

        Raises:
            RunError: the folder has some of these files, but no configuration that can be read.
        """
        taken = [path.name for path in (self.config, self.metrics, self.checkpoints, self.samples) if path.exists()]
        if not taken:
            return None
        try:
            return self.read_config()
        except (RunError, configuration.ConfigError) as error:
            raise RunError(
                f"{self.path} has {', '.join(taken)}, but no configuration of a run that can be used. Nothing was changed. "
                f"Give another --workdir, or solve the problem: {error}"
            ) from error

    def begun(self) -> ConfigDict | None:
        """Read the configuration of the run that a training would continue. None if there is no checkpoint.

        Raises:
            RunError: the folder has some of the files of a run, but no configuration that can be read.
        """
        saved = self.saved_config()
        return saved if complete_checkpoints(self.checkpoints) else None

    def resume_command(self, config: ConfigDict) -> str:
        """Return the command that continues the run of a configuration, with quotes where a shell needs them."""
        modules = user_modules(config.to_dict())
        trust = [f"--trust={','.join(modules)}"] if modules else []
        return shlex.join(["ctdiff", "train", f"--workdir={self.path}", "--resume", *trust])

    def locked(self) -> AbstractContextManager[None]:
        """Make the folder and lock it against other trainings until the end of the `with` block (`ctdiff.files.locked`)."""
        return locked(self.path, "training", "--workdir")

    def inspect(self, config: ConfigDict, fresh: bool = False) -> None:
        """Check that a training of `config` may write to the folder. No file is changed.

        More training steps can be added to a run if its learning rate is constant. With another schedule, every step depends
        on the total number of steps.

        Arguments:
            config: the configuration of the training.
            fresh: whether an earlier run will be deleted.

        Raises:
            RunError: the folder has a run with another configuration, or it has files of a run but no configuration that can
                be read.
        """
        begun = self.begun()  # without a checkpoint there is nothing to lose
        if begun is None or fresh:
            return
        ignored = [*configuration.FREE_SECTIONS]
        constant = begun.optimizer.schedule.name == "constant"
        if constant and config.training.steps > begun.training.steps:
            ignored.append("training.steps")
        changed = configuration.differences(begun, config, ignored)
        if changed:
            listed = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())
            fixed = "training.steps" in changed and not constant
            longer = " (steps can be added to a run if its optimizer.schedule.name is constant)" if fixed else ""
            raise RunError(
                f"{self.path} has a run with another configuration: {listed}{longer}. "
                "Give another --workdir, or --fresh to delete this run and train again"
            )

    def check_data(self, splits: Splits) -> None:
        """Check that images are those that the run was trained on. Without a record of them, nothing is checked.

        Raises:
            RunError: the images differ, or the record is damaged.
        """
        if not self.data.exists():
            return
        try:
            recorded = json.loads(self.data.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{self.data} is damaged ({error}): delete it to use the images without this check") from error
        check_images(recorded, splits, str(self.path), self.read_config().data.name)

    def prepare(self, config: ConfigDict, splits: Splits | None = None, fresh: bool = False) -> None:
        """Prepare the folder for a training.

        Arguments:
            config: the configuration of the training.
            splits: the images. None means that the record of the images does not change.
            fresh: whether to delete an earlier run.

        Raises:
            RunError: the folder cannot be written, `inspect` raises an error for this configuration, or the run in the folder
                was trained with other classes than those of `splits`.
        """
        self.inspect(config, fresh)
        goes_on = not fresh and self.begun() is not None
        if goes_on and splits is not None:
            self._check_classes(splits.class_names)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if fresh:
                self._clear()
            write_atomically(self.config, configuration.to_json(config).encode())  # first: this file makes the folder a run
            if splits is not None and not (goes_on and self.data.exists()):  # otherwise `check_data` has compared it
                write_atomically(self.data, json.dumps(data_record(splits), indent=2).encode())
            if splits is not None:
                self._write_classes(splits.class_names)
            self.samples.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            for folder in (self.path, self.samples, self.checkpoints):
                remove_leftovers(folder)
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error}") from error

    def _check_classes(self, class_names: Sequence[str]) -> None:
        """Check that the classes of the run have not changed."""
        begun = self.read_classes()
        if begun and begun != tuple(class_names):
            gone, new = sorted({*begun} - {*class_names}), sorted({*class_names} - {*begun})
            raise RunError(
                f"{self.path} was trained with other classes: {len(begun)} before and {len(class_names)} now, "
                f"missing: {', '.join(gone) or 'none'}, new: {', '.join(new) or 'none'}. Give another --workdir, or --fresh"
            )

    def _write_classes(self, names: Sequence[str]) -> None:
        if names:
            write_atomically(self.classes, (json.dumps(list(names), ensure_ascii=False, indent=1) + "\n").encode())
        else:
            self.classes.unlink(missing_ok=True)

    def _clear(self) -> None:
        """Delete the files of trainings and samples and no others. The configuration stays until it is replaced.

        The checkpoints are deleted last. So if another file cannot be deleted, the run can still be continued.
        """
        for path in self.samples.glob("*"):
            if path.is_dir():
                clear_images(path)
            elif _PICTURE.fullmatch(path.name):
                path.unlink()
        remove_leftovers(self.samples)
        for path in (self.path / "loss.png", self.metrics, self.data):
            path.unlink(missing_ok=True)
        for _, path in complete_checkpoints(self.checkpoints):  # oldest first, so that the newest checkpoint is deleted last
            discard(path)


def check_images(recorded: Mapping[str, Any], splits: Splits, trained: str, source: str) -> None:
    """Check that images have the record of the images of a training.

    Arguments:
        recorded: the record, the content of `data_record`.
        splits: the images.
        trained: the run or the model, for the message.
        source: the name of the source of the images, for the message.

    Raises:
        RunError: the images differ.
    """
    found = data_record(splits)
    for key in ("shape", "num_values", "train", "held_out"):
        if recorded.get(key) != found[key]:
            raise RunError(
                f"{trained} was trained on other images: {key} was {recorded.get(key)}, is now {found[key]}. "
                f"If the images of the training are in another place, give --config.data.{source}.path=..."
            )


def class_names_of(content: bytes, path: Path) -> tuple[str, ...]:
    """Return the names of the labels 0, 1, ... in the content of a file `classes.json`.

    Raises:
        RunError: the content is damaged.
    """
    try:
        names = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RunError(f"{path} is damaged: expected a list of names")
    return tuple(names)
