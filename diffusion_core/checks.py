"""Numbers that cannot be meant, refused with their name and value."""

from __future__ import annotations

import math
import operator

__all__ = ["check_integer", "check_positive"]


def check_integer(name: str, value: int, least: int = 1) -> int:
    """An integer of any kind, numpy's too, as one of Python's.

    Raises:
        ValueError: it is no integer, as a boolean is none, or is below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} = {value}, expected an integer of at least {least}")
    return number


def check_positive(name: str, value: float) -> None:
    """Refuse what is no rate, scale or length.

    Raises:
        ValueError: the value is not finite or not above 0.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} = {value}, expected a positive number")
