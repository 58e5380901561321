"""Reads images from array files: the embedded digits, and files of the user.

The functions return `Splits` of uint8 images with 256 values. If a file has no test set, its images are split at random.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
from torch import Tensor

from ctdiff.data.images import Splits, as_images, split
from ctdiff.data.labels import as_labels, with_classes
from ctdiff.files import expanded

__all__ = ["array_file", "embedded_mnist"]

# The keys of MedMNIST and of Keras: training images and labels, test images and labels, and the keys that are not read.
_SPLIT_KEYS = (
    (("train_images", "train_labels"), ("test_images", "test_labels"), ("val_images", "val_labels")),
    (("x_train", "y_train"), ("x_test", "y_test"), ("x_val", "y_val")),
)
_WHOLE_KEYS = (("images", "labels"), ("arr_0", "arr_1"))
_SVHN_KEYS = ("X", "y")


def _read_arrays(path: Path | Traversable) -> dict[str, np.ndarray]:
    """Return a dictionary of the arrays of a .npz, or of the array of a .npy with the key `images`. Pickles are refused."""
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


def _read_svhn(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .mat file of SVHN: X (H, W, C, N), and y of 1 .. 10 with 10 for the digit 0."""
    try:
        from scipy.io import loadmat  # here, because nothing else needs scipy
    except ImportError as error:
        raise ModuleNotFoundError(f"{path} can only be read if scipy is installed: pip install 'ctdiff[matlab]'") from error
    with path.open("rb") as file:
        try:
            loaded = loadmat(file)
        except Exception as error:  # arbitrary bytes fail in arbitrary ways
            raise ValueError(
                f"{path} is truncated or not a MATLAB file of a version before 7.3 ({error}): {path.stat().st_size} bytes found"
            ) from error
    found = {key: value for key, value in loaded.items() if not key.startswith("__")}
    if not {"X"} <= set(found) <= set(_SVHN_KEYS):
        raise ValueError(f"{path} has the keys {sorted(found)}, expected the keys of SVHN: X, and optionally y")
    if (images := found["X"]).ndim != 4:
        raise ValueError(f"{path}: X has shape {images.shape}, expected (H, W, C, N)")
    arrays = {"images": np.moveaxis(images, 3, 0)}
    if "y" in found:
        y = found["y"].T if len(found["y"]) == 1 else found["y"]  # a vector is a row or a column
        ten_is_zero = y.size and y.dtype.kind in "iu" and y.min() >= 1 and y.max() <= 10
        arrays["labels"] = np.where(y == 10, 0, y) if ten_is_zero else y
    return arrays


def _set(arrays: Mapping[str, np.ndarray], keys: tuple[str, str], name: str) -> tuple[Tensor, np.ndarray | None]:
    """Return the images and the labels (None if missing) under two keys."""
    images = as_images(arrays[keys[0]], f"{name}, {keys[0]}")
    labels = arrays.get(keys[1])
    return images, None if labels is None else as_labels(labels, len(images), f"{name}, {keys[1]}")


def _splits_from_arrays(arrays: Mapping[str, np.ndarray], name: str, test_fraction: float, seed: int) -> Splits:
    keys = set(arrays)
    for train, test, unread in _SPLIT_KEYS:
        if {train[0], test[0]} <= keys <= {*train, *test, *unread}:
            return Splits(*with_classes(_set(arrays, train, name), _set(arrays, test, name)))
    for whole in _WHOLE_KEYS:
        if {whole[0]} <= keys <= set(whole):
            return split(with_classes(_set(arrays, whole, name))[0], test_fraction, seed)
    known = [", ".join(pair) for pair in _WHOLE_KEYS] + [", ".join((*train, *test)) for train, test, _ in _SPLIT_KEYS]
    raise ValueError(f"{name} has the keys {sorted(keys)}, expected {'; or '.join(known)} (the labels are optional)")


def embedded_mnist() -> Splits:
    """Read the 10,000 MNIST digits that are part of the package: 8,000 training and 2,000 test digits, (1, 28, 28).

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
        raise ValueError(f"{path} contains {found}, expected 8000 training and 2000 test images of shape (1, 28, 28)")
    return splits


def array_file(path: str | Path, test_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Read a .npy file of images, a .npz file of images and optional labels, or a .mat file of SVHN.

    A .npz has one of these sets of keys, with or without the labels:

    - images, labels; or arr_0, arr_1, which `np.savez` writes for arrays without names. The images are split at random.
    - train_images, train_labels, test_images, test_labels, as in MedMNIST; or x_train, y_train, x_test, y_test, as in Keras.
      A validation set (val_images and val_labels, or x_val and y_val) is not used.

    Images have shape (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1 or 3. If the second axis has 1 or 3 entries, it is the
    axis of the channels. Pixels are uint8, other integers in 0 .. 255, or booleans, which become 0 and 255. Labels have shape
    (N,) or (N, 1). They are integers or strings. Strings are names of classes, which are numbered in natural order.

    A .mat file has the keys X (H, W, C, N) and optionally y. The label 10 means the digit 0. The images are split at random.
    scipy must be installed.

    Arguments:
        path: the file.
        test_fraction: the share of the images that becomes the test set, if the file has none.
        seed: the seed of the random split.

    Raises:
        FileNotFoundError: the file does not exist.
        ModuleNotFoundError: the file is a .mat and scipy is not installed.
        ValueError: the file is damaged, or has other keys, shapes or dtypes.
    """
    path = expanded(path)
    if path.suffix.lower() not in (".npy", ".npz", ".mat"):
        raise ValueError(f"{path} has the suffix {path.suffix!r}, expected .npy, .npz or .mat")
    arrays = _read_svhn(path) if path.suffix.lower() == ".mat" else _read_arrays(path)
    return _splits_from_arrays(arrays, str(path), test_fraction, seed)
