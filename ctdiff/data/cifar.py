"""CIFAR-10 in its binary form: 60,000 colour images of 32 x 32 pixels in 10 classes.

    label (1 byte) | red (1024 bytes, row by row) | green (1024) | blue (1024)     for each image

Five files of 10,000 such records are the training set, a sixth is the test set. The version for Python is a pickle, which can
execute code when it is loaded. It is not read here.

References:
    Learning multiple layers of features from tiny images (Krizhevsky, 2009)
    | https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ctdiff.data.images import ImageData, Splits
from ctdiff.files import expanded

__all__ = ["CIFAR10_ARCHIVE", "CIFAR10_FOLDER", "read_cifar10"]

CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_FOLDER = "cifar-10-batches-bin"  # the folder inside the archive

_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST = "test_batch.bin"
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32


def _records(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (N, 3, 32, 32) and the labels (N,) of one file."""
    if not content or len(content) % _RECORD:
        raise ValueError(f"{name} is truncated or too long: {len(content)} bytes found, expected a multiple of {_RECORD}")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        raise ValueError(f"{name} is not a file of CIFAR-10: it has the label {labels.max()}, expected 0 .. 9")
    return records[:, 1:].reshape(-1, *_SHAPE), labels


def _from_contents(contents: Mapping[str, bytes], source: Path) -> Splits:
    missing = [name for name in (*_TRAIN, _TEST) if name not in contents]
    if missing:
        raise FileNotFoundError(f"{source} has no {', '.join(missing)}: expected the binary version of CIFAR-10")

    def part(*names: str) -> ImageData:
        pairs = [_records(contents[name], f"{source}, {name}") for name in names]
        images, labels = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        return ImageData(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))

    return Splits(part(*_TRAIN), part(_TEST))


def _archived(path: Path) -> dict[str, bytes]:
    """Return a dictionary from names to contents of the files in a tar archive. Nothing is unpacked to the disk."""
    contents = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None and (name := Path(member.name).name) in (*_TRAIN, _TEST):
                    contents[name] = file.read()
            while archive.fileobj is not None and archive.fileobj.read(2**20):  # reads on to the checksum at the end
                continue
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise ValueError(f"{path} is not an intact tar archive ({reason}); {path.stat().st_size} bytes found") from error
    return contents


def read_cifar10(path: str | Path) -> Splits:
    """Read the six files data_batch_1.bin .. data_batch_5.bin and test_batch.bin, from a folder or a tar archive.

    Arguments:
        path: the folder, or the archive. The archive may be compressed.

    Raises:
        FileNotFoundError: the folder, the archive or one of the six files is missing.
        ValueError: a file is damaged.
    """
    path = expanded(path)
    if path.is_dir():
        files = {name: path / name for name in (*_TRAIN, _TEST)}
        return _from_contents({name: file.read_bytes() for name, file in files.items() if file.is_file()}, path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no folder or archive {path}")
    return _from_contents(_archived(path), path)
