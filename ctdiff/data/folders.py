"""Reads folders of images, with an optional subfolder for each class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ctdiff.data.image_cache import LeftOut, cached_images
from ctdiff.data.images import ImageData, Splits
from ctdiff.data.listing import ListedImage, list_images
from ctdiff.data.photographs import DamagedImageError, check_channels, check_ground, fitted, open_image
from ctdiff.data.transforms import image_extent
from ctdiff.files import expanded
from ctdiff.progress import tracked

__all__ = ["image_folder"]

_RULES = 1
"""The version of the conversion to pixels. It changes when the same files give other pixels than before."""


def _opened(
    files: Sequence[Path], channels: int, ground: int, extent: tuple[int, int] | None, left_out: LeftOut | None
) -> Iterator[tuple[str, Tensor]]:
    """Decode files one after the other. Damaged files are added to `left_out`; if it is None, they raise an error."""
    for i, file in enumerate(tracked(files, "reading images")):
        try:
            image = open_image(file, channels, ground, extent)
        except DamagedImageError as error:
            if left_out is None:
                raise
            left_out[i] = str(error)
        else:
            yield str(file), image
    if left_out is not None and len(left_out) == len(files):
        raise ValueError(f"none of {len(files)} images can be read. The first error is: {left_out[0]}")


def image_folder(
    path: str | Path,
    channels: int = 1,
    image_size: int | tuple[int, int] | None = None,
    test_fraction: float = 0.1,
    seed: int = 0,
    ground: int = 255,
    skip_damaged: bool = False,
) -> Splits:
    """Read all images of a folder. If the images are in subfolders, each subfolder is a class.

    Classes are numbered in natural order: "2" comes before "10". If the only subfolders are `train` and `test` (or `val`), they
    are the training set and the test set. Hidden files are left out, and links are followed.

    Images are turned upright by their EXIF orientation. Transparent pixels show the grey level `ground`. A value of 16 bits
    becomes `value >> 8`, and a float in [0, 1] becomes `round(255 value)`.

    Only one original image is in memory at a time. The converted images are saved in `$XDG_CACHE_HOME/ctdiff/images` (or in
    `~/.cache`) and mapped into memory. The next call uses these files if no original has changed.

    Arguments:
        path: the folder.
        channels: 1 for grey, 3 for RGB; every image is converted.
        image_size: the side, or (height, width), of the resized images. An image with another aspect ratio is cropped
            around its centre first. None if all images already have the same size.
        test_fraction: the share of the images that becomes the test set, if the folder has none.
        seed: the seed of the random split.
        ground: the grey level behind transparent pixels, 0 .. 255: 255 is white.
        skip_damaged: whether to leave out images that cannot be read, with a warning.

    Raises:
        FileNotFoundError: the folder does not exist, or has no image.
        ValueError: an image is damaged, or sizes differ and no image_size was given. Or some images are in class folders and
            some are not, or the two sets have different classes.

    Warns:
        UserWarning: damaged images are left out, or the converted images cannot be saved for the next call.
    """
    check_channels(channels)
    check_ground(ground)
    extent = None if image_size is None else image_extent(image_size)
    root = expanded(path)
    listing = list_images(root, test_fraction, seed)
    listed = (*listing.train, *listing.test)
    files = [root / each.name for each in listed]

    def read(left_out: LeftOut) -> Iterator[Tensor]:
        return fitted(_opened(files, channels, ground, extent, left_out if skip_damaged else None), extent)

    what = {
        "rules": _RULES,
        "folder": os.path.realpath(root),
        "files": [(each.name, each.size, each.mtime_ns) for each in listed],
        **{"channels": channels, "size": extent, "ground": ground, "skip_damaged": skip_damaged},
    }
    images, left_out = cached_images(what, len(listed), read)
    if left_out:
        _warn(root, len(listed), left_out)
    kept = [each for i, each in enumerate(listed) if i not in left_out]
    count = sum(i not in left_out for i in range(len(listing.train)))

    def part(images: Tensor, of: Sequence[ListedImage], name: str) -> ImageData:
        if not of:
            raise ValueError(f"every image of the {name} set of {root} is damaged")
        labels = [each.label for each in of if each.label is not None]
        return ImageData(images, torch.tensor(labels) if labels else None, class_names=listing.class_names)

    return Splits(part(images[:count], kept[:count], "training"), part(images[count:], kept[count:], "test"))


def _warn(root: Path, count: int, left_out: LeftOut) -> None:
    named, more = "; ".join(list(left_out.values())[:3]), len(left_out) - 3
    rest = f"; and {more} more" if more > 0 else ""
    warnings.warn(f"{len(left_out)} of {count} images of {root} are left out: {named}{rest}", stacklevel=3)
