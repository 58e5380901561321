"""Known positions, for models that complete examples.

Such a model gets the clean values of some positions of an example, and generates the values of the other positions. The
given positions are called known. They stay clean at all times. In training they get no noise and do not count in the
loss (`Denoiser.active`). Sampling never changes them (`State.known`). The condition `known` of the network, bool
(B, *event), marks the known positions.

A `KnownMask` draws the known positions of training examples. Every kind of `KnownMask` treats an example as a grid. For
an event shape (..., H, W) the grid has H rows and W columns, and all channels of a grid cell are known together. A
sequence (L,) has L rows of one column.

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022), the experiment with music, where the
    start of a piece is given | https://arxiv.org/abs/2205.14987
    Palette: image-to-image diffusion models (Saharia et al., 2022) | https://arxiv.org/abs/2111.05826
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from diffusion_core.randomness import Generator, Randomness, as_randomness
from diffusion_core.ranges import CheckedArguments, Range

__all__ = ["HalfMask", "KnownMask", "PrefixMask", "RandomPixelsMask", "RectangleMask", "check_known"]

_SIDES = ("upper", "lower", "left", "right")


def check_known(known: Tensor, shape: Sequence[int]) -> None:
    """Check the condition `known`.

    Raises:
        ValueError: known is not bool, or does not have the given shape (B, *event).
    """
    if known.dtype != torch.bool:
        raise ValueError(f"known has dtype {known.dtype}, expected torch.bool")
    if known.shape != torch.Size(shape):
        raise ValueError(f"known has shape {tuple(known.shape)}, expected {tuple(shape)}")


class KnownMask(CheckedArguments, ABC):
    """The known positions of training examples. The network gets their values and learns to generate the other positions.

    A subclass draws known cells on a grid of rows and columns.
    """

    def __call__(self, shape: Sequence[int], generator: Generator = None, device: torch.device | str = "cpu") -> Tensor:
        """Draw the known positions of examples of shape (B, *event): bool (B, *event)."""
        batch, *event = shape
        size = (event[-2], event[-1]) if len(event) > 1 else (event[0], 1)
        grid = self.draw(batch, size, as_randomness(generator), device).expand(batch, *size)
        grid = grid if len(event) > 1 else grid[..., 0]
        return grid.reshape(batch, *(1,) * (len(event) - 2), *grid.shape[1:]).expand(batch, *event).contiguous()

    @abstractmethod
    def draw(self, batch: int, size: tuple[int, int], randomness: Randomness, device: torch.device | str) -> Tensor:
        """Draw known grid cells: bool, broadcastable to (batch, height, width).

        Arguments:
            batch: the number of examples B.
            size: the number of rows and of columns.
            randomness: the source of randomness.
            device: the device of the result.
        """


@dataclass(frozen=True)
class HalfMask(KnownMask):
    """One half of the example is known. If the number of rows or columns is odd, the middle row or column is unknown.

    Arguments:
        side: the known half. With the value random, one of the four halves is chosen for each example.
    """

    side: Literal["upper", "lower", "left", "right", "random"] = "upper"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side not in (*_SIDES, "random"):
            raise ValueError(f"side = {self.side!r}, expected one of {', '.join(_SIDES)}, random")

    def draw(self, batch: int, size: tuple[int, int], randomness: Randomness, device: torch.device | str) -> Tensor:
        row, column = _places(size, device)
        half = [n // 2 for n in size]
        upper, left = row < half[0], column < half[1]
        lower, right = row >= size[0] - half[0], column >= size[1] - half[1]
        halves = torch.stack([side.expand(*size) for side in (upper, lower, left, right)])  # (4, H, W)
        if self.side != "random":
            return halves[None, _SIDES.index(self.side)]
        return halves[(4 * randomness.uniform((batch,), torch.float64, device)).long()]


@dataclass(frozen=True)
class RectangleMask(KnownMask):
    """Everything is known except one rectangle. Its height, width and position are uniform and independent.

    Arguments:
        sides: the smallest and the largest side of the unknown rectangle, as fractions of the sides of the example.
    """

    sides: Annotated[tuple[float, float], Range(above=0, most=1)] = (0.25, 0.75)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order("sides", self.sides)

    def draw(self, batch: int, size: tuple[int, int], randomness: Randomness, device: torch.device | str) -> Tensor:
        u = randomness.uniform((batch, 4), torch.float64, device)
        inside = torch.ones((), dtype=torch.bool, device=device)
        for n, place, i in zip(size, _places(size, device), (0, 2), strict=True):
            length = _whole_number(n, self.sides, u[:, i], least=1)
            first = (u[:, i + 1] * (n - length + 1)).floor()
            place, first, last = place[None], first[:, None, None], (first + length)[:, None, None]
            inside = inside & (place >= first) & (place < last)
        return ~inside


@dataclass(frozen=True)
class RandomPixelsMask(KnownMask):
    """Each grid cell is known with the same probability, independently of the other cells.

    Arguments:
        share: the smallest and the largest probability that a cell is known. Each example has its own probability,
            which is uniform between these two.
    """

    share: Annotated[tuple[float, float], Range(least=0, most=1)] = (0.0, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order("share", self.share)

    def draw(self, batch: int, size: tuple[int, int], randomness: Randomness, device: torch.device | str) -> Tensor:
        low, high = self.share
        share = low + (high - low) * randomness.uniform((batch,), torch.float64, device)
        return randomness.uniform((batch, *size), torch.float64, device) < share[:, None, None]


@dataclass(frozen=True)
class PrefixMask(KnownMask):
    """The first rows of the example are known. Their number is drawn uniformly.

    Arguments:
        share: the smallest and the largest number of known rows, as fractions of the number of rows.
    """

    share: Annotated[tuple[float, float], Range(least=0, most=1)] = (0.0, 0.75)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order("share", self.share)

    def draw(self, batch: int, size: tuple[int, int], randomness: Randomness, device: torch.device | str) -> Tensor:
        rows = _whole_number(size[0], self.share, randomness.uniform((batch,), torch.float64, device))
        return (_places(size, device)[0][None] < rows[:, None, None]).expand(batch, *size)


def _places(size: tuple[int, int], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return the index of each row (H, 1) and of each column (1, W)."""
    return torch.arange(size[0], device=device)[:, None], torch.arange(size[1], device=device)[None]


def _check_order(name: str, pair: tuple[float, float]) -> None:
    if pair[0] > pair[1]:
        raise ValueError(f"{name} = {pair!r}, expected the smaller number first")


def _whole_number(n: int, shares: tuple[float, float], u: Tensor, least: int = 0) -> Tensor:
    """Draw whole numbers between two fractions of n, rounded, and at least `least`: uniform u (B,) -> float64 (B,)."""
    low, high = (max(least, round(n * share)) for share in shares)
    return low + (u * (high - low + 1)).floor()
