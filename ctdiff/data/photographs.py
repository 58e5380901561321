"""One image file or PIL image as pixels: decoded, converted to grey or colour, brought to one size."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ctdiff.data.images import as_images
from ctdiff.data.transforms import fit_image, image_extent

__all__ = ["IMAGE_SUFFIXES", "check_channels", "open_image", "stacked", "to_array"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


def to_array(image: Image.Image, channels: int, name: str) -> np.ndarray:
    """Eight-bit grey (H, W) or RGB (H, W, 3); transparency is dropped."""
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
        raise ValueError(f"{name} has mode {image.mode!r} (more than 8 bits a channel, say), expected 8-bit grey or colour")
    return np.array(image.convert("L" if channels == 1 else "RGB"))


def check_channels(channels: int) -> None:
    """Refuse a number of channels that is neither grey nor colour.

    Raises:
        ValueError: it is not 1 or 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels = {channels}, expected 1 (grey) or 3 (RGB)")


def open_image(file: Path, channels: int) -> Tensor:
    """One image, (1, C, H, W) uint8."""
    try:
        with Image.open(file) as image:
            return as_images(to_array(image, channels, str(file))[None], str(file))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{file} is damaged or no image ({error}); {file.stat().st_size} bytes found") from error


def stacked(images: Iterable[tuple[str, Tensor]], image_size: int | tuple[int, int] | None) -> Tensor:
    """Images (1, C, H, W) of one size, or brought to one size: (N, C, H, W)."""
    extent = None if image_size is None else image_extent(image_size)
    fitted_images: list[Tensor] = []
    for name, image in images:
        fitted = image if extent is None else fit_image(image, *extent)
        if fitted_images and fitted.shape != fitted_images[0].shape:
            raise ValueError(
                f"{name} has shape {tuple(image.shape[1:])}, expected {tuple(fitted_images[0].shape[1:])} as the first one: "
                "give image_size to bring all to one size"
            )
        fitted_images.append(fitted)
    return torch.cat(fitted_images)
