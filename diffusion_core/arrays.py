"""From numpy to torch: arrays laid out as torch takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["plain"]


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """The array in C order with the strides of a new one; copied only where its elements are not in that order.

    torch refuses negative strides. `np.ascontiguousarray` does not always mend them: an axis of length 1, reversed, counts
    as contiguous and keeps its stride.
    """
    return np.ndarray(array.shape, array.dtype, np.ascontiguousarray(array))
