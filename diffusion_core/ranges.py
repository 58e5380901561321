"""Ranges of the numbers that a constructor takes. A range stands in the annotation of the argument, and nowhere else.

    class Ring:
        def __init__(self, drift: Annotated[float, Range(least=-1, most=1)] = 0.0, width: Count = 1) -> None:
            check_arguments(Ring, locals())

A dataclass inherits `CheckedArguments` instead. `range_of(Ring, "drift")` is what a configuration may hold.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

__all__ = [
    "CheckedArguments",
    "Count",
    "CountOrZero",
    "Finite",
    "NonNegative",
    "Positive",
    "Range",
    "Share",
    "check_arguments",
    "range_of",
]


@dataclass(frozen=True)
class Range:
    """An interval of finite numbers. Without ends it is all of them.

    Arguments:
        least: its lower end, which is inside.
        most: its upper end, which is inside.
        above: its lower end, which is outside.
        below: its upper end, which is outside.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        number: Any = value  # of Python or numpy
        return bool(
            -math.inf < number < math.inf  # no NaN either
            and (self.least is None or self.least <= number)
            and (self.most is None or number <= self.most)
            and (self.above is None or self.above < number)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        low = self.least if self.above is None else self.above
        high = self.most if self.below is None else self.below
        if low is not None and high is not None:
            return f"in {'[' if self.above is None else '('}{low:g}, {high:g}{']' if self.below is None else ')'}"
        if low is not None:
            return f"of at least {low:g}" if self.above is None else f"above {low:g}"
        if high is not None:
            return f"of at most {high:g}" if self.below is None else f"below {high:g}"
        return "finite"

    def check(self, name: str, value: object, kind: object = float) -> None:
        """Refuse a value that is out of range or of another type.

        Arguments:
            name: what the caller calls it.
            value: a number, or several.
            kind: its type: float, int, a sequence or a tuple of these (each item is checked), or a union of these and None.

        Raises:
            ValueError: naming the value and what is allowed. True and 2.0 are no integers.
        """
        if not _fits(value, kind, self):
            raise ValueError(f"{name} = {value!r}, expected {self._words(value, kind)}")

    def _words(self, value: object, kind: object) -> str:
        """What is allowed, for a value that is not."""
        integer = _holds(kind, int)
        one = f"{'an integer' if integer else 'a number'} {self}"
        if self == Range():
            one = "an integer" if integer else "a finite number"
        if isinstance(value, Collection) and not isinstance(value, str):
            return f"each {one}"
        return one if {int, float} & {*_members(kind)} else f"several, each {one}"


Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
Count = Annotated[int, Range(least=1)]
CountOrZero = Annotated[int, Range(least=0)]


def _members(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _fits(value: object, kind: Any, allowed: Range) -> bool:
    """Whether a value is of a type, with its numbers within a range."""
    if len(_members(kind)) > 1:
        return any(_fits(value, each, allowed) for each in _members(kind))
    origin = get_origin(kind)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, Collection) and all(_fits(item, get_args(kind)[0], allowed) for item in value)
    if kind in (int, float):
        return value in allowed and (kind is float or isinstance(value, Integral))
    return isinstance(value, kind)


def _holds(kind: Any, number: type) -> bool:
    """Whether a type is `number`, or is made of it."""
    return kind is number or any(_holds(each, number) for each in get_args(kind))


def _range(hint: Any) -> Range | None:
    """The range in an annotation, such as that of `Annotated[float, Range(above=0)] | None`."""
    inner = (*getattr(hint, "__metadata__", ()), *get_args(hint))
    found = (each if isinstance(each, Range) else _range(each) for each in inner)
    return next((each for each in found if each is not None), None)


@cache
def _numbers(target: Callable[..., object]) -> Mapping[str, tuple[Any, Range]]:
    """The type and the range of every argument that has a range, by name."""
    fields = not isinstance(target, type) or is_dataclass(target)
    source = target if fields else target.__init__
    kinds, hints = get_type_hints(source), get_type_hints(source, include_extras=True)
    ranges = {name: _range(hints[name]) for name in inspect.signature(target).parameters if name in hints}
    return {name: (kinds[name], allowed) for name, allowed in ranges.items() if allowed is not None}


def range_of(target: Callable[..., object], name: str) -> Range:
    """The range of an argument of a class or a function.

    Raises:
        KeyError: it has no such argument, or one without a range.
    """
    return _numbers(target)[name][1]


def check_arguments(target: Callable[..., object], values: Mapping[str, object]) -> None:
    """Refuse numbers that are out of range, and what is no integer where `int` is annotated.

    Arguments:
        target: the class or the function that the arguments were given to.
        values: the arguments by name; other names are ignored, so that `locals()` will do.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    for name, (kind, allowed) in _numbers(target).items():
        allowed.check(name, values[name], kind)


class CheckedArguments:
    """A dataclass whose arguments are checked when it is made. Integers of numpy become Python's."""

    def __post_init__(self) -> None:
        target: Callable[..., object] = type(self)
        check_arguments(target, vars(self))
        for name, (kind, _) in _numbers(target).items():
            if kind is int:
                object.__setattr__(self, name, operator.index(getattr(self, name)))
