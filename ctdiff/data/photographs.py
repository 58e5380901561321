"""One image file or PIL image as pixels: upright, on a ground, with 8 bits, in grey or colour, brought to one size.

    stored pixels -> 8 bits a channel -> over the ground -> grey or RGB -> upright -> cut and resized

Upright is what the EXIF orientation says; a camera stores a portrait as a landscape and a note. Of
several frames or pages the first is taken.
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
"""Formats that Pillow knows by name, but does not decode itself; for EPS it runs another program, for a film nothing."""

_METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of each EXIF orientation upright. `ImageOps.exif_transpose` has the same table; it then rewrites the
EXIF, which fails for tags that some cameras write."""

_THROUGH = {"La": "LA", "LAB": "RGB"}
"""Modes that Pillow converts to some others only, and one of these."""

_OVERSAMPLED = 4  # a JPEG is decoded at no less than so many times the size that it is fitted to


class DamagedImageError(ValueError):
    """An image that cannot be read; the message names it."""


@contextmanager
def _named(name: str, found: str = "") -> Iterator[None]:
    """While this context lasts, whatever decoding raises is one error with the image's name."""
    try:
        yield
    except DamagedImageError:
        raise
    except Exception as error:  # arbitrary bytes fail in arbitrary ways
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedImageError(f"{name} is damaged or no image ({why}){found}") from error


@cache
def _formats() -> dict[str, tuple[str, ...]]:
    """The formats that the installed Pillow decodes, with their suffixes."""
    suffixes: dict[str, list[str]] = {}
    for suffix, kind in Image.registered_extensions().items():  # loads every plugin
        suffixes.setdefault(kind, []).append(suffix)
    return {kind: tuple(suffixes.get(kind, ())) for kind in Image.OPEN if kind not in _FOREIGN}


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the files that the installed Pillow decodes."""
    return frozenset(suffix for suffixes in _formats().values() for suffix in suffixes)


def check_channels(channels: int) -> None:
    """Refuse a number of channels that is neither grey nor colour.

    Raises:
        ValueError: it is not 1 or 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels = {channels}, expected 1 (grey) or 3 (RGB)")


def check_ground(ground: int) -> None:
    """Refuse a ground that is no grey level.

    Raises:
        ValueError: it is not in 0 .. 255.
    """
    if not 0 <= ground <= 255:
        raise ValueError(f"ground = {ground}, expected a grey level 0 .. 255")


def is_grey(image: Image.Image) -> bool:
    """Whether an image has no colour, by its mode."""
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")


def to_array(image: Image.Image, channels: int, name: str, ground: int = 255) -> np.ndarray:
    """A PIL image as 8-bit grey (H, W) or RGB (H, W, 3), upright.

    What is transparent shows the ground. 16 bits become 8 by `value >> 8`, floats in [0, 1] by `round(255 value)`.

    Arguments:
        image: the image.
        channels: 1 (grey) or 3 (RGB).
        name: what to call it in an error.
        ground: the grey level behind it, 0 .. 255.

    Raises:
        DamagedImageError: it cannot be decoded, or its values have no known range.
    """
    with _named(name):
        return _pixels(image, channels, name, ground)


def _pixels(image: Image.Image, channels: int, name: str, ground: int) -> np.ndarray:
    _load(image)  # before its orientation is asked for: a TIFF turns itself when it is loaded
    method = _METHODS.get(_orientation(image))
    flat = _over_ground(_eight_bits(image, name), ground).convert("L" if channels == 1 else "RGB")
    return np.array(flat if method is None else flat.transpose(method))


def _load(image: Image.Image) -> None:
    """Decode without mapping the file into memory: so Pillow garbles TIFFs without compression that lie on their side."""
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
    except Exception:  # arbitrary bytes fail in arbitrary ways; the pixels are whole, and are shown as stored elsewhere too
        return 1


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        values = np.asarray(image)
        if not ((values >= 0) & (values <= 1)).all():
            raise DamagedImageError(f"{name} holds floats {values.min():g} .. {values.max():g}, expected 0 .. 1")
        return Image.fromarray((255 * values).round().astype(np.uint8))
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_sixteen_bits(image)
    if image.mode == "I":
        raise DamagedImageError(f"{name} has mode 'I' (integers of 32 bits), expected at most 16 bits a channel")
    return image.convert(_THROUGH[image.mode]) if image.mode in _THROUGH else image


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """The upper 8 bits; what a PNG declares to be the transparent value becomes transparent."""
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # 0 is white, which Pillow minds with 8 bits only
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
    if isinstance(colour, tuple) and max(colour) > 255:  # of 16 bits, while the pixels have been cut to 8
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    above = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, (ground, ground, ground, 255)), above)


def open_image(file: Path, channels: int, ground: int = 255, extent: tuple[int, int] | None = None) -> Tensor:
    """One image file, (1, C, H, W) uint8.

    Arguments:
        file: the file.
        channels: as in `to_array`.
        ground: as in `to_array`.
        extent: the (height, width) that the image will be fitted to. A JPEG of much more than that is decoded at a half, a
            quarter or an eighth of its size: still at least four times the extent, at a fraction of the work and the memory.

    Raises:
        DamagedImageError: it cannot be opened, is damaged or no image.
    """
    size = os.path.getsize(file) if os.path.exists(file) else 0
    with _named(str(file), f"; {size} bytes found"), Image.open(file, formats=tuple(_formats())) as image:
        if extent is not None:
            side = _OVERSAMPLED * max(extent)  # a square: whichever way up it is
            image.draft(None, (side, side))
        return as_images(_pixels(image, channels, str(file), ground)[None], str(file))


def fitted(images: Iterable[tuple[str, Tensor]], image_size: int | tuple[int, int] | None) -> Iterator[Tensor]:
    """Images (1, C, H, W) of one size, or brought to one size, one after the other.

    Raises:
        ValueError: an image has another size than the first one, and no image_size was given.
    """
    extent = None if image_size is None else image_extent(image_size)
    first: tuple[str, tuple[int, ...]] | None = None
    for name, image in images:
        result = image if extent is None else fit_image(image, *extent)
        shape = tuple(result.shape[1:])
        first = first or (name, shape)
        if shape != first[1]:
            raise ValueError(
                f"{name} has shape {shape}, expected {first[1]} as {first[0]}: give image_size to bring all to one size"
            )
        yield result


def stacked(images: Iterable[tuple[str, Tensor]], image_size: int | tuple[int, int] | None) -> Tensor:
    """The images of `fitted` as one tensor (N, C, H, W)."""
    return torch.cat(list(fitted(images, image_size)))
