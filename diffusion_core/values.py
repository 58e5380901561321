"""Read the values of tensors, if that is possible and fast.

To read one number from an accelerator, the program has to wait for all work launched before. Under `torch.compile`,
reading a number breaks the graph. A fake tensor has no values at all. So checks and shortcuts read values with the
functions of this module, which also work if no value can be read.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ANYTHING", "NOTHING", "check_within", "ends", "least", "listed", "number", "readable"]

Ends = tuple[float, float]

ANYTHING: Ends = (-math.inf, math.inf)
"""The smallest and largest possible value, if nothing is known about the values."""

NOTHING: Ends = (math.inf, -math.inf)
"""The minimum and maximum of an empty set of values. Every range check passes with them."""


def readable(tensor: Tensor) -> bool:
    """Return whether the values can be read at once: the tensor is not fake, is on the CPU, and no compiler is tracing."""
    if torch.compiler.is_compiling():
        return False
    return tensor.device.type == "cpu" and type(tensor) in (Tensor, nn.Parameter)


def ends(tensor: Tensor, unseen: Ends) -> Ends:
    """Return the smallest and the largest value. Both are NaN if any value is NaN.

    Arguments:
        tensor: numbers of any shape.
        unseen: the result if the tensor is empty or cannot be read. Use `NOTHING` if a check should then pass, and
            `ANYTHING` if a shortcut should then not be taken.
    """
    if not readable(tensor) or not tensor.numel():
        return unseen
    if tensor.ndim == 0:
        value = tensor.item()
        return value, value
    low, high = tensor.aminmax()
    return low.item(), high.item()


def least(*tensors: Tensor) -> float:
    """Return the smallest value of several tensors, NaN if one value is NaN; -inf if one is empty or cannot be read."""
    if not all(readable(tensor) and tensor.numel() for tensor in tensors):
        return -math.inf
    values = [tensor.amin().item() for tensor in tensors]
    return math.nan if any(map(math.isnan, values)) else min(values)


def listed(tensor: Tensor, unseen: Any) -> list[Any]:
    """Return the values of a tensor (B,) as Python numbers, or B times `unseen` if they cannot be read."""
    values: list[Any] = tensor.tolist() if readable(tensor) else [unseen] * len(tensor)
    return values


def number(tensor: Tensor) -> float | None:
    """Return the value of a tensor of shape (); None if it has another shape, requires a gradient or cannot be read."""
    return tensor.item() if tensor.ndim == 0 and not tensor.requires_grad and readable(tensor) else None


def check_within(tensor: Tensor, low: float, high: float, error: str) -> None:
    """Check that all values are in [low, high].

    The check raises at once if the values can be read. Otherwise it is a device-side assertion, which is asynchronous.

    Arguments:
        tensor: numbers of any shape.
        low: the smallest allowed value.
        high: the largest allowed value.
        error: the error message, in which {} stands for a value outside the range.

    Raises:
        ValueError: a value is outside the range or NaN.
    """
    if not readable(tensor):
        wide = tensor if tensor.is_floating_point() else tensor.long()  # uint8 cannot represent bounds such as 256
        torch._assert_async(((wide >= low) & (wide <= high)).all(), error.format("?"))
    least, most = ends(tensor, NOTHING)
    if not (least >= low and most <= high):
        raise ValueError(error.format(most if least >= low else least))
