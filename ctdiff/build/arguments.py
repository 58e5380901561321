"""From settings to dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, TypeVar

__all__ = ["made"]

T = TypeVar("T")


def made(kind: Callable[..., T], given: Mapping[str, Any]) -> T:
    """Call a class with those of its arguments that are given; other settings are of other classes."""
    return kind(**{name: given[name] for name in signature(kind).parameters if name in given})
