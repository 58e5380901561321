"""The folders of samples with a file for each image: the names of the files, and a record of the samples.

A folder has the images of one record only. So images of another model or sampler are never among them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ctdiff.files import remove_leftovers, write_atomically

__all__ = ["check_record", "clear_images", "image_name", "write_record"]

_RECORD = "samples.json"
_IMAGE = re.compile(r"seed_\d{6,}(_class_\d+)?\.png")


def image_name(seed: int, label: int | None) -> str:
    """Return the name of the file of a sample."""
    return f"seed_{seed:06d}{'' if label is None else f'_class_{label}'}.png"


def check_record(folder: Path, record: Mapping[str, object]) -> None:
    """Check that a folder has no images, or images of the same record. Other files are not looked at.

    Arguments:
        folder: the folder. It need not exist.
        record: everything that determines the samples, as JSON content.

    Raises:
        ValueError: the folder has images of other samples, or images without a record.
    """
    if not _images(folder):
        return
    try:
        found = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} has images whose record cannot be read ({error}), expected an empty folder") from error
    new = json.loads(_text(record))
    if found != new:
        kept = found if isinstance(found, dict) else {}
        changed = [key for key in new if kept.get(key) != new[key]]
        listed = "; ".join(f"{key} was {_short(kept.get(key))}, now {_short(new[key])}" for key in changed)
        raise ValueError(f"{folder} has other samples: {listed}. Choose another --out, or delete this folder")


def write_record(folder: Path, record: Mapping[str, object]) -> None:
    """Write the record of a folder. Call it before the images are written, so that there are no images without a record."""
    write_atomically(folder / _RECORD, _text(record).encode())


def clear_images(folder: Path) -> None:
    """Delete the images and the record of a folder, and the folder if it is empty then. Without a record, nothing is done."""
    if not (folder / _RECORD).is_file():
        return
    for path in _images(folder):
        path.unlink()
    remove_leftovers(folder)
    (folder / _RECORD).unlink()  # last: without it, the images would not be known as ours
    with suppress(OSError):  # there are other files
        folder.rmdir()


def _images(folder: Path) -> list[Path]:
    return [path for path in folder.glob("seed_*.png") if _IMAGE.fullmatch(path.name)]


def _text(record: Mapping[str, object]) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
