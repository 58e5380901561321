"""Samples from a run, as files: what `ctdiff sample` does, as a function."""

from __future__ import annotations

import difflib
import hashlib
import io
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ctdiff import config as configuration
from ctdiff import figures
from ctdiff.runs import Run, load_run
from ctdiff.training.checkpoints import write_atomically

__all__ = ["chosen_labels", "chosen_seeds", "class_numbers", "numbers", "sample_run", "spans"]

_SUFFIXES = (".png", ".npz", ".gif")
_LONGEST = 120  # letters of a file's name
_FRAMES = 50  # of an animation, the first and the last state among them


def numbers(text: str, name: str = "numbers") -> list[int]:
    """Read "0-63", "1,5,7" or "0-3,9" as integers.

    Raises:
        ValueError: the text is something else.
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
    """The seeds of samples: those given, or 0, 1, 2, ..., as many as were asked for or as the configuration says.

    Raises:
        ValueError: another number of seeds than of samples.
    """
    if seeds is None:
        return list(range(run.config.sampler.num_samples if num_samples is None else num_samples))
    if num_samples not in (None, len(seeds)):
        raise ValueError(f"num_samples = {num_samples} and {len(seeds)} seeds, expected as many seeds as samples")
    return list(seeds)


def class_numbers(run: Run, labels: Sequence[int | str] | None) -> list[int] | None:
    """Labels as numbers: names of classes, where the run has names, are looked up.

    Raises:
        ValueError: no class has this name.
    """
    if labels is None:
        return None
    names = run.class_names
    if unknown := [label for label in labels if isinstance(label, str) and label not in names]:
        close = "".join(f". Did you mean {name}?" for name in difflib.get_close_matches(unknown[0], names, n=1))
        known = f"a number or one of {', '.join(names)}" if names else "a number: the classes of this run have no names"
        raise ValueError(f"label {unknown[0]!r}, expected {known}{close}")
    return [names.index(label) if isinstance(label, str) else label for label in labels]


def chosen_labels(run: Run, labels: Sequence[int] | None, count: int) -> dict[str, torch.Tensor]:
    """The condition y, labels repeated up to `count`; without any, the classes in turn where the network is conditional.

    Raises:
        ValueError: a label that the network does not have.
    """
    classes = run.config.model.num_classes
    if labels is not None and (wrong := [label for label in labels if label > classes or classes == 0]):
        expected = f"0 .. {classes - 1}, or {classes} for none" if classes else "none: the network is unconditional"
        raise ValueError(f"label {wrong[0]}, expected {expected}")
    if not classes:
        return {}
    return {"y": torch.tensor(list(labels or range(classes))).repeat(count)[:count].to(run.config.training.device)}


def spans(numbers: Sequence[int]) -> str:
    """Integers as `numbers` reads them: 0, 1, 2, 5 -> "0-2,5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _name(sampler: str, steps: int, details: Mapping[str, object], overrides: Sequence[str]) -> str:
    """The name of a file of samples: SAMPLER_STEPS, and what else was asked for, so that it does not replace other samples."""
    asked = [override.partition("config.sampler.")[2] for override in overrides]
    parts = [f"{key}={value}" for key, value in details.items() if value is not None] + asked
    name = re.sub(r"[^\w.,=+-]", "-", "_".join([f"{sampler}_{steps}", *parts]))
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _base(out: str | Path | None, folder: Path, name: str) -> Path:
    """The files' path without suffix."""
    if out is None:
        return folder / name
    base = Path(out).expanduser()
    if str(out).endswith(("/", "\\")) or base.is_dir():
        return base / name
    return base.with_suffix("") if base.suffix in _SUFFIXES else base


def _targets(base: Path, suffixes: Sequence[str]) -> tuple[Path, ...]:
    """The files to write, tried before any time is spent on what goes into them."""
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


def _class_rows(images: torch.Tensor, y: torch.Tensor | None) -> list[torch.Tensor]:
    """The images of each label, where there are several; labels come in turn."""
    different = 0 if y is None else len(y.unique())
    return [images[first::different] for first in range(different)] if different > 1 else []


def _laid_out(images: torch.Tensor, y: torch.Tensor | None, num_values: int) -> tuple[torch.Tensor, int | None]:
    """Images in the order of their grid, and its columns: a row a class, or None for about a square."""
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
) -> tuple[Path, ...]:
    """Draw samples from a run and write a PNG grid and an .npz of integers.

    Samples of several classes are laid out with a row for each.

    Arguments:
        path: the run's folder.
        num_samples: how many; None is as many as seeds, or as the configuration says.
        seeds: one a sample; None is 0, 1, 2, ...
        labels: classes by number or by name, repeated in turn, for a conditional network.
        steps: reverse steps; None is the configuration's number.
        sampler: the sampler's name; None is the configuration's.
        checkpoint: the step of a checkpoint; None is the newest.
        ema: averaged weights rather than the last ones.
        device: where to compute.
        out: the files' path, with or without a suffix, or a folder for them. None is RUN/samples. In a folder they are called
            SAMPLER_STEPS, followed by the seeds, labels, checkpoint and settings that were asked for.
        overrides: flags such as "--config.sampler.grid.name=cosine".
        gif: write an animation of the reverse process too, noise to clean images.

    Returns:
        The paths of the PNG, of the .npz and, where it was asked for, of the GIF.

    Raises:
        RunError, CheckpointError, ConfigError, ValueError: the run or an argument cannot be used.
    """
    run = load_run(path, checkpoint, ema, device)
    named = [] if sampler is None else [f"--config.sampler.name={sampler}"]
    configuration.override(run.config, [*overrides, *named], sections=("sampler",))
    chosen = chosen_seeds(run, num_samples, seeds)
    classes = class_numbers(run, labels)
    cond = chosen_labels(run, classes, len(chosen))
    y = cond.get("y")
    walker = run.sampler(steps)
    details = {
        "seeds": None if chosen == list(range(len(chosen))) else spans(chosen),
        "labels": None if classes is None else spans(classes),
        "checkpoint": checkpoint,
        "ema": None if ema else False,
    }
    name = _name(run.config.sampler.name, walker.grid.steps, details, overrides)
    paths = _targets(_base(out, run.path / "samples", name), _SUFFIXES if gif else _SUFFIXES[:2])
    values, frames = run.config.data.num_values, []
    states = walker.grid.steps + 2  # before the first step, after each, and the clean one
    shown = {round(i * (states - 1) / (_FRAMES - 1)) for i in range(_FRAMES)} if gif else {}
    with run.named():
        for i, state in enumerate(walker.trajectory(len(chosen), generator=None, seeds=chosen, progress=True, **cond)):
            last = state
            if i in shown:
                frames.append(run.images(state.x).cpu())
    images = run.images(last.x).cpu()
    laid_out = [_laid_out(frame, y, values) for frame in (*frames, images)]
    columns = laid_out[-1][1]
    figures.save_grid(paths[0], laid_out[-1][0], values, columns)
    if gif:
        figures.save_animation(paths[2], [frame for frame, _ in laid_out[:-1]], values, columns)
    arrays = {
        "images": images.numpy().astype(np.uint8),
        "seeds": np.array(chosen),
        "step": np.array(run.step),
        "network_calls": np.array(last.nfe),
        **{name: last.count(name).cpu().numpy() for name in ("rejected", "clamped", *last.counts)},
    }
    if y is not None:
        arrays["labels"] = y.cpu().numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(paths[1], buffer.getvalue())
    return paths
