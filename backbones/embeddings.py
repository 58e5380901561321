"""Embeddings of times, labels and images.

A real number c is embedded as sinusoids. Their wavelengths form a geometric sequence:

    angle_i = scale c 10000^{-i / half},   i = 0 .. half - 1,     embedding = (cos, sin)

With c in [0, 1], a scale of 1000 gives the range of the original integer timesteps. Angles are computed in float32
or float64, so a double-precision time keeps its digits until the cosine.

A transformer cuts an image into patches and needs the position of each patch. A position is a learned vector, or a
vector of sinusoids. The first half of this vector has the sinusoids of the column, the second half those of the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from backbones.base import one_or_each
from diffusion_core.ranges import Count, Finite, Positive, Range, check_arguments

__all__ = [
    "ClassEmbedding",
    "ImageSize",
    "SinusoidalEmbedding",
    "TimeEmbedding",
    "from_windows",
    "image_size",
    "patchify",
    "sincos_positions",
    "to_windows",
    "unpatchify",
]

ImageSize = Annotated[int | Sequence[int], Range(least=1)]
"""The size of images in pixels: one number for both sides, or (height, width)."""

_MAX_PERIOD = 10000.0  # the ratio of the longest wavelength to the shortest


class SinusoidalEmbedding(nn.Module):
    """A sinusoidal embedding of one real number per example: (B,) -> (B, features).

    References:
        Attention is all you need (Vaswani et al., 2017) | https://arxiv.org/abs/1706.03762

    Arguments:
        features: the number of sinusoids, cosines first. If it is odd, the last feature is 0.
        scale: the factor that the number is multiplied by; 1000 suits numbers in [0, 1].

    Raises:
        ValueError: features is not an integer of at least 2.
    """

    def __init__(self, features: Annotated[int, Range(least=2)], scale: Finite = 1000.0) -> None:
        check_arguments(SinusoidalEmbedding, locals())
        super().__init__()
        self.features = features
        self.scale = scale

    def forward(self, c: Tensor) -> Tensor:
        """Return the sinusoids of c (B,), in float32 or in the dtype of c if that is wider."""
        half = self.features // 2
        dtype = torch.promote_types(c.dtype, torch.float32)
        place = torch.arange(half, dtype=dtype, device=c.device) / half
        angle = (self.scale * c.to(dtype))[:, None] * torch.exp(-math.log(_MAX_PERIOD) * place)  # (B, half)
        embedding = torch.cat([angle.cos(), angle.sin()], dim=1)
        return F.pad(embedding, (0, self.features - 2 * half))


class TimeEmbedding(nn.Module):
    """A sinusoidal embedding followed by a two-layer MLP: (B,) -> (B, dim).

    Arguments:
        features: the number of sinusoids.
        dim: the width of the embedding.
        scale: the factor that the number is multiplied by.
        hidden_dim: the width of the hidden layer; None means dim.

    Raises:
        ValueError: a width is not positive, or features < 2.
    """

    def __init__(
        self,
        features: Annotated[int, Range(least=2)],
        dim: Count,
        scale: Finite = 1000.0,
        hidden_dim: Count | None = None,
    ) -> None:
        check_arguments(TimeEmbedding, locals())
        super().__init__()
        hidden = dim if hidden_dim is None else hidden_dim
        self.sinusoids = SinusoidalEmbedding(features, scale)
        self.mlp = nn.Sequential(nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, dim))

    def forward(self, c: Tensor) -> Tensor:
        """Return the embedding of c (B,), in the dtype of the weights."""
        out: Tensor = self.mlp(self.sinusoids(c).to(self.mlp[0].weight.dtype))
        return out


class ClassEmbedding(nn.Embedding):
    """A learned vector for each class and for the null class: (B,) in 0 .. num_classes -> (B, dim).

    Arguments:
        num_classes: the number of classes, without the null class.
        dim: the width of the embedding.
        std: the standard deviation of the initial vectors.
    """

    def __init__(self, num_classes: Count, dim: Count, std: Positive = 0.02) -> None:
        check_arguments(ClassEmbedding, locals())
        super().__init__(num_classes + 1, dim)
        nn.init.normal_(self.weight, std=std)
        self.num_classes = num_classes

    def forward(self, y: Tensor) -> Tensor:
        """Return the vectors of the labels y (B,)."""
        return super().forward(y.long())


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Return fixed sinusoidal positions of the tokens of a grid, row by row: (H W, dim).

    The four quarters of the features are the sines and cosines of the column, then the sines and cosines of the row:

        angle_i = place 10000^{-i / (dim / 4)},   i = 0 .. dim / 4 - 1

    The angles are computed in double precision.

    Arguments:
        grid: the number of rows H and of columns W.
        dim: the width of a token, a multiple of 4.

    Raises:
        ValueError: dim is not a positive multiple of 4.
    """
    if dim < 4 or dim % 4:
        raise ValueError(f"hidden_dim = {dim}, expected a multiple of 4, for the sines and cosines of two axes")
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = (torch.arange(n, dtype=torch.float64)[:, None] * frequency for n in grid)  # (H, dim / 4), (W, dim / 4)
    rows = repeat(torch.cat([row.sin(), row.cos()], dim=1), "h d -> (h w) d", w=grid[1])
    columns = repeat(torch.cat([column.sin(), column.cos()], dim=1), "w d -> (h w) d", h=grid[0])
    return torch.cat([columns, rows], dim=1).to(torch.get_default_dtype())


def image_size(img_size: ImageSize, patch_size: Count) -> tuple[int, int]:
    """Return the height and width of images that a network cuts into patches.

    Arguments:
        img_size: (height, width) of the images in pixels, or one number for both.
        patch_size: the side of a patch in pixels.

    Raises:
        ValueError: img_size is not one or two positive integers, or patch_size does not divide both sides.
    """
    check_arguments(image_size, locals())
    height, width = one_or_each("img_size", img_size, 2, "height and width")
    if height % patch_size or width % patch_size:
        raise ValueError(f"patch_size = {patch_size} does not divide the image ({height} x {width})")
    return height, width


def to_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut feature maps into windows: (B, C, H, W) -> (B, G, N, C).

    There are G windows of N = h w pixels. Windows are ordered row by row, and so are the pixels of a window.

    Arguments:
        x: feature maps. The window must divide their height and width.
        window: height h and width w of a window.
    """
    return rearrange(x, "b c (rows h) (columns w) -> b (rows columns) (h w) c", h=window[0], w=window[1])


def from_windows(x: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Join windows to feature maps: (B, G, N, C) -> (B, C, H, W), in channels-last memory format.

    The channels of a pixel are contiguous in memory. This makes it faster to read the S logits of a pixel.

    Arguments:
        x: windows in the order of `to_windows`.
        window: height h and width w of a window.
        size: height H and width W of the feature maps.
    """
    (height, width), (h, w) = size, window
    image = rearrange(x, "b (rows columns) (h w) c -> b (rows h) (columns w) c", rows=height // h, columns=width // w, h=h)
    return rearrange(image, "b h w c -> b c h w")  # a view


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches, row by row: (B, C, H, W) -> (B, H/p * W/p, p * p * C), with channels last in a patch.

    Arguments:
        x: images. The patch size must divide their height and width.
        patch_size: the side p of a patch in pixels.
    """
    return rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(tokens: Tensor, patch_size: int, size: tuple[int, int]) -> Tensor:
    """Join patches to images: (B, H/p * W/p, p * p * C) -> (B, C, H, W), in channels-last memory format.

    Arguments:
        tokens: patches in the order of `patchify`.
        patch_size: the side p of a patch in pixels.
        size: height and width of the images.
    """
    p = patch_size
    image = rearrange(tokens, "b (h w) (p q c) -> b (h p) (w q) c", h=size[0] // p, w=size[1] // p, p=p, q=p)
    return rearrange(image, "b h w c -> b c h w")  # a view
