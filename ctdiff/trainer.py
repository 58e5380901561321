"""Trains the model of a configuration and draws pictures: the function behind `ctdiff train`.

    train(load("mnist"), "runs/mnist")

After every step of `fit`, its metrics are written. At regular steps, the test loss is measured, samples are drawn and a
checkpoint is saved. If the folder has an unfinished run, this run continues. If it has a finished run, only the pictures are
drawn again.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ctdiff import config as configuration
from ctdiff import figures, progress, recipe
from ctdiff.completion import Completion, of_images
from ctdiff.data import Batches, ImageData, Splits
from ctdiff.devices import check_device
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

_FILES = {
    "samples": "samples/final.png",
    "the reverse process, noise to digits": "samples/process.png",
    "the loss curve": "loss.png",
    "every step's numbers": "metrics.jsonl",
}
"""The files of a finished training in the folder of its run, by description."""

# A random stream that differs from those of training, which are keyed by (seed, step, sample).
_VALIDATION = 0x76616C6964


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Arguments:
        step: the number of finished steps.
        stopped_by: the signal that stopped the training; None if no signal stopped it.
        skipped: the number of steps that were skipped because the loss or the gradient was not finite.
        files: the files for the user: a dictionary from descriptions to paths. It is empty if a signal stopped the training.
    """

    step: int
    stopped_by: signal.Signals | None
    skipped: int
    files: Mapping[str, Path]


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
    """Compute the mean loss per dimension of the first test images. Every call uses the same noise.

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
    for first in progress.tracked(range(0, count, size), "test loss"):
        rows = slice(first, min(first + size, count))
        x_0 = pixels.encode(images.images[rows].long()).to(device)
        cond = {} if labels is None else {"y": labels[rows].to(device)}
        noise = PerSampleRandomness.keyed(seed, 0, first, len(x_0), count)
        sample, cond = objective.draw(x_0, noise, **cond)
        total += float(objective(sample, **cond).double().sum()) / x_0[0].numel()
    return total / count


def _completion(config: ConfigDict, count: int, splits: Splits | None) -> Completion | None:
    """Return the test images that the samples of a picture complete. None if the model completes no images."""
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

    def __call__(self, step: TrainStep, stop: StopRequest) -> bool:
        """Record a step, and return whether the test loss was measured after it."""
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
        tested: bool = last or step.step % saving.validate_every == 0
        if tested:
            self.validation = validation_loss(self.parts.averaged_objective, self.config, self.splits.test)
            self.metrics.write({"step": step.step, "validation_loss": self.validation})
        if step.step % saving.preview_every == 0 and not last and not stop:
            self._preview(step.step, stop)
        return tested

    def save(self, step: int, stopping: bool) -> None:
        """Write a checkpoint at regular steps and after the last step."""
        saving = self.config.saving
        if step % saving.checkpoint_every == 0 or step == self.config.training.steps or stopping:
            self.metrics.flush()
            self.parts.state.save(self.folder.checkpoints, step, saving.keep)

    @contextmanager
    def kept(self, step: int) -> Iterator[None]:
        """Save a finished step if an error ends this context, for example because nobody reads the messages any more.

        Raises:
            RunError: a file or a message could not be written. The step is saved.
        """
        try:
            yield
        except (NotFiniteError, FloatingPointError):  # such weights are not worth a checkpoint
            raise
        except Exception as error:
            self.save(step, stopping=True)
            if isinstance(error, OSError):  # not an error of the code: no traceback is needed
                saved = f"everything is saved in {self.folder.path}"
                command = self.folder.resume_command(self.config)
                raise RunError(f"{error}: stopped after step {step}, {saved}. Continue with: {command}") from error
            raise

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
    say: Callable[[str], None],
) -> int:
    """Train from step `start`, and return the number of finished steps. Without a bar, each test loss is a message."""
    settings = config.training
    recorder = _Recorder(config, folder, parts, splits, start)
    done = start
    bar = progress.bar("training", settings.steps, start=start, leave=True)
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
            done = step.step
            with recorder.kept(done):
                tested = recorder(step, stop)
                if tested and bar.disable:
                    say(f"step {done} of {settings.steps}: loss {step.loss:.4f}, test loss {recorder.validation:.4f}")
                shown = {"loss": f"{step.loss:.4f}", "images/s": f"{step.images_per_second:.0f}"}
                if recorder.validation is not None:
                    shown["test"] = f"{recorder.validation:.4f}"
                bar.set_postfix(shown, refresh=False)
                bar.update()
            stopping = bool(stop)  # read once: a signal between saving and leaving would lose this step
            recorder.save(done, stopping)
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
    """Return the precision of the training. "auto" means that of the run in the folder, or the best one for this machine."""
    precision = config.training.precision
    if precision == "auto" and begun is not None:
        precision = begun.training.precision
    return resolved_precision(precision, config.training.device)


def _listed(names: Sequence[str], most: int = 20) -> str:
    """Return the classes with their labels in one line."""
    named = ", ".join(f"{label} {name}" for label, name in enumerate(names[:most]))
    return f"{len(names)} classes: {named}" + (f" and {len(names) - most} more" if len(names) > most else "")


def _say_end(outcome: Outcome, folder: RunFolder, config: ConfigDict, say: Callable[[str], None]) -> None:
    """Say how a training has ended."""
    if outcome.skipped:
        say(f"{outcome.skipped} steps were skipped: their loss or gradient was not finite")
    if outcome.stopped_by is not None:
        say(f"stopped by {outcome.stopped_by.name} after step {outcome.step}, everything is saved in {folder.path}")
        say(f"continue with: {folder.resume_command(config)}")


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    say: Callable[[str], None] = lambda message: None,
) -> Outcome:
    """Train the model that a configuration describes, or continue the run in the folder.

    Errors of the configuration, the device, the data or the folder are found before anything in the folder is changed.

    Arguments:
        config: the configuration. If `training.precision` is "auto", a run in the folder keeps its precision. A new run uses
            bfloat16 on a CPU with AMX, and float32 otherwise.
        workdir: the folder of the run.
        resume: continue the run in the folder. If there is none, stop with an error.
        fresh: delete the run in the folder and train from the beginning.
        say: a function that is called with each message about the progress, one line of text.

    Warns:
        UserWarning: a checkpoint is damaged, so an older one is used.

    Raises:
        ConfigError: the configuration is wrong, or this machine does not have the device.
        FolderError: the folder cannot be written, or another training has locked it.
        RunError: `resume` and `fresh` are both True. Or `resume` is True and the folder has no run. Or the folder has a run
            with another configuration or other images. Or it has files of a run, but no configuration that can be read. Or
            a message or a picture could not be written after a step; the step is saved.
        CheckpointError: there are checkpoints and none can be read.
        FloatingPointError: the training has diverged. Ten steps in a row had no finite gradient, or the output of the network
            or its weights are not finite. Such weights are not written, and older checkpoints are kept.
    """
    if resume and fresh:
        raise RunError("--resume and --fresh were given, expected one of them or none")
    folder = RunFolder(Path(workdir))
    if resume:
        folder.read_config()
    configuration.check(config, None if fresh or folder.begun() is None else ())  # a run may be older than a piece of advice
    check_device(config.training.device)
    config = config.copy_and_resolve_references()
    recipe.set_absolute_path(config)
    with folder.locked(), StopRequest() as stop:
        config.training.precision = _precision(config, None if fresh else folder.begun())
        folder.inspect(config, fresh)
        parts = _assemble(config)
        start, broken = (0, []) if fresh else parts.state.restore(folder.checkpoints)
        for error in broken:
            warnings.warn(f"{error}; an older checkpoint is used", stacklevel=2)
        done, steps, splits = start, config.training.steps, None
        if start >= steps:
            say(f"{folder.path} is finished ({start} steps): only samples are drawn. --fresh trains again")
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
                done = _run(config, folder, parts, splits, batches, start, stop, say)
        if not stop:
            with _diverged(folder):
                _pictures(config, folder, parts.averaged, splits, stop)
    skipped = sum(bool(record.get("skipped")) for record in MetricsFile.read(folder.metrics))
    files = {} if stop else {what: folder.path / name for what, name in _FILES.items()}
    outcome = Outcome(done, stop.received, skipped, files)
    _say_end(outcome, folder, config, say)
    return outcome
