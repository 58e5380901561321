"""Check that arguments are in range. The range of an argument is written only in its annotation.

    class Ring:
        def __init__(self, drift: Annotated[float, Range(least=-1, most=1)] = 0.0, width: Count = 1) -> None:
            check_arguments(Ring, locals())

A dataclass inherits from `CheckedArguments`, which calls `check_arguments`. `range_of(Ring, "drift")` returns the range
of an argument. The configuration uses it to describe its keys.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass
from dataclasses import fields as dataclass_fields
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

__all__ = [
    "Argument",
    "CheckedArguments",
    "Count",
    "CountOrZero",
    "Finite",
    "NonNegative",
    "Positive",
    "Range",
    "Share",
    "arguments",
    "check_arguments",
    "fits",
    "range_of",
    "union",
]


def _is_float(number: Any) -> bool:
    """Return whether a number can be converted to a finite float. Very large integers cannot."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


@dataclass(frozen=True)
class Range:
    """An interval of finite numbers. Without arguments it contains all finite numbers.

    Arguments:
        least: the lower bound, inclusive.
        most: the upper bound, inclusive.
        above: the lower bound, exclusive.
        below: the upper bound, exclusive.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        number: Any = value  # a Python or numpy number
        return bool(
            -math.inf < number < math.inf  # also excludes NaN
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
        """Check that a value is in the range and has the right type.

        Arguments:
            name: the name of the argument, for the error message.
            value: a number, or a collection of numbers.
            kind: the type. It is float, int, a sequence or a tuple of these, or a union of these and None. Each item of a
                sequence is checked.

        Raises:
            ValueError: the value is out of range or has another type. True and 2.0 are not integers.
        """
        if not fits(value, kind, self):
            raise ValueError(f"{name} = {value!r}, expected {self._words(value, kind)}")

    def _words(self, value: object, kind: object) -> str:
        """Describe the allowed values, for the error message about a value."""
        integer = _holds(kind, int)
        one = f"{'an integer' if integer else 'a number'} {self}"
        if self == _FINITE:
            one = "an integer" if integer else "a finite number"
        if isinstance(value, Collection) and not isinstance(value, str):
            return f"each {one}"
        return one if {int, float} & {*union(kind)} else f"several, each {one}"


_FINITE = Range()

Finite = Annotated[float, _FINITE]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
Count = Annotated[int, Range(least=1)]
CountOrZero = Annotated[int, Range(least=0)]


def union(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type itself if it is not a union."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def fits(value: object, kind: Any, allowed: Range | None = None) -> bool:
    """Return whether a value has the type `kind` and all its numbers are in the range `allowed`.

    Without a range, the numbers must be finite. True and False are not numbers. The integer 2 is a valid float, but 2.0 is
    not a valid integer. In a collection, every item must have the item type. If `kind` is a tuple type of fixed length,
    the number of items must match.
    """
    if kind in (int, float):  # first, because a sequence can have thousands of numbers
        return value in (allowed or _FINITE) and (_is_float(value) if kind is float else isinstance(value, Integral))
    if len(union(kind)) > 1:
        return any(fits(value, each, allowed) for each in union(kind))
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        length = len(inner) if origin is tuple and Ellipsis not in inner else None
        if not isinstance(value, Collection) or isinstance(value, str) or length not in (None, len(value)):
            return False
        return all(fits(item, inner[0], allowed) for item in value)
    return isinstance(value, kind)


def _holds(kind: Any, number: type) -> bool:
    """Return whether a type is `number` or contains it. For example, `tuple[int, ...]` contains int."""
    return kind is number or any(_holds(each, number) for each in get_args(kind))


def _range(hint: Any) -> Range | None:
    """Return the range in an annotation such as `Annotated[float, Range(above=0)] | None`; None if there is none."""
    inner = (*getattr(hint, "__metadata__", ()), *get_args(hint))
    found = (each if isinstance(each, Range) else _range(each) for each in inner)
    return next((each for each in found if each is not None), None)


class Argument(NamedTuple):
    """One argument of a constructor.

    Arguments:
        kind: the type, without the metadata of `Annotated`.
        allowed: the range; None if it has none.
        default: the default; `inspect.Parameter.empty` if it has none.
    """

    kind: Any
    allowed: Range | None
    default: Any


@cache
def arguments(target: Callable[..., object]) -> Mapping[str, Argument]:
    """Return a dict of the arguments of a class or a function, without `*args` and `**kwargs`."""
    fields = isinstance(target, type) and _has_fields(target)
    written = isinstance(target, type) and not fields
    source = target.__init__ if written else target
    kinds, hints = get_type_hints(source), get_type_hints(source, include_extras=True)
    made = {field.name: field.default_factory for field in dataclass_fields(target)} if fields else {}  # type: ignore[arg-type]
    found = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        factory = made.get(name, MISSING)
        default = parameter.default if factory is MISSING else factory()
        found[name] = Argument(kinds.get(name, Any), _range(hints.get(name)), default)
    return found


def _has_fields(cls: type) -> bool:
    """Return whether the arguments of a class are the fields of a dataclass, and not those of a written `__init__`."""
    owner = next(each for each in cls.__mro__ if "__init__" in vars(each))
    made = vars(owner).get("__dataclass_params__")
    return made is not None and made.init


@cache
def _numbers(target: Callable[..., object]) -> Mapping[str, tuple[Any, Range]]:
    """Return a dict of the arguments that have a range, each with its type and its range."""
    return {name: (each.kind, each.allowed) for name, each in arguments(target).items() if each.allowed is not None}


def range_of(target: Callable[..., object], name: str) -> Range:
    """Return the range of an argument of a class or a function.

    Raises:
        KeyError: there is no argument of this name, or it has no range.
    """
    return _numbers(target)[name][1]


def check_arguments(target: Callable[..., object], values: Mapping[str, object]) -> None:
    """Check the type and the range of each argument whose annotation has a range.

    Arguments:
        target: the class or the function that received the arguments.
        values: the arguments by name; other names are ignored, so you can pass `locals()`.

    Raises:
        ValueError: an argument is out of range or has another type. The message names the argument, its value and the range.
    """
    for name, (kind, allowed) in _numbers(target).items():
        allowed.check(name, values[name], kind)


class CheckedArguments:
    """A base class for dataclasses. It checks the arguments at construction, and converts numpy integers to Python integers."""

    def __post_init__(self) -> None:
        target: Callable[..., object] = type(self)
        check_arguments(target, vars(self))
        for name, (kind, _) in _numbers(target).items():
            if kind is int:
                object.__setattr__(self, name, operator.index(getattr(self, name)))
