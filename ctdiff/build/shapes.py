"""The shape of the images that a configuration is about."""

from __future__ import annotations

from ml_collections import ConfigDict

__all__ = ["event_shape", "image_size"]


def image_size(config: ConfigDict) -> tuple[int, int]:
    """Height and width of `config.data`; one number is a square."""
    sides = config.image_size
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ValueError(f"config.data.image_size = {sides}, expected one or two positive numbers")
    return sides[0], sides[-1]


def event_shape(config: ConfigDict) -> tuple[int, int, int]:
    """The shape of one image (C, H, W)."""
    return (config.data.channels, *image_size(config.data))
