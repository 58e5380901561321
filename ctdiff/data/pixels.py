"""Converts pixels to bytes 0 .. 255, or explains how to convert them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusion_core.arrays import plain

__all__ = ["as_bytes"]


def as_bytes(array: np.ndarray | Tensor, name: str) -> Tensor:
    """Convert pixels to uint8 if there is only one way to do it.

    uint8 stays the same, other integers in 0 .. 255 keep their values, and booleans become 0 and 255. Floats are refused:
    their range may be [0, 1], [-1, 1] or 0 .. 255.

    Arguments:
        array: pixels of any shape.
        name: the name of the pixels, for errors.

    Raises:
        ValueError: the pixels have another dtype, or integers outside 0 .. 255. The message names the dtype, the smallest and
            the largest value, and a line that converts them, if there is one.
    """
    if isinstance(array, Tensor) and array.dtype == torch.uint8:
        return array
    values = _numbers(array) if isinstance(array, Tensor) else array
    kind = values.dtype.kind
    if kind == "b":
        values = np.where(values, np.uint8(255), np.uint8(0))
    elif values.size and (kind not in "iu" or values.min() < 0 or values.max() > 255):
        raise ValueError(
            f"{name}: pixels have dtype {array.dtype}, expected uint8 (0 .. 255), other integers in 0 .. 255 or booleans"
            + (_range_and_line(values, isinstance(array, Tensor)) if kind in "iuf" else "")
        )
    return torch.from_numpy(plain(values.astype(np.uint8, copy=False)))


def _numbers(tensor: Tensor) -> np.ndarray:
    """Return the values of a tensor in NumPy, which has more integer dtypes than torch, but no bfloat16."""
    tensor = tensor.detach().cpu()
    short = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
    return (tensor.float() if short else tensor).numpy()


def _range_and_line(values: np.ndarray, is_tensor: bool) -> str:
    """Return the end of the message: the range of the values and how to convert them."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "; no value is finite"
    low, high = finite.min(), finite.max()
    found = f"; the values are in {low!s} .. {high!s}"
    if finite.size < values.size:
        return f"{found}, and {values.size - finite.size} of them are not finite"
    line, condition = None, ""
    if low == high:  # an image of one value does not show the range
        return found
    if values.dtype == np.uint16:
        line, condition = "(x / 257).round()", ", if 65535 is white"
    elif values.dtype.kind == "f" and low >= -1 and high <= 1:
        line = "(255 * x).round()" if low >= 0 else "((x + 1) * 127.5).round()"
    elif values.dtype.kind == "f" and low >= 0 and high <= 255 and bool((values == values.round()).all()):
        line = "x"
    if line is None:
        return found
    cast = ".to(torch.uint8)" if is_tensor else ".astype('uint8')"
    return f"{found}: convert them with {line}{cast}{condition}"
