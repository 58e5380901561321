"""Pixels as bytes 0 .. 255: which dtypes are converted, and what to write for the others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusion_core.arrays import plain

__all__ = ["as_bytes"]


def as_bytes(array: np.ndarray | Tensor, name: str) -> Tensor:
    """Bring pixels to uint8 where there is one way to do it.

    uint8 stays, other integers in 0 .. 255 are the same numbers, and booleans become 0 and 255. Floats are refused: they
    may mean [0, 1], [-1, 1] or 0 .. 255, which the values suggest but do not say.

    Arguments:
        array: pixels of any shape.
        name: what to call them in an error.

    Raises:
        ValueError: another dtype, or integers outside 0 .. 255. The message has the dtype, the smallest and the largest
            value, and the line that converts them where there is one.
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
    """The values of a tensor in numpy, which computes with more kinds of integers than torch, but has no bfloat16."""
    tensor = tensor.detach().cpu()
    short = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
    return (tensor.float() if short else tensor).numpy()


def _range_and_line(values: np.ndarray, is_tensor: bool) -> str:
    """The end of the error: what the values are and how to convert them."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "; no value is finite"
    low, high = finite.min(), finite.max()
    found = f"; the values are in {low!s} .. {high!s}"
    if finite.size < values.size:
        return f"{found}, and {values.size - finite.size} of them are not finite"
    line, condition = None, ""
    if low == high:  # a black image says nothing of what white is
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
