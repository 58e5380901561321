"""Converts an image file or a PIL image to pixels: upright, without transparency, 8 bits, grey or RGB, of one size.

    stored pixels -> 8 bits a channel -> no transparency -> grey or RGB -> upright -> cropped and resized

Many cameras store upright photographs on their side. The EXIF orientation tells how to turn them. If a file has several frames
or pages, the first one is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile
from torch import Tensor

from ctdiff.data.images import as_images
from ctdiff.data.transforms import fit_image, image_extent

__all__ = [
    "DamagedImageError",
    "check_channels",
    "check_ground",
    "fitted",
    "image_suffixes",
    "is_grey",
    "open_image",
    "stacked",
    "to_array",
]

_FOREIGN = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow knows, but does not decode itself. For EPS it starts another program."""

_METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The method that turns an image of each EXIF orientation upright. `ImageOps.exif_transpose` has the same table, but it also
rewrites the EXIF data, which fails for tags of some cameras."""

_THROUGH = {"La": "LA", "LAB": "RGB"}
"""Modes that Pillow cannot convert directly, each with a mode that it can convert them to."""

_OVERSAMPLED = 4  # a JPEG is decoded at no less than this multiple of its final size


class DamagedImageError(ValueError):
    """An image that cannot be read. The message names the image."""


@contextmanager
def _named(name: str, found: str = "") -> Iterator[None]:
    """Turn every error of this context into a DamagedImageError with the name of the image."""
    try:
        yield
    except DamagedImageError:
        raise
    except Exception as error:  # arbitrary bytes fail in arbitrary ways
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedImageError(f"{name} is damaged or not an image ({why}){found}") from error


@cache
def _formats() -> dict[str, tuple[str, ...]]:
    """Return the formats that the installed Pillow decodes, with their suffixes."""
    suffixes: dict[str, list[str]] = {}
    for suffix, kind in Image.registered_extensions().items():  # loads every plugin
        suffixes.setdefault(kind, []).append(suffix)
    return {kind: tuple(suffixes.get(kind, ())) for kind in Image.OPEN if kind not in _FOREIGN}


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the files that the installed Pillow decodes."""
    return frozenset(suffix for suffixes in _formats().values() for suffix in suffixes)


def check_channels(channels: int) -> None:
    """Check a number of channels.

    Raises:
        ValueError: the number is not 1 (grey) or 3 (RGB).
    """
    if channels not in (1, 3):
        raise ValueError(f"channels = {channels}, expected 1 (grey) or 3 (RGB)")


def check_ground(ground: int) -> None:
    """Check the grey level behind transparent pixels.

    Raises:
        ValueError: the level is not in 0 .. 255.
    """
    if not 0 <= ground <= 255:
        raise ValueError(f"ground = {ground}, expected a grey level 0 .. 255")


def is_grey(image: Image.Image) -> bool:
    """Return whether an image has a grey mode."""
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")


def to_array(image: Image.Image, channels: int, name: str, ground: int = 255) -> np.ndarray:
    """Return a PIL image as an upright uint8 array, grey (H, W) or RGB (H, W, 3).

    Transparent pixels show the grey level `ground`. A value of 16 bits becomes `value >> 8`. A float in [0, 1] becomes
    `round(255 value)`.

    Arguments:
        image: the image.
        channels: 1 (grey) or 3 (RGB).
        name: the name of the image, for errors.
        ground: the grey level behind transparent pixels, 0 .. 255.

    Raises:
        DamagedImageError: the image cannot be decoded, or its values have an unknown range.
    """
    with _named(name):
        return _pixels(image, channels, name, ground)


def _pixels(image: Image.Image, channels: int, name: str, ground: int) -> np.ndarray:
    _load(image)  # before the orientation is read: Pillow turns a TIFF when it loads it
    method = _METHODS.get(_orientation(image))
    flat = _over_ground(_eight_bits(image, name), ground).convert("L" if channels == 1 else "RGB")
    return np.array(flat if method is None else flat.transpose(method))


def _load(image: Image.Image) -> None:
    """Decode an image without mapping its file into memory. With a mapping, Pillow garbles uncompressed TIFFs on their side."""
    if not isinstance(image, ImageFile.ImageFile):
        image.load()
        return
    name, image.filename = image.filename, ""  # without a name it cannot be mapped
    try:
        image.load()
    finally:
        image.filename = name


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # arbitrary bytes fail in arbitrary ways; the pixels can still be used
        return 1


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        values = np.asarray(image)
        if not ((values >= 0) & (values <= 1)).all():
            raise DamagedImageError(f"{name} has floats {values.min():g} .. {values.max():g}, expected 0 .. 1")
        return Image.fromarray((255 * values).round().astype(np.uint8))
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_sixteen_bits(image)
    if image.mode == "I":
        raise DamagedImageError(f"{name} has mode 'I' (integers of 32 bits), expected at most 16 bits a channel")
    return image.convert(_THROUGH[image.mode]) if image.mode in _THROUGH else image


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Return the upper 8 bits of each value. The transparent value of a PNG becomes transparent."""
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # 0 is white, which Pillow ignores with 16 bits
        values = (1 << bits) - 1 - values
    grey = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _over_ground(image: Image.Image, ground: int) -> Image.Image:
    palette = image.palette.mode if image.mode == "P" and image.palette is not None else ""
    if "transparency" not in image.info and not (image.mode + palette).endswith(("A", "a")):
        return image
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:  # a value of 16 bits, while the pixels have 8
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    above = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, (ground, ground, ground, 255)), above)


def open_image(file: Path, channels: int, ground: int = 255, extent: tuple[int, int] | None = None) -> Tensor:
    """Read one image file as (1, C, H, W) uint8.

    Arguments:
        file: the file.
        channels: 1 (grey) or 3 (RGB).
        ground: the grey level behind transparent pixels, 0 .. 255.
        extent: the (height, width) that the image will be resized to. A much larger JPEG is decoded at a half, a quarter or an
            eighth of its size, but at least at four times the extent. This saves time and memory.

    Raises:
        DamagedImageError: the file cannot be opened, is damaged, or is not an image.
    """
    size = os.path.getsize(file) if os.path.exists(file) else 0
    with _named(str(file), f"; {size} bytes found"), Image.open(file, formats=tuple(_formats())) as image:
        if extent is not None:
            side = _OVERSAMPLED * max(extent)  # a square, because the image may be turned by 90 degrees
            image.draft(None, (side, side))
        return as_images(_pixels(image, channels, str(file), ground)[None], str(file))


def fitted(images: Iterable[tuple[str, Tensor]], image_size: int | tuple[int, int] | None) -> Iterator[Tensor]:
    """Yield images (1, C, H, W) of one size. They are resized if image_size is given.

    Raises:
        ValueError: image_size is None, and an image does not have the size of the first one.
    """
    extent = None if image_size is None else image_extent(image_size)
    first: tuple[str, tuple[int, ...]] | None = None
    for name, image in images:
        result = image if extent is None else fit_image(image, *extent)
        shape = tuple(result.shape[1:])
        first = first or (name, shape)
        if shape != first[1]:
            raise ValueError(
                f"{name} has shape {shape}, expected {first[1]} as {first[0]}: give image_size to resize all images"
            )
        yield result


def stacked(images: Iterable[tuple[str, Tensor]], image_size: int | tuple[int, int] | None) -> Tensor:
    """Return the images of `fitted` as one tensor (N, C, H, W)."""
    return torch.cat(list(fitted(images, image_size)))
