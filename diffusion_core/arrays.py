"""Convert numpy arrays to a memory layout that torch accepts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["plain"]


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in C order with standard strides. The data are copied only if they are not in C order.

    torch refuses negative strides. `np.ascontiguousarray` does not remove all of them: numpy treats a reversed axis of
    length 1 as contiguous and keeps its negative stride.
    """
    return np.ndarray(array.shape, array.dtype, np.ascontiguousarray(array))
