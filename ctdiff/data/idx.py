"""Reads IDX files, the format of MNIST and of similar data sets.

    0x00 0x00 type rank | rank sizes, 32 bits each, big-endian | the values, last axis fastest

The type of unsigned bytes is 0x08. A data set is a folder of four files, each gzipped or not, with the standard names or their
common variants.

References:
    The MNIST database of handwritten digits (LeCun et al., 1998) | http://yann.lecun.com/exdb/mnist
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from ctdiff.data.images import ImageData, Splits, as_images
from ctdiff.files import expanded

__all__ = ["IDX_FILES", "find_idx", "idx_folder", "read_idx"]

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def _content(path: Path) -> bytes:
    """Return the content of a file, decompressed if it is gzipped. A truncated file gives a part of its content."""
    raw = path.read_bytes()
    gzipped = raw.startswith(b"\x1f\x8b") or path.suffix.lower() == ".gz"
    if raw.startswith(b"\0\0") or not gzipped:  # some browsers decompress a download and keep its name
        return raw
    content, rest = bytearray(), raw
    try:
        while rest:  # a gzip file may have several members
            member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            content += member.decompress(rest)
            rest = member.unused_data
    except zlib.error as error:
        raise ValueError(f"{path} is not an intact gzip file ({error}); {len(raw)} bytes found") from error
    return bytes(content)


def read_idx(path: str | Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, gzipped or not.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated or too long, has values of another type, or is not an IDX file.
    """
    path = expanded(path)
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0" or not 1 <= content[3] <= 4:
        raise ValueError(f"{path} is not an IDX file: it begins with {content[:4].hex(' ')!r}, expected '00 00 08 0n'")
    if content[2] != 0x08:
        raise ValueError(f"{path} has values of IDX type 0x{content[2]:02x}, expected 0x08 (unsigned bytes)")
    rank = content[3]
    header = 4 + 4 * rank
    if len(content) < header:
        raise ValueError(f"{path} is truncated: {len(content)} bytes found, expected a header of {header}")
    shape = struct.unpack(f">{rank}I", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "too long"
        raise ValueError(f"{path} is {state}: {len(content)} bytes found, expected {expected} for shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def find_idx(folder: str | Path) -> tuple[dict[str, Path], list[str]]:
    """Find the four files of a data set. Return the paths by standard name, and the missing standard names.

    `train-images.idx3-ubyte` and `train-images-idx3` are other names of `train-images-idx3-ubyte`.
    """
    found, missing = {}, []
    for name in (name for pair in IDX_FILES.values() for name in pair):
        stem, rank, _ = name.rsplit("-", 2)
        names = [f"{stem}{mark}{rank}{end}" for mark in "-." for end in ("-ubyte", ".ubyte", "")]
        candidates = (expanded(folder) / f"{other}{suffix}" for suffix in ("", ".gz") for other in names)
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            missing.append(name)
        else:
            found[name] = path
    return found, missing


def idx_folder(path: str | Path) -> Splits:
    """Read a folder of four IDX files with the names of the MNIST files. They may be gzipped.

    A dot in the names (`.idx3-ubyte`) is allowed, and `-ubyte` may be missing. The Debian package dataset-fashion-mnist
    installs such a folder: /usr/share/datasets/fashion-mnist.

    Raises:
        FileNotFoundError: the folder or one of the four files is missing.
        ValueError: a file is damaged, or there is not one label for each image.
    """
    path = expanded(path)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    found, missing = find_idx(path)
    if missing:
        raise FileNotFoundError(f"{path} has no {', '.join(missing)} (gzipped or not)")

    def part(images_name: str, labels_name: str) -> ImageData:
        images, labels = read_idx(found[images_name]), read_idx(found[labels_name])
        if images.ndim != 3:
            raise ValueError(f"{found[images_name]} has shape {images.shape}, expected (N, H, W)")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{found[labels_name]} has shape {labels.shape}, expected {images.shape[:1]}: a label an image")
        return ImageData(as_images(images.copy(), str(found[images_name])), torch.from_numpy(labels.astype(np.int64)))

    return Splits(part(*IDX_FILES["train"]), part(*IDX_FILES["test"]))
