"""The folder of a run: its files, who may write there, and what a training may continue."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from ctdiff import config as configuration
from ctdiff.data import Splits, data_record
from ctdiff.training.checkpoints import (
    complete_checkpoints,
    discard,
    remove_leftovers,
    write_atomically,
)

if sys.platform != "win32":
    import fcntl

__all__ = ["RunError", "RunFolder", "locked"]

_PICTURE = re.compile(r"(step_\d{7,}|final|process|[a-z]\w*_\d+(_.*)?)\.(png|npz|gif)")
"""The names that training and sampling give to files in `samples`: nothing else there is deleted."""


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message names it and says what can be done."""


@contextmanager
def locked(path: Path, work: str, flag: str) -> Iterator[None]:
    """Make a folder, and keep others who ask for it out while this context lasts.

    The lock is the system's, on the folder itself: it leaves no file, and ends with the process however that ends.

    Arguments:
        path: the folder.
        work: what is done there, for the message.
        flag: what chooses another folder, for the message.

    Raises:
        RunError: the folder cannot be made, or somebody is in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = None if sys.platform == "win32" else os.open(path, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from error
    if descriptor is None or sys.platform == "win32":
        yield  # no such lock
        return
    try:
        with suppress(OSError):  # a file system without locks, such as some networks', goes without
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(f"another {work} is at work in {path}: wait for it, or give another {flag}") from error
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run.

    Arguments:
        path: the run's folder.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path.expanduser())

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.path / "config.json"

    @property
    def classes(self) -> Path:
        """The names of the classes."""
        return self.path / "classes.json"

    @property
    def data(self) -> Path:
        """Which images the run is trained on: a record of their number, their shape and a hash."""
        return self.path / "data.json"

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

    def read_classes(self) -> tuple[str, ...]:
        """The names of the labels 0, 1, ...; empty where the run has none.

        Raises:
            RunError: the file is damaged.
        """
        if not self.classes.exists():
            return ()
        try:
            names = json.loads(self.classes.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.classes} cannot be read ({error})") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RunError(f"{self.classes} is damaged: expected a list of names")
        return tuple(names)

    def saved_config(self) -> ConfigDict | None:
        """The configuration of the run in the folder; None where nothing is that a run would touch.

        Raises:
            RunError: the folder holds files of a run's names that are not of a run.
        """
        taken = [path.name for path in (self.config, self.metrics, self.checkpoints, self.samples) if path.exists()]
        if not taken:
            return None
        try:
            return self.read_config()
        except (RunError, configuration.ConfigError) as error:
            raise RunError(
                f"{self.path} holds {', '.join(taken)}, but no run of ctdiff ({error}); nothing was touched. "
                "Give another --workdir, or move those away"
            ) from error

    def begun(self) -> ConfigDict | None:
        """The configuration of the run that a training would continue; None where there is no checkpoint to continue from.

        Raises:
            RunError: the folder holds files of a run's names that are not of a run.
        """
        saved = self.saved_config()
        return saved if complete_checkpoints(self.checkpoints) else None

    def locked(self) -> AbstractContextManager[None]:
        """Make the folder, and keep other trainings out of it while the context lasts: see `locked`."""
        return locked(self.path, "training", "--workdir")

    def inspect(self, config: ConfigDict, fresh: bool = False) -> None:
        """Refuse a folder that a training of `config` must not touch; nothing is changed.

        A run may become longer if its learning rate is constant: nothing that was done depends on where it would end.

        Arguments:
            config: what is to be trained.
            fresh: whether an earlier training will be deleted.

        Raises:
            RunError: the folder holds a run of another configuration, or something that is no run.
        """
        begun = self.begun()  # without a checkpoint there is nothing that could be lost
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
            longer = " (a run can be made longer if its optimizer.schedule.name is constant)" if fixed else ""
            raise RunError(
                f"{self.path} holds a run of another configuration: {listed}{longer}. "
                "Give another --workdir, or --fresh to delete that run and train anew"
            )

    def check_data(self, splits: Splits) -> None:
        """Refuse images other than those that the run is trained on. A run without a record of them is not checked.

        Raises:
            RunError: they differ, or the record is damaged.
        """
        if not self.data.exists():
            return
        try:
            recorded = json.loads(self.data.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{self.data} is damaged ({error}): delete it, and the images are taken as they are") from error
        found = data_record(splits)
        for key in ("shape", "num_values", "train", "held_out"):
            if recorded.get(key) != found[key]:
                raise RunError(
                    f"{self.path} was trained on other images: {key} was {recorded.get(key)}, is now {found[key]}. "
                    f"If the right ones lie elsewhere, give --config.data.{self.read_config().data.name}.path=..."
                )

    def prepare(self, config: ConfigDict, splits: Splits | None = None, fresh: bool = False) -> None:
        """Make the folder ready for a training, before any work is done.

        Arguments:
            config: what is to be trained.
            splits: on which images; None leaves the record of them as it is.
            fresh: delete what an earlier training left.

        Raises:
            RunError: the folder cannot be written, or must not be (see `inspect`); or the run was begun with other classes.
        """
        self.inspect(config, fresh)
        goes_on = not fresh and self.begun() is not None
        if goes_on and splits is not None:
            self._check_classes(splits.class_names)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if fresh:
                self._clear()
            remove_leftovers(self.path)
            write_atomically(self.config, configuration.to_json(config).encode())  # first: it tells a run from other folders
            if splits is not None and not (goes_on and self.data.exists()):  # else it was checked before
                write_atomically(self.data, json.dumps(data_record(splits), indent=2).encode())
            if splits is not None:
                self._write_classes(splits.class_names)
            self.samples.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            remove_leftovers(self.checkpoints)
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error}") from error

    def _check_classes(self, class_names: Sequence[str]) -> None:
        """Refuse to go on with labels that mean something else now."""
        begun = self.read_classes()
        if begun and begun != tuple(class_names):
            gone, new = sorted({*begun} - {*class_names}), sorted({*class_names} - {*begun})
            raise RunError(
                f"{self.path} was begun with other classes: {len(begun)} then and {len(class_names)} now, "
                f"gone: {', '.join(gone) or 'none'}, new: {', '.join(new) or 'none'}. Give another --workdir, or --fresh"
            )

    def _write_classes(self, names: Sequence[str]) -> None:
        if names:
            write_atomically(self.classes, (json.dumps(list(names), ensure_ascii=False, indent=1) + "\n").encode())
        else:
            self.classes.unlink(missing_ok=True)

    def _clear(self) -> None:
        """Delete what trainings wrote and nothing else; the configuration stays until it is replaced."""
        for _, path in complete_checkpoints(self.checkpoints):  # oldest first: until the last one this is a run
            discard(path)
        self.metrics.unlink(missing_ok=True)
        self.data.unlink(missing_ok=True)
        (self.path / "loss.png").unlink(missing_ok=True)
        for path in self.samples.glob("*"):
            if _PICTURE.fullmatch(path.name):
                path.unlink()
        remove_leftovers(self.samples)
