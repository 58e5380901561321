"""Trains a configuration and draws pictures: the function behind `ctdiff train`.

    train(load("mnist"), "runs/mnist")

After every step of `fit`, the metrics are written. At regular steps the test loss is measured, samples are drawn and a
checkpoint is saved. In a folder with an unfinished run, the training continues. In a folder with a finished run, only the
pictures are drawn again.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from ctdiff import config as configuration
from ctdiff import figures, recipe
from ctdiff.completion import Completion, of_images
from ctdiff.data import Batches, ImageData, Splits
from ctdiff.runs import RunError, RunFolder
from ctdiff.sampling import chain_conditions, draw_frames
from ctdiff.training.checkpoints import complete_checkpoints
from ctdiff.training.ema import MovingAverage
from ctdiff.training.fit import DIVERGED, TrainStep, fit
from ctdiff.training.generators import kept_generators, seed_generators
from ctdiff.training.interrupts import StopRequest
from ctdiff.training.metrics import MetricsFile
from ctdiff.training.precision import resolved_precision
from ctdiff.training.state import TrainingState
from diffusion_core import Denoiser, NotFiniteError, Objective, PerSampleRandomness, Sampler, StratifiedTimes, stream_seed

__all__ = ["Outcome", "train", "validation_loss"]

# A random stream that differs from those of training, which are keyed by (seed, step, sample).
_VALIDATION = 0x76616C6964


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Arguments:
        step: the number of finished steps.
        stopped_by: the signal that stopped the training, or None.
        skipped: the number of steps without a finite gradient.
    """

    step: int
    stopped_by: signal.Signals | None
    skipped: int


@dataclass(frozen=True)
class _Parts:
    """The objective and the state of a training, and the averaged denoiser with its objective for the test loss."""

    objective: Objective[object]
    state: TrainingState
    averaged: Denoiser[object]
    averaged_objective: Objective[object]


def _assemble(config: ConfigDict) -> _Parts:
    seed_generators(config.training.seed)
    process, network = recipe.build_process(config), recipe.build_network(config)
    ema = MovingAverage(network, config.training.ema_decay)
    optimizer = recipe.part(config, "optimizer")(network.parameters())
    averaged = recipe.build_denoiser(config, process, ema.module).eval()
    objective = recipe.build_objective(config, recipe.build_denoiser(config, process, network))
    factor = recipe.part(config, "optimizer.schedule", steps=config.training.steps)
    state = TrainingState(network, ema, optimizer, LambdaLR(optimizer, factor), objective.times)
    # The times of the test loss are the same at all steps, even if the times of training learn.
    times = StratifiedTimes(config.process.t_min, config.process.t_max)
    averaged_objective = Objective(averaged, objective.loss, times, known=objective.known)
    for steps in (config.sampler.steps, config.saving.preview_steps):
        # A wrong setting of the sampler has to be found before the training.
        recipe.build_sampler(config, averaged, steps=steps).start(1, seeds=[0])
    return _Parts(objective, state, averaged, averaged_objective.eval())


@torch.no_grad()
def validation_loss(objective: Objective[object], config: ConfigDict, images: ImageData) -> float:
    """Return the mean loss per dimension of the first test images. The noise is the same every time.

    Arguments:
        objective: the objective, in evaluation mode.
        config: the configuration, with the number of images, the batch size and the seed.
        images: the test set.
    """
    pixels = recipe.build_pixels(config)
    count = min(int(config.saving.validation_images), len(images))
    device, size = config.training.device, config.training.batch_size
    labels = images.labels if config.model.num_classes else None
    seed = stream_seed(config.training.seed, _VALIDATION)
    total = 0.0
    for first in range(0, count, size):
        rows = slice(first, min(first + size, count))
        x_0 = pixels.encode(images.images[rows].long()).to(device)
        cond = {} if labels is None else {"y": labels[rows].to(device)}
        noise = PerSampleRandomness.keyed(seed, 0, first, len(x_0), count)
        sample, cond = objective.draw(x_0, noise, **cond)
        total += float(objective(sample, **cond).double().sum()) / x_0[0].numel()
    return total / count


def _completion(config: ConfigDict, count: int, splits: Splits | None) -> Completion | None:
    """Return the test images that the samples of a picture complete; None for an unconditional model."""
    if config.model.known.name == "none":
        return None
    test = (recipe.build_data(config) if splits is None else splits).test
    return of_images(config, test, range(min(count, len(test))))


def _save_grid(config: ConfigDict, path: Path, images: Tensor, completion: Completion | None) -> None:
    """Write samples in a grid. It has a column for each class, or completions follow the images that they complete."""
    columns = config.model.num_classes or None  # the labels are in turn
    if completion is not None:
        images, columns = completion.laid_out(images, config.data.num_values)
    figures.save_grid(path, images, config.data.num_values, columns)


def _draw(
    config: ConfigDict, sampler: Sampler[object], count: int, completion: Completion | None, stop: StopRequest, frames: int = 1
) -> list[Tensor]:
    """Draw images of the seeds 0 .. count - 1 at some times of the reverse process. After a stop signal, some are missing."""
    decode, cond = recipe.build_pixels(config).decode, chain_conditions(config, None, completion, count)
    return draw_frames(sampler, range(count), cond, decode, count=frames, go_on=lambda: not stop, progress=True).images


class _Recorder:
    """Writes metrics, the test loss and pictures after a step, and checkpoints."""

    def __init__(self, config: ConfigDict, folder: RunFolder, parts: _Parts, splits: Splits, start: int) -> None:
        self.config = config
        self.folder = folder
        self.parts = parts
        self.splits = splits
        self.metrics = MetricsFile(folder.metrics, start)
        self.validation: float | None = None

    def __call__(self, step: TrainStep, stop: StopRequest) -> None:
        saving, last = self.config.saving, step.step == self.config.training.steps
        self.metrics.write(
            {
                "step": step.step,
                "loss": step.loss,
                "grad_norm": step.grad_norm,
                "lr": step.lr,
                "skipped": step.skipped,
                "images_per_second": round(step.images_per_second, 1),
            }
        )
        if step.step % saving.validate_every == 0 or last:
            self.validation = validation_loss(self.parts.averaged_objective, self.config, self.splits.test)
            self.metrics.write({"step": step.step, "validation_loss": self.validation})
        if step.step % saving.preview_every == 0 and not last and not stop:
            self._preview(step.step, stop)

    def save(self, step: int, stopping: bool) -> None:
        """Write a checkpoint at regular steps and after the last step."""
        saving = self.config.saving
        if step % saving.checkpoint_every == 0 or step == self.config.training.steps or stopping:
            self.metrics.flush()
            self.parts.state.save(self.folder.checkpoints, step, saving.keep)

    def _preview(self, step: int, stop: StopRequest) -> None:
        saving = self.config.saving
        sampler = recipe.build_sampler(self.config, self.parts.averaged, steps=saving.preview_steps)
        completion = _completion(self.config, saving.preview_samples, self.splits)
        drawn = _draw(self.config, sampler, saving.preview_samples, completion, stop)
        if not stop:
            _save_grid(self.config, self.folder.samples / f"step_{step:07d}.png", drawn[0], completion)


def _run(
    config: ConfigDict,
    folder: RunFolder,
    parts: _Parts,
    splits: Splits,
    batches: Batches,
    start: int,
    stop: StopRequest,
) -> int:
    """Train from step `start`, and return the number of finished steps."""
    settings = config.training
    recorder = _Recorder(config, folder, parts, splits, start)
    done = start
    bar = tqdm(total=settings.steps, initial=start, unit="step", dynamic_ncols=True)
    with closing(recorder.metrics), bar:
        for step in fit(
            parts.objective,
            batches,
            parts.state.optimizer,
            steps=settings.steps,
            ema=parts.state.ema,
            scheduler=parts.state.scheduler,
            clip=settings.clip or None,
            accumulation=settings.accumulation,
            seed=settings.seed,
            start=start,
        ):
            recorder(step, stop)
            stopping = bool(stop)  # read once: a signal between saving and leaving would lose this step
            recorder.save(step.step, stopping)
            done = step.step
            shown = {"loss": f"{step.loss:.4f}", "images/s": f"{step.images_per_second:.0f}"}
            bar.set_postfix(shown if recorder.validation is None else {**shown, "test": f"{recorder.validation:.4f}"})
            bar.update()
            if stopping:
                break
    return done


def _pictures(
    config: ConfigDict, folder: RunFolder, averaged: Denoiser[object], splits: Splits | None, stop: StopRequest
) -> None:
    """Draw the final samples, the reverse process and the loss curve."""
    sampler = recipe.build_sampler(config, averaged)
    values = config.data.num_values
    figures.loss_curve(folder.path / "loss.png", MetricsFile.read(folder.metrics))
    completion = _completion(config, config.sampler.num_samples, splits)
    drawn = _draw(config, sampler, config.sampler.num_samples, completion, stop, frames=10)
    if stop:
        return
    _save_grid(config, folder.samples / "final.png", drawn[-1], completion)
    rows = [torch.stack([state[i] for state in drawn]) for i in range(min(8, len(drawn[0])))]
    figures.save_grid(folder.samples / "process.png", torch.cat(rows), values, columns=len(drawn))


@contextmanager
def _diverged(folder: RunFolder) -> Iterator[None]:
    """Add the remaining checkpoints to errors of a diverged training.

    Raises:
        FloatingPointError: weights or outputs are not finite.
    """
    try:
        yield
    except (NotFiniteError, FloatingPointError) as error:
        why = str(error) if isinstance(error, FloatingPointError) else f"{error}: {DIVERGED}"
        steps = [step for step, _ in complete_checkpoints(folder.checkpoints)]
        left = f"{folder.path} keeps the checkpoints of steps {steps}" if steps else f"{folder.path} has no checkpoint"
        raise FloatingPointError(f"{why}; {left}") from error


def _precision(config: ConfigDict, begun: ConfigDict | None) -> str:
    """Return the precision of the training. "auto" is the precision of the run in the folder, or chosen for this machine."""
    precision = config.training.precision
    if precision == "auto" and begun is not None:
        precision = begun.training.precision
    return resolved_precision(precision, config.training.device)


def _listed(names: Sequence[str], most: int = 20) -> str:
    """Return the classes with their labels in one line."""
    named = ", ".join(f"{label} {name}" for label, name in enumerate(names[:most]))
    return f"{len(names)} classes: {named}" + (f" and {len(names) - most} more" if len(names) > most else "")


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    say: Callable[[str], None] = lambda message: None,
) -> Outcome:
    """Train a configuration, or continue the run in the folder.

    Errors of the configuration, the device, the data or the folder are found before anything in the folder is changed.

    Arguments:
        config: the configuration. The precision "auto" means the precision of the run in the folder, if there is one.
        workdir: the folder of the run.
        resume: whether to require a run in the folder.
        fresh: whether to delete the run in the folder and train from the beginning.
        say: gets messages about the progress, one line each.

    Raises:
        ConfigError: the configuration is wrong, or this machine has no such device.
        FolderError: the folder cannot be written, or another training has locked it.
        RunError: the folder holds another run or something else, or no run to resume.
        CheckpointError: there are checkpoints and none can be read.
        FloatingPointError: the training has diverged: ten steps in a row had no finite gradient, or the output of the network
            or its weights are not finite. Such weights are not written, and older checkpoints are kept.
    """
    if resume and fresh:
        raise RunError("give --resume or --fresh, not both")
    folder = RunFolder(Path(workdir))
    if resume:
        folder.read_config()
    configuration.check(config, None if fresh or folder.begun() is None else ())  # a run may be older than a piece of advice
    configuration.check_device(config.training.device)
    config = config.copy_and_resolve_references()
    recipe.set_absolute_path(config)
    with folder.locked(), StopRequest() as stop:
        config.training.precision = _precision(config, None if fresh else folder.begun())
        folder.inspect(config, fresh)
        parts = _assemble(config)
        start, broken = (0, []) if fresh else parts.state.restore(folder.checkpoints)
        for error in broken:
            say(f"warning: {error}; an older checkpoint is used")
        done, steps, splits = start, config.training.steps, None
        if start >= steps:
            say(f"{folder.path} is finished ({start} steps): only drawing samples; --fresh trains anew")
            config.data.update(folder.read_config().data)  # no image is read, so the place of the images stays the same
            folder.prepare(config)
        else:
            splits = recipe.build_data(config)
            batches = recipe.build_batches(config, splits.train)
            with kept_generators():
                batches[start]  # a batch that cannot be made raises its error now
            if start:
                folder.check_data(splits)
                say(f"resuming {folder.path} at step {start}")
            say(f"{len(splits.train)} training images, {len(splits.test)} test images, steps {start} .. {steps}")
            if splits.class_names:
                say(_listed(splits.class_names))
            folder.prepare(config, splits, fresh)  # the first change in the folder, after all checks
            with _diverged(folder):
                done = _run(config, folder, parts, splits, batches, start, stop)
        if not stop:
            with _diverged(folder):
                _pictures(config, folder, parts.averaged, splits, stop)
    skipped = sum(bool(record.get("skipped")) for record in MetricsFile.read(folder.metrics))
    return Outcome(done, stop.received, skipped)
