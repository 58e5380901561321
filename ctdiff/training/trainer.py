"""A training from configuration to pictures: what `ctdiff train` does, as a function.

    train(load("mnist"), "runs/mnist")

It is a few lines around `fit`: after every step the metrics are written, and every so many
steps the test loss is measured, samples are drawn and a checkpoint is saved. A folder with an
unfinished run is continued; one with a finished run only gets new pictures.
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
from ctdiff.data import Batches, ImageData, Splits
from ctdiff.runs import RunError, RunFolder
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

# A stream of its own beside those of training, which are keyed by (seed, step, sample).
_VALIDATION = 0x76616C6964


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Arguments:
        step: how many steps are done.
        stopped_by: the signal that ended it early, or None.
        skipped: how many steps had no finite gradient.
    """

    step: int
    stopped_by: signal.Signals | None
    skipped: int


@dataclass(frozen=True)
class _Parts:
    """What is trained, and the two objectives it is looked at with."""

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
    # The times of the test loss are the same from the first step to the last, whatever training prefers.
    averaged_objective = Objective(averaged, objective.loss, StratifiedTimes(config.process.t_min, config.process.t_max))
    for steps in (config.sampler.steps, config.saving.preview_steps):
        # A wrong setting of the sampler must not show when the training is over.
        recipe.build_sampler(config, averaged, steps=steps).start(1, seeds=[0])
    return _Parts(objective, state, averaged, averaged_objective.eval())


@torch.no_grad()
def validation_loss(objective: Objective[object], config: ConfigDict, images: ImageData) -> float:
    """The mean loss of the first test images, a dimension, with the same noise every time.

    Arguments:
        objective: in evaluation mode.
        config: says how many images, in what batches, and the seed.
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


def _labels(config: ConfigDict, count: int) -> dict[str, Tensor]:
    """The classes in turn, for a conditional network."""
    classes = config.model.num_classes
    return {"y": torch.arange(count, device=config.training.device) % classes} if classes else {}


def _draw(config: ConfigDict, sampler: Sampler[object], count: int, stop: StopRequest, keep: int = 1) -> list[Tensor] | None:
    """Images of the seeds 0 .. count - 1 at `keep` times, evenly spaced in steps, the last one clean; None if stopped."""
    pixels = recipe.build_pixels(config)
    total = sampler.grid.steps + 2  # states: before the first step, after each, and the clean one
    wanted = {round(i * (total - 1) / max(keep - 1, 1)) for i in range(keep)} if keep > 1 else {total - 1}
    kept = []
    states = sampler.trajectory(count, generator=None, seeds=range(count), progress=True, **_labels(config, count))
    for i, state in enumerate(states):
        if stop:
            return None
        if i in wanted:
            kept.append(pixels.decode(state.x).cpu())
    return kept


class _Recorder:
    """What happens between steps: metrics, test loss, pictures; and checkpoints, once it is known whether to stop."""

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
        """Write a checkpoint if it is time for one, or if this step is the last one made."""
        saving = self.config.saving
        if step % saving.checkpoint_every == 0 or step == self.config.training.steps or stopping:
            self.metrics.flush()
            self.parts.state.save(self.folder.checkpoints, step, saving.keep)

    def _preview(self, step: int, stop: StopRequest) -> None:
        saving = self.config.saving
        sampler = recipe.build_sampler(self.config, self.parts.averaged, steps=saving.preview_steps)
        drawn = _draw(self.config, sampler, saving.preview_samples, stop)
        if drawn is not None:
            path = self.folder.samples / f"step_{step:07d}.png"
            columns = self.config.model.num_classes or None  # a column for each class: their labels come in turn
            figures.save_grid(path, drawn[0], self.config.data.num_values, columns)


def _run(
    config: ConfigDict,
    folder: RunFolder,
    parts: _Parts,
    splits: Splits,
    batches: Batches,
    start: int,
    stop: StopRequest,
) -> int:
    """Train from step `start`; returns the last step done."""
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
            stopping = bool(stop)  # asked once: a signal between saving and leaving would lose this step
            recorder.save(step.step, stopping)
            done = step.step
            shown = {"loss": f"{step.loss:.4f}", "images/s": f"{step.images_per_second:.0f}"}
            bar.set_postfix(shown if recorder.validation is None else {**shown, "test": f"{recorder.validation:.4f}"})
            bar.update()
            if stopping:
                break
    return done


def _pictures(config: ConfigDict, folder: RunFolder, averaged: Denoiser[object], stop: StopRequest) -> None:
    """The final grid, the process over time and the loss curve."""
    sampler = recipe.build_sampler(config, averaged)
    values = config.data.num_values
    figures.loss_curve(folder.path / "loss.png", MetricsFile.read(folder.metrics))
    times = 10
    drawn = _draw(config, sampler, config.sampler.num_samples, stop, keep=times)
    if drawn is None:
        return
    figures.save_grid(folder.samples / "final.png", drawn[-1], values, config.model.num_classes or None)
    rows = [torch.stack([state[i] for state in drawn]) for i in range(min(8, len(drawn[0])))]
    figures.save_grid(folder.samples / "process.png", torch.cat(rows), values, columns=len(drawn))


@contextmanager
def _diverged(folder: RunFolder) -> Iterator[None]:
    """Say of weights or outputs that are not finite that the training has diverged, and what is left of it.

    Raises:
        FloatingPointError: the same, with that.
    """
    try:
        yield
    except (NotFiniteError, FloatingPointError) as error:
        why = str(error) if isinstance(error, FloatingPointError) else f"{error}: {DIVERGED}"
        steps = [step for step, _ in complete_checkpoints(folder.checkpoints)]
        left = f"{folder.path} keeps the checkpoints of steps {steps}" if steps else f"{folder.path} has no checkpoint"
        raise FloatingPointError(f"{why}; {left}") from error


def _precision(config: ConfigDict, begun: ConfigDict | None) -> str:
    """The precision to train in, never "auto": a run goes on in what it was begun with, on another machine too."""
    precision = config.training.precision
    if precision == "auto" and begun is not None:
        precision = begun.training.precision
    return resolved_precision(precision, config.training.device)


def _listed(names: Sequence[str], most: int = 20) -> str:
    """The classes with their labels, in a line."""
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
    """Train a configuration, continuing what is in the folder.

    Whatever can be wrong with the configuration, the device, the data or the folder is found before
    anything in the folder is changed.

    Arguments:
        config: the configuration. A precision of "auto" is what the run in the folder has, if there is one.
        workdir: the run's folder.
        resume: refuse to start anew: there must be a run.
        fresh: delete the folder's run and start anew.
        say: is told, in a line each, what happens.

    Raises:
        ConfigError: the configuration is wrong, or this machine has no such device.
        RunError: the folder cannot be written, is in use, holds another run or something else, or none to resume.
        CheckpointError: there are checkpoints and none can be read.
        FloatingPointError: the training has diverged: ten steps in a row had no finite gradient, or the network's output or
            weights that are to be saved are not finite. Such weights are not written, and older checkpoints stay.
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
        done, steps = start, config.training.steps
        if start >= steps:
            say(f"{folder.path} is finished ({start} steps): only drawing samples; --fresh trains anew")
            config.data.update(folder.read_config().data)  # no image is read: where they lie stays as it was
            folder.prepare(config)
        else:
            splits = recipe.build_data(config)
            batches = recipe.build_batches(config, splits.train)
            with kept_generators():
                batches[start]  # whatever makes a batch fail fails now
            if start:
                folder.check_data(splits)
                say(f"resuming {folder.path} at step {start}")
            say(f"{len(splits.train)} training images, {len(splits.test)} test images, steps {start} .. {steps}")
            if splits.class_names:
                say(_listed(splits.class_names))
            folder.prepare(config, splits, fresh)  # the first change to the folder: nothing else can be wrong
            with _diverged(folder):
                done = _run(config, folder, parts, splits, batches, start, stop)
        if not stop:
            with _diverged(folder):
                _pictures(config, folder, parts.averaged, stop)
    skipped = sum(bool(record.get("skipped")) for record in MetricsFile.read(folder.metrics))
    return Outcome(done, stop.received, skipped)
