"""Draws samples from a run and writes them to files: the function behind `ctdiff sample`."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor

from ctdiff import config as configuration
from ctdiff import figures
from ctdiff.completion import Completion, completion_of
from ctdiff.files import write_atomically
from ctdiff.hashes import bytes_hash, file_hash
from ctdiff.recipe.errors import closest
from ctdiff.runs import Run, load_run
from diffusion_core import Sampler, State

__all__ = [
    "Frames",
    "chain_conditions",
    "chosen_labels",
    "chosen_seeds",
    "class_numbers",
    "draw_frames",
    "numbers",
    "sample_run",
    "spans",
]

_SUFFIXES = (".png", ".npz", ".gif")
_LONGEST = 120  # letters of a file's name
_FRAMES = 50  # of an animation, the first and the last state among them


@dataclass(frozen=True, eq=False)
class Frames:
    """Images at some times of the reverse process.

    Arguments:
        images: int64 (N, C, H, W) on the CPU for each time, from noise to clean images.
        last: the last state of the sampler.
    """

    images: list[Tensor]
    last: State


def draw_frames(
    sampler: Sampler[object],
    seeds: Sequence[int],
    cond: Mapping[str, Tensor],
    decode: Callable[[Tensor], Tensor],
    *,
    count: int = 1,
    go_on: Callable[[], bool] = lambda: True,
    progress: bool = False,
) -> Frames:
    """Draw a sample for each seed, and keep the images of some states.

    Arguments:
        sampler: the sampler.
        seeds: N seeds.
        cond: conditions of the network by name, N rows each, and `given` clean data to complete.
        decode: makes images from a state's x.
        count: how many states are kept, at most. They are evenly spaced in steps, and the clean state is the last one.
        go_on: called after each state, `sampler.grid.steps + 2` times; if it returns False, the remaining steps are left out.
        progress: whether to show a progress bar.
    """
    final = sampler.grid.steps + 1  # of the states before the first step, after each step, and after the last draw
    kept = {final, *(round(i * final / (count - 1)) for i in range(count - 1))}
    images = []
    for i, state in enumerate(sampler.trajectory(len(seeds), generator=None, seeds=seeds, progress=progress, **cond)):
        if not go_on():
            break
        if i in kept:
            images.append(decode(state.x).cpu())
    return Frames(images, state)


def numbers(text: str, name: str = "numbers") -> list[int]:
    """Parse a text such as "0-63", "1,5,7" or "0-3,9" as integers.

    Raises:
        ValueError: the text has another form.
    """
    result: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (1, 0)
        if first > last:
            raise ValueError(f"{name} = {text!r}, expected non-negative integers and ascending ranges, such as 0-63 or 1,5,7")
        result += range(first, last + 1)
    return result


def chosen_seeds(run: Run, num_samples: int | None, seeds: Sequence[int] | None) -> list[int]:
    """Return the seeds of samples: the given seeds, or 0, 1, 2, ... up to `num_samples` or the number of the configuration.

    Raises:
        ValueError: the numbers of seeds and of samples differ.
    """
    if seeds is None:
        return list(range(run.config.sampler.num_samples if num_samples is None else num_samples))
    if num_samples not in (None, len(seeds)):
        raise ValueError(f"num_samples = {num_samples} and {len(seeds)} seeds, expected as many seeds as samples")
    return list(seeds)


def class_numbers(run: Run, labels: Sequence[int | str] | None) -> list[int] | None:
    """Return labels as numbers. Names are looked up in the class names of the run.

    Raises:
        ValueError: no class has this name.
    """
    if labels is None:
        return None
    names = run.class_names
    if unknown := [label for label in labels if isinstance(label, str) and label not in names]:
        known = f"a number or one of {', '.join(names)}" if names else "a number: the classes of this run have no names"
        raise ValueError(f"label {unknown[0]!r}, expected {known}{closest(unknown[0], names)}")
    return [names.index(label) if isinstance(label, str) else label for label in labels]


def chosen_labels(config: ConfigDict, labels: Sequence[int] | None, count: int) -> dict[str, Tensor]:
    """Return the condition y (count,): the labels, from the first again after the last. Without labels, all classes are used.

    If the network is unconditional, there is no condition.

    Raises:
        ValueError: the network does not have a label.
    """
    classes = config.model.num_classes
    if labels is not None and (wrong := [label for label in labels if label > classes or classes == 0]):
        expected = f"0 .. {classes - 1}, or {classes} for none" if classes else "none: the network is unconditional"
        raise ValueError(f"label {wrong[0]}, expected {expected}")
    if not classes:
        return {}
    return {"y": torch.tensor(list(labels or range(classes))).repeat(count)[:count].to(config.training.device)}


def spans(numbers: Sequence[int]) -> str:
    """Return integers in the form that `numbers` parses: 0, 1, 2, 5 -> "0-2,5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def chain_conditions(
    config: ConfigDict, labels: Sequence[int] | None, completion: Completion | None, count: int
) -> dict[str, Tensor]:
    """Return the labels and the images to complete, as arguments of `Sampler.trajectory`.

    Arguments:
        config: the configuration.
        labels: classes, repeated up to `count`. None means the classes of the images to complete, or all classes in turn.
        completion: the images to complete; None for an unconditional model.
        count: the number of samples.

    Raises:
        ValueError: the network does not have a label.
    """
    if completion is None:
        return chosen_labels(config, labels, count)
    own = None if completion.labels is None or not config.model.num_classes else completion.labels.tolist()
    return {**chosen_labels(config, own if labels is None else labels, count), **completion.conditions(config, count)}


def _given(text: str | None) -> Path | list[int] | None:
    """Return the images to complete: the path of an image, or the numbers of test images, written as `test:0-7`."""
    if text is None:
        return None
    return numbers(text.removeprefix("test:"), "given") if text.startswith("test:") else Path(text).expanduser()


def _file_name(value: str | Path) -> str:
    """Return the name of a file with a part of its hash, so that files of one name differ; other texts are unchanged."""
    path = Path(value).expanduser()
    return f"{path.stem}-{file_hash(path)[:8]}" if path.is_file() else str(value)


def _name(sampler: str, steps: int, details: Mapping[str, object], overrides: Sequence[str]) -> str:
    """Return the name of a file of samples: SAMPLER_STEPS and the given settings, so that other samples are not replaced."""
    asked = [override.partition("config.sampler.")[2] for override in overrides]
    parts = [f"{key}={value}" for key, value in details.items() if value is not None] + asked
    name = re.sub(r"[^\w.,=+-]", "-", "_".join([f"{sampler}_{steps}", *parts]))
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}_{bytes_hash(name.encode())[:8]}"


def _base(out: str | Path | None, folder: Path, name: str) -> Path:
    """Return the path of the files without suffix."""
    if out is None:
        return folder / name
    base = Path(out).expanduser()
    if str(out).endswith(("/", "\\")) or base.is_dir():
        return base / name
    return base.with_suffix("") if base.suffix in _SUFFIXES else base


def _targets(base: Path, suffixes: Sequence[str]) -> tuple[Path, ...]:
    """Return the paths of the files, after a test that they can be written. So this error comes before the sampling."""
    paths = tuple(base.with_name(base.name + suffix) for suffix in suffixes)
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=base.parent):
            pass
        for path in paths:
            if path.exists():
                with path.open("ab"):
                    pass
    except OSError as error:
        raise ValueError(f"out = {str(base)!r} cannot be written: {error}") from error
    return paths


def _class_rows(images: Tensor, y: Tensor | None) -> list[Tensor]:
    """Return the images of each label if there are several labels, which follow one another cyclically; else an empty list."""
    different = 0 if y is None else len(y.unique())
    return [images[first::different] for first in range(different)] if different > 1 else []


def _laid_out(images: Tensor, y: Tensor | None, completion: Completion | None, num_values: int) -> tuple[Tensor, int | None]:
    """Return images in the order of a grid, and its number of columns.

    A grid has a row for each class, or is about square. Completions follow the image that they complete.
    """
    if completion is not None:
        return completion.laid_out(images, num_values)
    rows = _class_rows(images, y)
    return figures.in_rows(rows, num_values) if rows else (images, None)


def sample_run(
    path: str | Path,
    *,
    num_samples: int | None = None,
    seeds: Sequence[int] | None = None,
    labels: Sequence[int | str] | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    checkpoint: int | None = None,
    ema: bool = True,
    device: str = "cpu",
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    gif: bool = False,
    given: str | None = None,
    mask: str | Path | None = None,
) -> tuple[Path, ...]:
    """Draw samples from a run and write a PNG grid and an .npz of integers.

    If there are several classes, each class has a row of the grid. A run that was trained with known pixels completes images.
    In the picture, each given image stands before its completions. Its unknown pixels are grey.

    Arguments:
        path: the folder of the run.
        num_samples: the number of samples. None means the number of seeds. Without seeds, it means the number in the
            configuration.
        seeds: one seed for each sample. None means 0, 1, 2, ...
        labels: classes by number or by name, for a conditional network. The first sample gets the first class, and so on; after
            the last class the list starts again. None means all classes.
        steps: the number of reverse steps; None means the number in the configuration.
        sampler: the name of the sampler; None means the sampler of the configuration.
        checkpoint: the step of a checkpoint; None means the newest.
        ema: whether to use the averaged weights instead of the last weights.
        device: the device that computes.
        out: the path of the files, with or without a suffix, or a folder. None means the folder RUN/samples. In a folder, the
            files are named after the sampler and the number of steps, for example `ancestral_100.png`. If seeds, labels, a
            checkpoint or settings are chosen, they are added to the name.
        overrides: flags that change the configuration, for example "--config.sampler.grid.name=cosine".
        gif: whether to also write an animation of the reverse process, from noise to clean images.
        given: the images to complete, in turn: the path of an image, or test images such as "test:0-7". None means the first
            eight test images. Only for a run that was trained with known pixels.
        mask: a picture of the known pixels: white is known, black is unknown. None draws them as in training.

    Returns:
        The paths of the PNG, of the .npz and, with `gif`, of the GIF.

    Raises:
        RunError, CheckpointError, ConfigError, ValueError: the run or an argument cannot be used.
    """
    run = load_run(path, checkpoint, ema, device)
    named = [] if sampler is None else [f"--config.sampler.name={sampler}"]
    configuration.override(run.config, [*overrides, *named], sections=("sampler",))
    chosen = chosen_seeds(run, num_samples, seeds)
    classes = class_numbers(run, labels)
    completion = completion_of(run, _given(given), mask)
    cond = chain_conditions(run.config, classes, completion, len(chosen))
    y = cond.get("y")
    walker = run.sampler(steps)
    details = {
        "seeds": None if chosen == list(range(len(chosen))) else spans(chosen),
        "labels": None if classes is None else spans(classes),
        "checkpoint": checkpoint,
        "ema": None if ema else False,
        **{name: value and _file_name(value) for name, value in (("given", given), ("mask", mask))},
    }
    name = _name(run.config.sampler.name, walker.grid.steps, details, overrides)
    paths = _targets(_base(out, run.path / "samples", name), _SUFFIXES if gif else _SUFFIXES[:2])
    values = run.config.data.num_values
    with run.named():
        drawn = draw_frames(walker, chosen, cond, run.images, count=_FRAMES if gif else 1, progress=True)
    laid_out = [_laid_out(frame, y, completion, values) for frame in drawn.images]
    columns = laid_out[-1][1]
    figures.save_grid(paths[0], laid_out[-1][0], values, columns)
    if gif:
        figures.save_animation(paths[2], [frame for frame, _ in laid_out], values, columns)
    arrays = {
        "images": drawn.images[-1].numpy().astype(np.uint8),
        "seeds": np.array(chosen),
        "step": np.array(run.step),
        "network_calls": np.array(drawn.last.nfe),
        **{name: drawn.last.count(name).cpu().numpy() for name in ("rejected", "clamped", *drawn.last.counts)},
    }
    if y is not None:
        arrays["labels"] = y.cpu().numpy()
    if completion is not None:
        rows = completion.rows(len(chosen))
        arrays |= {"given": completion.images[rows].numpy(), "known": completion.known[rows].numpy()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(paths[1], buffer.getvalue())
    return paths
