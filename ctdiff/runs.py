"""A run is the folder of a training. `load_run` loads its model. `pretrained` loads a model that is published with a card.

runs/<name>/config.json                 every key of the configuration
            classes.json                the names of the labels 0, 1, ..., if the data have names
            data.json                   the number, the shape and the hash of the images
            metrics.jsonl               one JSON object per step
            checkpoints/step_XXXXXXX/   see `ctdiff.training.checkpoints`
            samples/*.png, loss.png     pictures

run = load_run("runs/mnist")   # or pretrained("mnist-gaussian"); `ctdiff models` lists the names
images = run.images(run.sampler(steps=100).sample(16, seeds=range(16)))
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict
from torch import Tensor

from ctdiff import config as configuration
from ctdiff import recipe
from ctdiff.devices import check_device
from ctdiff.model_folder import is_model, model_folder, model_names
from ctdiff.model_source import ModelSource
from ctdiff.run_folder import RUNS, RunError, RunFolder
from diffusion_core import Denoiser, NotFiniteError, Sampler

__all__ = ["RUNS", "Run", "RunError", "RunFolder", "folder_of", "load_run", "pretrained"]


@dataclass(frozen=True)
class Run:
    """The model of a run, with its loaded weights.

    Arguments:
        folder: the folder of the run, or of a model with a card.
        config: the configuration of the run.
        step: the number of training steps that the weights have had.
        denoiser: the denoiser, in evaluation mode.
        weights: the file of the weights.
    """

    folder: ModelSource
    config: ConfigDict
    step: int
    denoiser: Denoiser[object]
    weights: Path

    @property
    def path(self) -> Path:
        """The folder for samples and reports. A model is read-only: it has a folder in `runs`, in the working directory."""
        return self.folder.output

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the labels 0, 1, ...; empty if the data had no names.

        Raises:
            RunError: the file of the names is damaged.
        """
        return self.folder.read_classes()

    @contextmanager
    def named(self) -> Iterator[None]:
        """Make a context that adds the file of the weights to the message of a `NotFiniteError`.

        Raises:
            NotFiniteError: the output of the network is not finite.
        """
        try:
            yield
        except NotFiniteError as error:
            raise NotFiniteError(f"{self.weights}: {error}") from error

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
    """Load the model of a run, or a model that has a card.

    Arguments:
        path: the folder of the run, or a model as for `pretrained`. The name of a model has priority. Write `./NAME` for the
            folder of a run with the name of a model.
        checkpoint: the training step of a checkpoint. None means the newest checkpoint that can be read.
        ema: whether to load the moving average of the weights instead of the last weights.
        device: the device of the model.

    Raises:
        RunError: the folder is neither a run nor a model, or the checkpoint does not exist.
        CheckpointError: the given checkpoint is damaged, or all checkpoints are damaged, or the weights are not finite.
        ConfigError: this machine does not have the device, or the configuration of the run is damaged.

    Warns:
        UserWarning: a newer checkpoint is damaged, so an older one is loaded.
    """
    return _loaded(folder_of(path), checkpoint, ema, device)


def pretrained(name: str | Path, device: str = "cpu") -> Run:
    """Load a model that has a card. Its samples and reports are written to `runs/NAME` in the working directory.

    The files are compared with the hashes in the card. A class `module:Class` in the configuration is imported only if
    `ctdiff.recipe.trust` was called for its module.

    Arguments:
        name: the name of a model of the package (`ctdiff models` lists them), the path of the folder of a model, or
            `hub:user/name`, a model on the Hugging Face Hub.
        device: the device of the model.

    Raises:
        ModelError: there is no such model, or a file is missing or was altered.
        FolderError: the model cannot be downloaded.
        CheckpointError: the weights cannot be read, or belong to another network.
        ConfigError: this machine does not have the device, or the configuration cannot be used.
    """
    return _loaded(model_folder(name), None, True, device)


def folder_of(path: str | Path) -> ModelSource:
    """Return the folder of a run or of a model.

    Raises:
        RunError: there is no such run or model. The message has similar names.
        FolderError: a model cannot be downloaded.
    """
    if is_model(path):
        return model_folder(path)
    folder = RunFolder(Path(path))
    if not folder.path.exists():
        known = {name: name for name in model_names()}
        known |= {each.name: str(each) for each in RUNS.glob("*") if each.is_dir()}
        close = [known[name] for name in difflib.get_close_matches(folder.path.name, known, n=3)]
        guess = f". Did you mean {' or '.join(close)}?" if close else ""
        raise RunError(f"{path} is not a run and not a model, expected the folder of a run or a name of `ctdiff models`{guess}")
    return folder


def _loaded(folder: ModelSource, checkpoint: int | None, ema: bool, device: str) -> Run:
    check_device(device, "device")
    config = folder.read_config()
    config.training.device = device
    network = recipe.build_network(config)
    step, weights = folder.load(network, checkpoint, ema)
    denoiser = recipe.build_denoiser(config, recipe.build_process(config), network)
    return Run(folder, config, step, denoiser.eval().requires_grad_(False), weights)
