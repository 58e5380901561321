"""Where images come from: the embedded digits, and a user's own arrays, folders and data sets.

Every source returns `Splits` of uint8 images with 256 values. One that has no test set of its
own is split at random, alike for the same seed. (IDX files are in `idx`, torchvision's sets in
`download`.)
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ctdiff.data.images import ImageData, Splits, as_images, as_labels, split
from ctdiff.data.transforms import fit_image, image_extent

__all__ = ["IMAGE_SUFFIXES", "array_file", "embedded_mnist", "from_dataset", "image_folder"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

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


def _to_array(image: Image.Image, channels: int, name: str) -> np.ndarray:
    """Eight-bit grey (H, W) or RGB (H, W, 3); transparency is dropped."""
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
        raise ValueError(f"{name} has mode {image.mode!r} (more than 8 bits a channel, say), expected 8-bit grey or colour")
    return np.array(image.convert("L" if channels == 1 else "RGB"))


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"channels = {channels}, expected 1 (grey) or 3 (RGB)")


def image_folder(
    path: str | Path,
    channels: int = 1,
    image_size: int | tuple[int, int] | None = None,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Read all images of a folder; where they are in subfolders, each is a class, in alphabetical order.

    Arguments:
        path: the folder.
        channels: 1 for grey, 3 for RGB; every image is converted.
        image_size: the side, or (height, width), that every image is resized to (the centre of
            another aspect ratio is kept); None if they have one size already.
        test_fraction: the share that becomes the test set.
        seed: keys that choice.

    Raises:
        FileNotFoundError: there is no such folder, or it has no image.
        ValueError: an image is damaged, or sizes differ and no image_size was given.
    """
    _check_channels(channels)
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise FileNotFoundError(f"{root} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    folders = [file.relative_to(root).parts[0] if file.parent != root else None for file in files]
    classes = sorted({folder for folder in folders if folder is not None})
    if classes and None in folders:
        loose = files[folders.index(None)]
        raise ValueError(f"{loose} is in no class folder, but {classes[0]!r} is one: expected all or none in subfolders")
    images = _stack([(str(file), _open(file, channels)) for file in files], image_size)
    labels = torch.tensor([classes.index(folder) for folder in folders if folder is not None]) if classes else None
    return split(ImageData(images, labels), test_fraction, seed)


def _open(file: Path, channels: int) -> Tensor:
    """One image, (1, C, H, W) uint8."""
    try:
        with Image.open(file) as image:
            return as_images(_to_array(image, channels, str(file))[None], str(file))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{file} is damaged or no image ({error}); {file.stat().st_size} bytes found") from error


def _stack(images: Iterable[tuple[str, Tensor]], image_size: int | tuple[int, int] | None) -> Tensor:
    """Images (1, C, H, W) of one size, or brought to one size: (N, C, H, W)."""
    extent = None if image_size is None else image_extent(image_size)
    stacked: list[Tensor] = []
    for name, image in images:
        fitted = image if extent is None else fit_image(image, *extent)
        if stacked and fitted.shape != stacked[0].shape:
            raise ValueError(
                f"{name} has shape {tuple(image.shape[1:])}, expected {tuple(stacked[0].shape[1:])} as the first one: "
                "give image_size to bring all to one size"
            )
        stacked.append(fitted)
    return torch.cat(stacked)


def _item(item: Any, channels: int | None, name: str) -> tuple[Tensor, int | None]:
    """An image or an (image, label) of a data set: (1, C, H, W) uint8, and the label."""
    image, label = item if isinstance(item, (tuple, list)) else (item, None)
    if isinstance(image, Image.Image):
        grey = image.mode in ("1", "L", "LA") if channels is None else channels == 1
        image = _to_array(image, 1 if grey else 3, name)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise ValueError(f"{name} is a {type(image).__name__}, expected a PIL image, a tensor or an array")
    return as_images(image[None], name), None if label is None else int(label)


def _from_dataset(dataset: Any, name: str, channels: int | None, image_size: int | tuple[int, int] | None) -> ImageData:
    items = [_item(dataset[i], channels, f"{name}[{i}]") for i in range(len(dataset))]
    if not items:
        raise ValueError(f"{name} is empty, expected at least one image")
    labels = [label for _, label in items if label is not None]
    if labels and len(labels) < len(items):
        raise ValueError(f"{name}: {len(labels)} of {len(items)} items have a label, expected all or none")
    images = _stack([(f"{name}[{i}]", image) for i, (image, _) in enumerate(items)], image_size)
    return ImageData(images, torch.tensor(labels) if labels else None)


def from_dataset(
    dataset: Any,
    test: Any = None,
    channels: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Read any map-style torch `Dataset` into memory.

    An item is an image or (image, label); an image is a PIL image, or a uint8 tensor or array
    of shape (H, W), (C, H, W) or (H, W, C) with C = 1 or 3; a label is an integer.

    Arguments:
        dataset: the training set, with `len` and `[]`.
        test: the test set; None splits `dataset`.
        channels: convert PIL images to 1 (grey) or 3 (RGB) channels; None keeps grey grey.
        image_size: as in `image_folder`.
        test_fraction: the share that becomes the test set, where none is given.
        seed: keys that choice.

    Raises:
        ValueError: an item is something else, float images say, or sizes differ.
    """
    if channels is not None:
        _check_channels(channels)
    train = _from_dataset(dataset, "dataset", channels, image_size)
    return (
        split(train, test_fraction, seed) if test is None else Splits(train, _from_dataset(test, "test", channels, image_size))
    )
