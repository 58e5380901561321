r"""Does the model repeat its training images? Nearest neighbours in pixels, computed exactly.

A sample's nearest image is sought among M training images and m held-out ones. Were the sample a new draw
from the data, it would be in the training set with probability M / (M + m). From the share u found there
follows the share at equal sizes,

    s = u m / (u m + (1 - u) M)

which is u where M = m, 0.5 for new data and 1 for copies. The odds are corrected, not the training set
thinned: a copy of any training image is found. Copies count as such where every pixel agrees.

Pixels are integers, and so are the squared distances |x|^2 + |y|^2 - 2 x^T y, in which float64 loses nothing
below 2^53; float32 would, and then no copy has the distance 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nearer_to_train", "nearest", "share_at_equal_sizes"]

_CHUNK = 1000


def _flat(images: Tensor, name: str) -> Tensor:
    if images.is_floating_point() or images.ndim < 2 or len(images) == 0:
        raise ValueError(f"{name} are {images.dtype} of shape {tuple(images.shape)}, expected integers (N, ...), N at least 1")
    return images.flatten(1)


def nearest(images: Tensor, others: Tensor, skip_self: bool = False) -> Tensor:
    """The squared distance of each image to the nearest of the others, 0 for copies alone: (N, ...), (M, ...) -> (N,) float64.

    Arguments:
        images: integer pixels.
        others: integer pixels of the same shape.
        skip_self: both are the same set, and an image is not its own neighbour.

    Raises:
        ValueError: the images are no integers, their shapes differ, or there is no other.
    """
    if images.shape[1:] != others.shape[1:]:
        raise ValueError(f"images of shape {tuple(images.shape[1:])} and {tuple(others.shape[1:])}, expected the same")
    x, y = _flat(images, "images"), _flat(others, "others")
    if skip_self and (len(x) != len(y) or len(y) < 2):
        raise ValueError(f"{len(x)} images and {len(y)} others, expected the same set of at least 2")
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for first in range(0, len(y), _CHUNK):
        part = y[first : first + _CHUNK].double()  # a chunk at a time: eight times the bytes of pixels
        for row in range(0, len(x), _CHUNK):
            rows = x[row : row + _CHUNK].double()
            squares = torch.addmm(part.square().sum(1), rows, part.T, alpha=-2) + rows.square().sum(1, keepdim=True)
            if skip_self and row == first:
                squares.fill_diagonal_(torch.inf)
            best[row : row + _CHUNK] = torch.minimum(best[row : row + _CHUNK], squares.min(1).values)
    return best


def nearer_to_train(to_train: Tensor, to_held_out: Tensor) -> Tensor:
    """1 where the training image is the nearest, 0 where the held-out one is, 1/2 for ties: (N,), (N,) -> (N,)."""
    return (to_train < to_held_out).double() + 0.5 * (to_train == to_held_out).double()


def share_at_equal_sizes(share: float, num_train: int, num_held_out: int) -> float:
    """The share of samples nearest to a training image, were both sets of one size.

    Arguments:
        share: u, found with the sizes below.
        num_train: M.
        num_held_out: m.
    """
    train, held_out = share * num_held_out, (1 - share) * num_train
    return train / (train + held_out)
