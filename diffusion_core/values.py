"""Looking at the values of tensors, only where that is possible and costs nothing.

On an accelerator reading one number waits for all that was launched before it, under a compiler it breaks the graph, and a
fake tensor has none. So the library asks here, and everything else is written for values that may not be seen.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ANYTHING", "NOTHING", "check_within", "ends", "least", "listed", "number", "readable"]

Ends = tuple[float, float]

ANYTHING: Ends = (-math.inf, math.inf)
"""The ends of values of which nothing is known."""

NOTHING: Ends = (math.inf, -math.inf)
"""The ends of no values: whatever is asked of all of them holds."""


def readable(tensor: Tensor) -> bool:
    """Whether looking at the values of a tensor is possible and costs nothing: it is real, on the CPU, and not compiled."""
    if torch.compiler.is_compiling():
        return False
    return tensor.device.type == "cpu" and type(tensor) in (Tensor, nn.Parameter)


def ends(tensor: Tensor, unseen: Ends) -> Ends:
    """The smallest and the largest value, NaN where one of them is; `unseen` where there are none or they may not be read.

    Arguments:
        tensor: numbers of any shape.
        unseen: `NOTHING` for a check that passes unseen, `ANYTHING` for a shortcut that is not taken unseen.
    """
    if not readable(tensor) or not tensor.numel():
        return unseen
    if tensor.ndim == 0:
        return tensor.item(), tensor.item()
    return tensor.amin().item(), tensor.amax().item()


def least(*tensors: Tensor) -> float:
    """The smallest value of several tensors, NaN where one is; -inf where one has no value or they may not be read."""
    if not all(readable(tensor) and tensor.numel() for tensor in tensors):
        return -math.inf
    return torch.stack([tensor.amin() for tensor in tensors]).amin().item()


def listed(tensor: Tensor, unseen: Any) -> list[Any]:
    """The values of a tensor (B,) as Python's; `unseen` for each where they may not be read."""
    values: list[Any] = tensor.tolist() if readable(tensor) else [unseen] * len(tensor)
    return values


def number(tensor: Tensor) -> float | None:
    """The value of a tensor of shape (); None if it has another shape or a gradient, or may not be read."""
    return tensor.item() if tensor.ndim == 0 and not tensor.requires_grad and readable(tensor) else None


def check_within(tensor: Tensor, low: float, high: float, error: str) -> None:
    """Refuse values outside low .. high: at once where they may be read, by a device-side assertion elsewhere.

    Arguments:
        tensor: numbers of any shape.
        low: the least that is allowed.
        high: the most that is allowed.
        error: the message, in which {} stands for a value that is outside.

    Raises:
        ValueError: a value is outside, or not a number.
    """
    if not readable(tensor):
        wide = tensor if tensor.is_floating_point() else tensor.long()  # in uint8, nothing is <= 256
        torch._assert_async(((wide >= low) & (wide <= high)).all(), error.format("?"))
    least, most = ends(tensor, NOTHING)
    if not (least >= low and most <= high):
        raise ValueError(error.format(most if least >= low else least))
