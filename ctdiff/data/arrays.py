"""NumPy files of images: the embedded digits, and a user's own.

Every source returns `Splits` of uint8 images with 256 values. One that has no test set of its
own is split at random, alike for the same seed.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np

from ctdiff.data.images import ImageData, Splits, as_images, as_labels, split

__all__ = ["array_file", "embedded_mnist"]

_FOUR_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def _read_arrays(path: Path | Traversable) -> dict[str, np.ndarray]:
    """The arrays of a .npz by name, or the one of a .npy as `images`; never a pickle."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return dict(loaded) if isinstance(loaded, Mapping) else {"images": loaded}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError) as error:
        with path.open("rb") as file:
            size = len(file.read())
        raise ValueError(
            f"{path} is truncated or not a NumPy file of plain numbers ({error}): "
            f"{size} bytes found, expected an intact .npy or .npz"
        ) from error


def _from_arrays(arrays: Mapping[str, np.ndarray], name: str, suffix: str = "") -> ImageData:
    """The set under the keys `{suffix}images` and, if there, `{suffix}labels`."""
    images = as_images(arrays[f"{suffix}images"], f"{name}, {suffix}images")
    if (labels := arrays.get(f"{suffix}labels")) is None:
        return ImageData(images)
    if labels.shape != (len(images),):
        raise ValueError(f"{name}: {suffix}labels have shape {labels.shape}, expected ({len(images)},): one an image")
    return ImageData(images, as_labels(labels, name))


def _splits_from_arrays(arrays: Mapping[str, np.ndarray], name: str, test_fraction: float, seed: int) -> Splits:
    keys = set(arrays)
    if {"train_images", "test_images"} <= keys <= set(_FOUR_KEYS):
        return Splits(_from_arrays(arrays, name, "train_"), _from_arrays(arrays, name, "test_"))
    if {"images"} <= keys <= {"images", "labels"}:
        return split(_from_arrays(arrays, name), test_fraction, seed)
    raise ValueError(
        f"{name} has the keys {sorted(keys)}, expected images[, labels] or {', '.join(_FOUR_KEYS)} (the labels may be absent)"
    )


def embedded_mnist() -> Splits:
    """The 10,000 genuine MNIST digits that ship with the package: 8,000 to train, 2,000 to test, (1, 28, 28).

    MNIST is by Yann LeCun, Corinna Cortes and Christopher J. C. Burges, under CC BY-SA 3.0.

    References:
        Gradient-based learning applied to document recognition (LeCun et al., 1998) | https://doi.org/10.1109/5.726791

    Raises:
        FileNotFoundError: the file is missing from the installation.
        ValueError: the file is damaged.
    """
    path = resources.files("ctdiff.data") / "mnist-10k.npz"
    splits = _splits_from_arrays(_read_arrays(path), str(path), 0.2, 0)
    found = (len(splits.train), len(splits.test), splits.train.shape)
    if found != (8000, 2000, (1, 28, 28)):
        raise ValueError(f"{path} holds {found}, expected 8000 training and 2000 test images of shape (1, 28, 28)")
    return splits


def array_file(path: str | Path, test_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Read a .npy file of images, or a .npz file of images and perhaps labels.

    A .npz has the keys images[, labels], which are split at random, or train_images[,
    train_labels], test_images[, test_labels]. Images are uint8 of shape (N, H, W),
    (N, C, H, W) or (N, H, W, C) with C = 1 or 3; the second axis is the channels if it can be.

    Arguments:
        path: the file.
        test_fraction: the share that becomes the test set, where the file has none.
        seed: keys that choice.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or its keys, shapes or dtypes are others.
    """
    path = Path(path)
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"{path} has the suffix {path.suffix!r}, expected .npy or .npz")
    return _splits_from_arrays(_read_arrays(path), str(path), test_fraction, seed)
