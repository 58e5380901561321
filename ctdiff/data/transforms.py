"""Transforms of images: resizing, quantising grey levels to states, and selecting a share of the images.

256 levels become S states by `floor(x S / 256)`. The bins have equal width. At S = 256 nothing changes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ctdiff.data.images import ImageData
from ctdiff.progress import tracked
from diffusion_core import stream_seed

__all__ = ["as_states", "fit_image", "fraction", "image_extent", "quantise", "resized"]

_CHUNK = 4096  # images at once, to limit the memory of integer and float copies


def quantise(data: ImageData, num_values: int) -> ImageData:
    """Quantise 256 grey levels to S states: `floor(x S / 256)`.

    Arguments:
        data: images with 256 values.
        num_values: S, 2 .. 256.

    Raises:
        ValueError: S is outside 2 .. 256, or the images are already quantised.
    """
    if not 2 <= num_values <= 256:
        raise ValueError(f"num_values = {num_values}, expected 2 .. 256")
    if data.num_values != 256:
        raise ValueError(f"the images have {data.num_values} values already, expected 256")
    if num_values == 256:
        return data
    states = [((part.int() * num_values) >> 8).to(torch.uint8) for part in data.images.split(_CHUNK)]
    return replace(data, images=torch.cat(states), num_values=num_values)


def as_states(data: ImageData, num_values: int) -> ImageData:
    """Use the values as states 0 .. S - 1, unchanged.

    Raises:
        ValueError: S is outside 2 .. 256, or a value is S or more.
    """
    return replace(data, num_values=num_values)


def image_extent(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of `image_size`. One number means a square.

    Raises:
        ValueError: a side is less than 1.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 1 or width < 1:
        raise ValueError(f"image_size = {image_size}, expected sides of at least 1")
    return height, width


def fit_image(images: Tensor, height: int, width: int) -> Tensor:
    """Crop images around their centre to the new aspect ratio and resize them: (N, C, h, w) -> (N, C, height, width)."""
    h, w = images.shape[-2:]
    if (h, w) == (height, width):
        return images
    from torchvision.transforms.v2 import functional  # slow to import; most runs do not resize

    cut_h, cut_w = min(h, max(1, round(w * height / width))), min(w, max(1, round(h * width / height)))
    top, left = (h - cut_h) // 2, (w - cut_w) // 2
    cut = images[..., top : top + cut_h, left : left + cut_w]
    parts = tracked(cut.split(_CHUNK), "resizing images")
    done: list[Tensor] = [functional.resize(part, [height, width], antialias=True) for part in parts]
    return torch.cat(done)


def resized(data: ImageData, image_size: int | tuple[int, int]) -> ImageData:
    """Resize images with antialiasing. Images with another aspect ratio are cropped around their centre first.

    Resize before `quantise`, because averages of 256 levels are finer than averages of S levels.

    Arguments:
        data: the images.
        image_size: the new side, or (height, width), in pixels.

    Raises:
        ValueError: a side is less than 1.
    """
    return replace(data, images=fit_image(data.images, *image_extent(image_size)))


def fraction(data: ImageData, share: float, seed: int = 0) -> ImageData:
    """Keep a share of the images, for studies with little data.

    Every class keeps the same share of its images, and at least one image. With the same seed, the images of a smaller share
    are a subset of the images of a larger share.

    Arguments:
        data: the images.
        share: the share to keep, in (0, 1].
        seed: the seed of the choice.

    Raises:
        ValueError: the share is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"fraction = {share}, expected a share in (0, 1]")
    if share == 1:
        return data
    labels = torch.zeros(len(data), dtype=torch.int64) if data.labels is None else data.labels
    kept = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(stream_seed(seed, label)))
        kept.append(members[order[: max(1, round(share * len(members)))]])
    return data.select(torch.cat(kept).sort().values)
