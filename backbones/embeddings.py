"""How numbers, labels and images become vectors.

A real number c is spread over sinusoids whose wavelengths form a geometric sequence,

    angle_i = scale c 10000^{-i / half},   i = 0 .. half - 1,     embedding = (cos, sin)

With c in [0, 1] a scale of 1000 gives the range of the original integer timesteps. Angles are
formed in float32 or better, so that a double-precision time keeps its digits until the cosine.

A transformer cuts an image into patches, and has to be told where each of them was: by learned
vectors, or by the same sinusoids of the column (first half of the vector) and of the row (second half).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
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
"""The side of images in pixels, or (height, width)."""

_MAX_PERIOD = 10000.0  # the ratio of the longest wavelength to the shortest


class SinusoidalEmbedding(nn.Module):
    """Sinusoids of one real number: (B,) -> (B, features).

    References:
        Attention is all you need (Vaswani et al., 2017) | https://arxiv.org/abs/1706.03762

    Arguments:
        features: the number of sinusoids, cosines first; an odd last one is 0.
        scale: what the number is multiplied by; 1000 suits numbers in [0, 1].

    Raises:
        ValueError: features is no integer or below 2.
    """

    def __init__(self, features: Annotated[int, Range(least=2)], scale: Finite = 1000.0) -> None:
        check_arguments(SinusoidalEmbedding, locals())
        super().__init__()
        self.features = features
        self.scale = scale

    def forward(self, c: Tensor) -> Tensor:
        """The sinusoids of c, in the dtype of c or float32, whichever is wider."""
        half = self.features // 2
        dtype = torch.promote_types(c.dtype, torch.float32)
        place = torch.arange(half, dtype=dtype, device=c.device) / half
        angle = (self.scale * c.to(dtype))[:, None] * torch.exp(-math.log(_MAX_PERIOD) * place)  # (B, half)
        embedding = torch.cat([angle.cos(), angle.sin()], dim=1)
        return F.pad(embedding, (0, self.features - 2 * half))


class TimeEmbedding(nn.Module):
    """Sinusoids and a two-layer perceptron: (B,) -> (B, dim).

    Arguments:
        features: the number of sinusoids.
        dim: the width of the embedding.
        scale: what the number is multiplied by.
        hidden_dim: the width of the hidden layer; None means dim.

    Raises:
        ValueError: a width that is not positive, or features < 2.
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
        """The embedding of c (B,), in the dtype of the weights."""
        out: Tensor = self.mlp(self.sinusoids(c).to(self.mlp[0].weight.dtype))
        return out


class ClassEmbedding(nn.Embedding):
    """One vector a class, and one for the null class: (B,) in 0 .. num_classes -> (B, dim).

    Arguments:
        num_classes: the number of classes without the null class.
        dim: the width of the embedding.
        std: the standard deviation of the fresh vectors.
    """

    def __init__(self, num_classes: Count, dim: Count, std: Positive = 0.02) -> None:
        check_arguments(ClassEmbedding, locals())
        super().__init__(num_classes + 1, dim)
        nn.init.normal_(self.weight, std=std)
        self.num_classes = num_classes

    def forward(self, y: Tensor) -> Tensor:
        """The vectors of the labels y (B,)."""
        return super().forward(y.long())


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """The fixed position of every token of a grid, row by row: (H W, dim).

    A quarter of the features each: the sines and the cosines of the column, then those of the row,

        angle_i = place 10000^{-i / (dim / 4)},   i = 0 .. dim / 4 - 1

    formed in double precision.

    Arguments:
        grid: the number of rows H and of columns W.
        dim: the width of a token, a multiple of 4.

    Raises:
        ValueError: dim is no positive multiple of 4.
    """
    if dim < 4 or dim % 4:
        raise ValueError(f"hidden_dim = {dim}, expected a multiple of 4: sines and cosines of two axes")
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = (torch.arange(n, dtype=torch.float64)[:, None] * frequency for n in grid)  # (H, dim / 4), (W, dim / 4)
    rows = torch.cat([row.sin(), row.cos()], dim=1)[:, None].expand(-1, grid[1], -1)  # (H, W, dim / 2)
    columns = torch.cat([column.sin(), column.cos()], dim=1).expand(grid[0], -1, -1)  # (H, W, dim / 2)
    return torch.cat([columns, rows], dim=2).flatten(0, 1).to(torch.get_default_dtype())


def image_size(img_size: ImageSize, patch_size: Count) -> tuple[int, int]:
    """The height and the width of the images of a network that cuts them into patches.

    Arguments:
        img_size: the side of the images in pixels, or (height, width).
        patch_size: the side of a patch in pixels.

    Raises:
        ValueError: an image size that is not one or two positive integers, a patch size that does not divide both sides.
    """
    check_arguments(image_size, locals())
    height, width = one_or_each("img_size", img_size, 2, "height and width")
    if height % patch_size or width % patch_size:
        raise ValueError(f"patch_size = {patch_size} does not divide the image ({height} x {width})")
    return height, width


def to_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut feature maps into windows: (B, C, H, W) -> (B, G, N, C), G windows of N = h w places, both row by row.

    Arguments:
        x: feature maps whose height and width are multiples of the window's.
        window: height h and width w of a window.
    """
    (batch, channels, height, width), (h, w) = x.shape, window
    x = x.reshape(batch, channels, height // h, h, width // w, w).permute(0, 2, 4, 3, 5, 1)  # (B, H/h, W/w, h, w, C)
    return x.reshape(batch, (height // h) * (width // w), h * w, channels)


def from_windows(x: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Put windows back together: (B, G, N, C) -> (B, C, H, W), stored channels last.

    The channels of a pixel stay neighbours in memory, so that S logits a pixel are read in one go.

    Arguments:
        x: windows in the order of `to_windows`.
        window: height h and width w of a window.
        size: height H and width W of the feature maps.
    """
    (height, width), (h, w) = size, window
    x = x.reshape(len(x), height // h, width // w, h, w, -1).permute(0, 1, 3, 2, 4, 5)  # (B, H/h, h, W/w, w, C)
    return x.reshape(len(x), height, width, -1).permute(0, 3, 1, 2)


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches: (B, C, H, W) -> (B, H/p * W/p, p * p * C), row by row, channels last.

    Arguments:
        x: images whose height and width are multiples of the patch size.
        patch_size: the side p of a patch in pixels.
    """
    return to_windows(x, (patch_size, patch_size)).flatten(2)


def unpatchify(tokens: Tensor, patch_size: int, size: tuple[int, int]) -> Tensor:
    """Put patches back together: (B, H/p * W/p, p * p * C) -> (B, C, H, W), stored channels last.

    Arguments:
        tokens: patches in the order of `patchify`.
        patch_size: the side p of a patch in pixels.
        size: height and width of the images.
    """
    return from_windows(tokens, (patch_size, patch_size), size)
