"""A cache of decoded images on the disk.

    $XDG_CACHE_HOME/ctdiff/images/<hash>/  images.npy    (N, C, H, W) uint8, mapped into memory, never loaded as a whole
    (or ~/.cache/...)                      index.json    the hash of the images, and which files were left out

<hash> is a hash of everything that the images depend on. A folder is written under another name and then renamed. No code is
executed when the cache is loaded. The cache can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ctdiff.files import discard, remove_leftovers, write_atomically
from ctdiff.hashes import bytes_hash, json_hash

__all__ = ["LeftOut", "Read", "cache_folder", "cached_images"]

LeftOut: TypeAlias = dict[int, str]
"""A dictionary from the index of each image that was left out to the reason."""

Read: TypeAlias = Callable[[LeftOut], Iterator[Tensor]]
"""A function that yields at least one image (1, C, H, W), and adds the images that it leaves out to its argument."""

_DAY = 86400.0  # seconds


def cached_images(what: Mapping[str, Any], count: int, read: Read) -> tuple[Tensor, LeftOut]:
    """Return images from the cache. If they are not there, read them and write them to the cache.

    Arguments:
        what: everything that the images depend on, as JSON content.
        count: the number of images, including those that are left out.
        read: the function that reads the images if they are not in the cache.

    Returns:
        The images (N, C, H, W), mapped from the file, and the reasons why others were left out.

    Warns:
        UserWarning: the cache cannot be written.
    """
    try:
        place = cache_folder() / json_hash(what)
        found = _load(place, count)
        if found is None:
            _store(place, count, read)
            found = _load(place, count)
        if found is not None:
            return found
    except OSError as error:  # of the cache, because `read` raises ValueErrors
        warnings.warn(f"the images cannot be saved for the next start ({error}); the program continues", stacklevel=2)
    return _in_memory(count, read)


def cache_folder() -> Path:
    """Return the folder of the cache.

    Raises:
        OSError: the home folder of the user is not known.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(f"{error}") from error
    return home / "ctdiff" / "images"


def _load(place: Path, count: int) -> tuple[Tensor, LeftOut] | None:
    """Return the content of the cache; None if it is missing or damaged."""
    try:
        index = json.loads((place / "index.json").read_bytes())
        left_out = {int(i): str(why) for i, why in index["left_out"]}
        images = np.asarray(np.load(place / "images.npy", mmap_mode="c", allow_pickle=False))
        intact = images.dtype == np.uint8 and images.ndim == 4 and len(images) == count - len(left_out)
        intact = intact and bytes_hash(images.data) == index["sha256"]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return (torch.from_numpy(images), left_out) if intact else None


def _store(place: Path, count: int, read: Read) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(place.parent, _DAY)
    building = Path(tempfile.mkdtemp(prefix=f".writing_{place.name}_", dir=place.parent))
    left_out: LeftOut = {}
    try:
        with (building / "images.npy").open("wb") as file:
            digest = _write(file, count, read(left_out))
        index = {"sha256": digest, "left_out": sorted(left_out.items())}
        write_atomically(building / "index.json", json.dumps(index).encode())
        try:
            building.rename(place)
        except OSError:
            if _load(place, count) is None:  # the old folder is damaged; otherwise another process was faster
                discard(place)
                building.rename(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(file: BinaryIO, count: int, images: Iterator[Tensor]) -> str:
    """Write a .npy file image by image, and return the hash of the content after the header."""
    digest, written, shape = hashlib.sha256(), 0, (0,)
    for image in images:
        content = image.contiguous().numpy()
        if not written:
            shape = content.shape[1:]
            _write_header(file, (count, *shape))
        file.write(content.data)
        digest.update(content.data)
        written += 1
    if written < count:
        file.seek(0)
        _write_header(file, (written, *shape))  # the header has the same length, because NumPy leaves room for the first axis
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest()


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _in_memory(count: int, read: Read) -> tuple[Tensor, LeftOut]:
    left_out: LeftOut = {}
    images, filled = torch.empty(0), 0
    for image in read(left_out):
        if not filled:
            images = image.new_empty(count, *image.shape[1:])
        images[filled] = image[0]
        filled += 1
    return images[:filled], left_out
