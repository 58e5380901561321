"""The interface of folders from which a model is loaded: runs, and models with cards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict
from torch import nn

from ctdiff.data import Splits
from ctdiff.files import expanded

__all__ = ["ModelSource"]


@dataclass(frozen=True)
class ModelSource(ABC):
    """A folder with a configuration and weights.

    Arguments:
        path: the folder.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", expanded(self.path))

    @property
    def config(self) -> Path:
        """The file of the configuration."""
        return self.path / "config.json"

    @property
    @abstractmethod
    def output(self) -> Path:
        """The folder for samples and reports."""

    @abstractmethod
    def read_config(self) -> ConfigDict:
        """Read the configuration.

        Raises:
            RunError: the file cannot be read or used.
            ConfigError: its content is damaged.
        """

    @abstractmethod
    def read_classes(self) -> tuple[str, ...]:
        """Read the names of the labels 0, 1, ...; empty if the data had no names.

        Raises:
            RunError: the file of the names is damaged.
        """

    @abstractmethod
    def check_data(self, splits: Splits) -> None:
        """Check that images are those of the training.

        Raises:
            RunError: the images differ.
        """

    @abstractmethod
    def steps(self) -> list[int]:
        """Return the training steps of the weights that can be loaded, in ascending order."""

    @abstractmethod
    def load(self, network: nn.Module, checkpoint: int | None = None, ema: bool = True) -> tuple[int, Path]:
        """Load weights into a network. Return their training step and their file.

        Arguments:
            network: the network of the configuration.
            checkpoint: the training step of the weights. None means the newest weights that can be read.
            ema: whether to load the moving average of the weights instead of the last weights.

        Raises:
            RunError: there are no such weights.
            CheckpointError: the weights are damaged or not finite.
        """
