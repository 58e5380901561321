"""The files of samples: their names, a check that they can be written, and their content.

grid    NAME.png, a picture of all images in a grid; NAME.npz, the integers and seeds; NAME.gif, if it was requested
png     NAME/seed_000007_class_3.png and so on: a file for each image, in its own size, for other programs; and
        NAME/samples.json, the record of the samples
"""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor

from ctdiff import figures
from ctdiff.completion import Completion
from ctdiff.files import expanded, write_atomically
from ctdiff.hashes import bytes_hash, file_hash
from ctdiff.progress import tracked
from ctdiff.sample_folders import check_record, image_name, write_record

__all__ = ["Format", "SampleSet", "check_writable", "file_paths", "name_of_file", "samples_name", "write"]

Format: TypeAlias = Literal["grid", "png"]

_SUFFIXES = (".png", ".npz", ".gif")
_LONGEST = 120  # the largest number of letters in a file's name


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Samples, with everything that their files contain.

    Arguments:
        frames: the images at some times of the reverse process, integers (N, C, H, W). The last ones are the samples.
        num_values: S, the number of values of a pixel.
        labels: the class of each sample, int64 (N,); None if there are no classes.
        completion: the images that the samples complete; None if there are none.
        arrays: more arrays for the .npz file, by name.
        record: everything that determines the samples, as JSON content. Only the format png writes it.
    """

    frames: Sequence[Tensor]
    num_values: int
    labels: Tensor | None
    completion: Completion | None
    arrays: Mapping[str, np.ndarray]
    record: Mapping[str, object]


def name_of_file(value: str | Path) -> str:
    """Return the name of a file with a part of its hash, so that files of one name differ; other texts are unchanged."""
    path = expanded(value)
    return f"{path.stem}-{file_hash(path)[:8]}" if path.is_file() else str(value)


def samples_name(sampler: str, steps: int, details: Mapping[str, object], overrides: Sequence[str]) -> str:
    """Return the name of files of samples: SAMPLER_STEPS and the given settings, so that other samples are not replaced."""
    asked = [override.partition("config.sampler.")[2] for override in overrides]
    parts = [f"{key}={value}" for key, value in details.items() if value is not None] + asked
    name = re.sub(r"[^\w.,=+-]", "-", "_".join([f"{sampler}_{steps}", *parts]))
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}_{bytes_hash(name.encode())[:8]}"


def file_paths(
    form: Format,
    out: str | Path | None,
    default: Path,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    gif: bool,
) -> tuple[Path, ...]:
    """Return the paths of the files of samples.

    Arguments:
        form: the format.
        out: the path for the files: for `grid` with or without a suffix, or a folder; for `png` a folder. None means `default`.
        default: the folder of the files and their name without suffix.
        seeds: the seed of each sample.
        labels: the class of each sample; None if there are no classes.
        gif: whether an animation is written too.

    Raises:
        ValueError: `png` has no animation, or `out` is the name of a file, or two images would have the same file.
    """
    if form == "grid":
        base = _base(out, default)
        return tuple(base.with_name(base.name + suffix) for suffix in (_SUFFIXES if gif else _SUFFIXES[:2]))
    if gif:
        raise ValueError("gif = True, expected False: the format png writes a file for each image and no animation")
    folder = default if out is None else expanded(out)
    if folder.suffix in _SUFFIXES:
        raise ValueError(f"out = {str(out)!r}, expected a folder without a suffix: the format png writes a file for each image")
    classes = [None] * len(seeds) if labels is None else labels
    names = Counter(map(image_name, seeds, classes))
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"two images would be written to {twice[0]}, expected different seeds")
    return tuple(folder / name for name in names)


def _base(out: str | Path | None, default: Path) -> Path:
    """Return the path of the files of a grid without suffix."""
    if out is None:
        return default
    base = expanded(out)
    if str(out).endswith(("/", "\\")) or base.is_dir():
        return base / default.name
    return base.with_suffix("") if base.suffix in _SUFFIXES else base


def check_writable(form: Format, paths: Sequence[Path], out: str | Path | None, record: Mapping[str, object]) -> None:
    """Check that files of one folder can be written, before the samples are drawn. The folder is made.

    Arguments:
        form: the format.
        paths: the files.
        out: the path that was asked for, for the error message.
        record: the record of the samples.

    Raises:
        ValueError: a file cannot be written, or the folder of the format `png` has images of another record.
    """
    folder = paths[0].parent
    if form == "png":
        check_record(folder, record)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for path in paths:
            if path.exists():
                with path.open("ab"):
                    pass
    except OSError as error:
        raise ValueError(f"out = {str(out or folder)!r} cannot be written: {error}") from error


def write(form: Format, paths: Sequence[Path], samples: SampleSet) -> None:
    """Write samples to the files of `file_paths`."""
    if form == "grid":
        _write_grid(paths, samples)
        return
    write_record(paths[0].parent, samples.record)
    pictures = figures.image_pngs(samples.frames[-1], samples.num_values)
    for path, picture in zip(tracked(paths, "writing images"), pictures, strict=True):
        write_atomically(path, picture)


def _write_grid(paths: Sequence[Path], samples: SampleSet) -> None:
    laid_out = [_laid_out(frame, samples) for frame in samples.frames]
    columns = laid_out[-1][1]
    figures.save_grid(paths[0], laid_out[-1][0], samples.num_values, columns)
    if len(paths) > 2:
        figures.save_animation(paths[2], [frame for frame, _ in laid_out], samples.num_values, columns)
    images = samples.frames[-1]
    arrays: dict[str, Any] = {"images": images.numpy().astype(np.uint8), **samples.arrays}
    if samples.labels is not None:
        arrays["labels"] = samples.labels.cpu().numpy()
    if samples.completion is not None:
        rows = samples.completion.rows(len(images))
        arrays |= {"given": samples.completion.images[rows].numpy(), "known": samples.completion.known[rows].numpy()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(paths[1], buffer.getvalue())


def _laid_out(images: Tensor, samples: SampleSet) -> tuple[Tensor, int | None]:
    """Return images in the order of a grid, and its number of columns.

    A grid has a row for each class, or is about square. Completions follow the image that they complete.
    """
    if samples.completion is not None:
        return samples.completion.laid_out(images, samples.num_values)
    rows = _class_rows(images, samples.labels)
    return figures.in_rows(rows, samples.num_values) if rows else (images, None)


def _class_rows(images: Tensor, y: Tensor | None) -> list[Tensor]:
    """Return the images of each label if there are several labels, which follow one another cyclically; else an empty list."""
    different = 0 if y is None else len(y.unique())
    return [images[first::different] for first in range(different)] if different > 1 else []
