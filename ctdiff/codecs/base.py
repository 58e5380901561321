"""The interface of a codec."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["Codec"]


class Codec(Protocol):
    """Converts pixels to clean data x_0, and x_0 to pixels. Decoding an encoded pixel gives this pixel again.

    This is a protocol: a class with both methods is a codec, without a base class.
    """

    def encode(self, k: Tensor) -> Tensor:
        """Convert pixels to clean data: integers 0 .. S - 1 of any shape -> x_0 of the same shape."""

    def decode(self, x: Tensor) -> Tensor:
        """Convert clean data to pixels: x_0 of any shape -> int64 of the same shape."""
