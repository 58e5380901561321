"""The folder of a model: a configuration, rounded weights, a card and a picture. It is read-only.

NAME/config.json         the configuration, as in a run
     model.safetensors   the averaged weights, rounded to bfloat16
     card.yaml           the card (`ctdiff.card`), with the hashes of the other files and the measured numbers
     grid.png            a picture of samples
     classes.json        the names of the classes, if they have names

The models of the package are the folders in `ctdiff/models`. A model is added by adding its folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ml_collections import ConfigDict
from torch import nn

from ctdiff import config as configuration
from ctdiff import hub
from ctdiff.card import Card, read_card
from ctdiff.data import Splits
from ctdiff.files import expanded
from ctdiff.hashes import bytes_hash
from ctdiff.model_source import ModelSource
from ctdiff.records import as_json
from ctdiff.run_folder import RUNS, RunError, RunFolder, check_images, class_names_of
from ctdiff.training.checkpoints import check_weights, load_weights

__all__ = [
    "CARD",
    "CLASSES",
    "CONFIG",
    "FILES",
    "GRID",
    "MODELS",
    "WEIGHTS",
    "ModelError",
    "ModelFolder",
    "is_model",
    "model_folder",
    "model_names",
    "portable",
]

MODELS = Path(__file__).resolve().parent / "models"
"""The folder of the models of the package."""

CONFIG, WEIGHTS, CARD, GRID, CLASSES = "config.json", "model.safetensors", "card.yaml", "grid.png", "classes.json"
FILES = (CONFIG, WEIGHTS, CARD, GRID, CLASSES)
"""The names of the files of a model. Other files in its folder are never read."""


class ModelError(RunError):
    """An error about a model that cannot be used. The message names its folder or file."""


@dataclass(frozen=True)
class ModelFolder(ModelSource):
    """The files of a model. Each file is compared with its hash in the card when it is read.

    Arguments:
        path: the folder of the model.
    """

    @cached_property
    def card(self) -> Card:
        """The card.

        Raises:
            ModelError: it is missing or damaged.
        """
        try:
            return read_card(self.path / CARD)
        except ValueError as error:
            raise ModelError(str(error)) from error

    @property
    def output(self) -> Path:
        """The folder for samples and reports, in the working directory.

        It is `runs/NAME`. If this is the folder of a run, it is `runs/NAME-model`, so that files of the run are not replaced.
        """
        folder = RUNS / self.card.name
        return folder.with_name(f"{folder.name}-model") if RunFolder(folder).config.exists() else folder

    def hashes(self) -> Mapping[str, str]:
        """Return the hashes in the card by name of file. A file without a hash is no part of the model, and is never read."""
        expected = {CONFIG: self.card.files.config, WEIGHTS: self.card.files.weights, CLASSES: self.card.files.classes}
        return {name: hash_ for name, hash_ in expected.items() if hash_ is not None}

    def found_hash(self, name: str) -> str | None:
        """Return the SHA-256 of a file; None if there is no such file."""
        try:
            return bytes_hash((self.path / name).read_bytes())
        except OSError:
            return None

    def read(self, name: str) -> bytes:
        """Read a file and compare it with its hash in the card.

        Raises:
            ModelError: the file is missing, or has been altered.
        """
        path, expected = self.path / name, self.hashes()[name]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error})") from error
        if (found := bytes_hash(content)) != expected:
            raise ModelError(f"{path} was altered: its SHA-256 is {found}, the card has {expected}")
        return content

    def read_config(self) -> ConfigDict:
        """Read the configuration. The images are expected in the working directory: see `portable`.

        Raises:
            ModelError: the file is missing, or has been altered.
            ConfigError: it is no configuration that can be used, or it names a class of a module that is not trusted.
        """
        return portable(configuration.from_json(self.read(CONFIG).decode("utf-8", "replace"), str(self.config)))

    def read_classes(self) -> tuple[str, ...]:
        return class_names_of(self.read(CLASSES), self.path / CLASSES) if CLASSES in self.hashes() else ()

    def check_data(self, splits: Splits) -> None:
        check_images(as_json(self.card.data.images), splits, str(self.path), self.card.data.name)

    def steps(self) -> list[int]:
        return [self.card.training.steps]

    def load(self, network: nn.Module, checkpoint: int | None = None, ema: bool = True) -> tuple[int, Path]:
        """Load the weights, as in `ModelSource.load`.

        Raises:
            ModelError: other weights are chosen than those that the model has, or the file was altered.
            CheckpointError: the file cannot be read, or belongs to another network.
        """
        (step,), path = self.steps(), self.path / WEIGHTS
        if checkpoint not in (None, step):
            raise ModelError(f"{self.path} has no checkpoint {checkpoint}, expected {step}: a model has one")
        if not ema:
            raise ModelError(f"{self.path}: ema = False, expected True: a model has only averaged weights")
        self.read(WEIGHTS)
        load_weights(network, path)
        check_weights(network, path)
        return step, path


def portable(config: ConfigDict) -> ConfigDict:
    """Return a copy of a configuration without the device and the folders of a machine.

    Of a path of images, only the last name is kept. So a model of other people cannot read or download files outside the
    working directory.
    """
    config = ConfigDict(config.to_dict())
    config.training.device = "cpu"
    for source in (value for value in config.data.values() if isinstance(value, ConfigDict) and "path" in value):
        source.path = Path(source.path).name.lstrip("~.")  # `~` is the home folder, and `..` the folder above
    return config


def model_names() -> list[str]:
    """Return the names of the models of the package."""
    return sorted(path.parent.name for path in MODELS.glob(f"*/{CARD}"))


def is_model(source: str | Path) -> bool:
    """Return whether `source` is the name of a model, has the form `hub:user/name`, or is the folder of a model.

    A `Path` is always a folder.
    """
    if isinstance(source, str) and (source in model_names() or hub.is_on_hub(source)):
        return True
    return (expanded(source) / CARD).is_file()


def model_folder(source: str | Path) -> ModelFolder:
    """Return the folder of a model. A model on the hub is downloaded.

    Arguments:
        source: the name of a model of the package, `hub:user/name`, or the path of a folder.

    Raises:
        ModelError: there is no such model.
        FolderError: it cannot be downloaded.
    """
    if isinstance(source, str) and source in model_names():
        return ModelFolder(MODELS / source)
    if hub.is_on_hub(source):
        return ModelFolder(hub.downloaded(str(source), FILES))
    if not is_model(source):
        known = f"one of {', '.join(model_names())}, or " if model_names() else ""
        raise ModelError(f"{source} is not a model, expected {known}a folder with {CARD}, or hub:user/name")
    return ModelFolder(Path(source))
