r"""Memorisation of training images: exact nearest neighbours in pixels.

The nearest image of a sample is searched among M training images and m held-out images. If the sample were a new draw from the
data, its nearest image would be a training image with probability M / (M + m). Let u be the fraction of samples whose nearest
image is a training image. For two sets of equal size, this fraction would be

    s = u m / (u m + (1 - u) M)

s = u if M = m. For new data s is 0.5, and for copies it is 1. The formula multiplies the odds u / (1 - u) by m / M. Because of
this correction, the two sets need not have the same size. So all training images can be searched, and a copy of any of them is
found. A sample is a copy of a training image if all pixels of the two images are equal.

Pixels are integers, so the squared distances |x|^2 + |y|^2 - 2 x^T y are integers too. float64 is exact below 2^53. float32 is
not exact: the distance of a copy might not be 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctdiff.progress import tracked

# torchmetrics and torch-fidelity have no such metric.
__all__ = ["nearer_to_train", "nearest", "share_at_equal_sizes"]

_CHUNK = 1000


def _flat(images: Tensor, name: str) -> Tensor:
    if images.is_floating_point() or images.ndim < 2 or len(images) == 0:
        raise ValueError(f"{name} are {images.dtype} of shape {tuple(images.shape)}, expected integers (N, ...), N at least 1")
    return images.flatten(1)


def nearest(images: Tensor, others: Tensor, skip_self: bool = False) -> Tensor:
    """Return the squared distance of each image to the nearest of the others: (N, ...), (M, ...) -> (N,) float64.

    It is 0 only for copies.

    Arguments:
        images: integer pixels.
        others: integer pixels of the same shape.
        skip_self: whether `images` and `others` are the same set. An image is then not compared with itself.

    Raises:
        ValueError: the images are not integers, their shapes differ, or there are no other images.
    """
    if images.shape[1:] != others.shape[1:]:
        raise ValueError(f"images of shape {tuple(images.shape[1:])} and {tuple(others.shape[1:])}, expected the same")
    x, y = _flat(images, "images"), _flat(others, "others")
    if skip_self and (len(x) != len(y) or len(y) < 2):
        raise ValueError(f"{len(x)} images and {len(y)} others, expected the same set of at least 2")
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for first in tracked(range(0, len(y), _CHUNK), "nearest images"):
        part = y[first : first + _CHUNK].double()  # in chunks, because float64 needs eight times the memory of pixels
        for row in range(0, len(x), _CHUNK):
            rows = x[row : row + _CHUNK].double()
            squares = torch.addmm(part.square().sum(1), rows, part.T, alpha=-2) + rows.square().sum(1, keepdim=True)
            if skip_self and row == first:
                squares.fill_diagonal_(torch.inf)
            best[row : row + _CHUNK] = torch.minimum(best[row : row + _CHUNK], squares.min(1).values)
    return best


def nearer_to_train(to_train: Tensor, to_held_out: Tensor) -> Tensor:
    """Return 1 if the training image is nearer, 0 if the held-out image is nearer, 1/2 for ties: (N,), (N,) -> (N,)."""
    return (to_train < to_held_out).double() + 0.5 * (to_train == to_held_out).double()


def share_at_equal_sizes(share: float, num_train: int, num_held_out: int) -> float:
    """Return the fraction of samples whose nearest image is a training image, corrected to sets of equal size.

    Arguments:
        share: u, the observed fraction with M training images and m held-out images.
        num_train: M, the number of training images.
        num_held_out: m, the number of held-out images.
    """
    train, held_out = share * num_held_out, (1 - share) * num_train
    return train / (train + held_out)
