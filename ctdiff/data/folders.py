"""Folders of images, with a subfolder for each class."""

from __future__ import annotations

from pathlib import Path

import torch

from ctdiff.data.images import ImageData, Splits, split
from ctdiff.data.photographs import IMAGE_SUFFIXES, check_channels, open_image, stacked

__all__ = ["image_folder"]


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
    check_channels(channels)
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
    images = stacked([(str(file), open_image(file, channels)) for file in files], image_size)
    labels = torch.tensor([classes.index(folder) for folder in folders if folder is not None]) if classes else None
    return split(ImageData(images, labels), test_fraction, seed)
