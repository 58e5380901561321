"""Ranges of arguments: what is inside, how it is said, and which constructors look."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest

from diffusion_core.ranges import (
    CheckedArguments,
    Count,
    CountOrZero,
    Finite,
    Positive,
    Range,
    Share,
    check_arguments,
    range_of,
)


@pytest.mark.parametrize(
    ("allowed", "words", "inside", "outside"),
    [
        (Range(), "finite", (-1e300, 0, 10**400), (math.inf, -math.inf, math.nan, "1", None, True, 1j)),
        (Range(above=0), "above 0", (5e-324, 1e300, np.float32(0.5)), (0, -0.0, -1, math.inf, math.nan)),
        (Range(least=0), "of at least 0", (0, -0.0, np.int64(3)), (-5e-324, math.inf)),
        (Range(least=1), "of at least 1", (1, 2.5), (math.nextafter(1, 0), True)),
        (Range(most=0), "of at most 0", (0, -3), (5e-324, -math.inf)),
        (Range(below=2), "below 2", (math.nextafter(2, 0), -3), (2, 3)),
        (Range(least=0, most=1), "in [0, 1]", (0, 1), (-0.1, 1.1, math.nan)),
        (Range(least=0, below=1), "in [0, 1)", (0, math.nextafter(1, 0)), (1, -0.1)),
        (Range(above=0, most=1), "in (0, 1]", (5e-324, 1), (0, 1.1)),
        (Range(above=-1, below=1), "in (-1, 1)", (0,), (-1, 1)),
    ],
)
def test_an_interval(allowed, words, inside, outside):
    assert str(allowed) == words
    assert [value for value in inside if value not in allowed] == []
    assert [value for value in outside if value in allowed] == []


class Plain:
    """Takes numbers of every form."""

    def __init__(
        self,
        name: str = "x",
        scale: Positive | None = None,
        steps: Count = 1,
        pair: Annotated[tuple[float, float], Range(least=0, below=1)] = (0.0, 0.5),
        widths: Annotated[int | Sequence[int | None], Range(least=0)] | None = None,
        free: float = math.inf,
    ) -> None:
        check_arguments(Plain, locals())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": 0.0}, "scale = 0.0, expected a number above 0"),
        ({"scale": math.nan}, "scale = nan, expected a number above 0"),
        ({"steps": 0}, "steps = 0, expected an integer of at least 1"),
        ({"steps": 2.0}, "steps = 2.0, expected an integer of at least 1"),
        ({"steps": True}, "steps = True, expected an integer of at least 1"),
        ({"steps": None}, "steps = None, expected an integer of at least 1"),
        ({"pair": (0.5, 1.0)}, "pair = (0.5, 1.0), expected each a number in [0, 1)"),
        ({"pair": 0.5}, "pair = 0.5, expected several, each a number in [0, 1)"),
        ({"widths": -1}, "widths = -1, expected an integer of at least 0"),
        ({"widths": (1, 2.0)}, "widths = (1, 2.0), expected each an integer of at least 0"),
        ({"widths": "12"}, "widths = '12', expected an integer of at least 0"),
    ],
)
def test_what_is_outside_is_named(values, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the whole message is compared
        Plain(**values)
    assert str(refused.value) == message


def test_what_is_inside_is_taken():
    Plain()
    Plain("y", 2, np.int64(3), [0.0, 0.9], (0, None), -math.inf)
    Plain(scale=np.float32(0.1), pair=np.array([0.1, 0.2]), widths=4)


def test_ranges_are_read_from_the_annotations():
    assert range_of(Plain, "scale") == Range(above=0)
    assert range_of(Plain, "widths") == Range(least=0)
    with pytest.raises(KeyError):
        range_of(Plain, "free")
    named = {Finite: Range(), Positive: Range(above=0), Share: Range(least=0, most=1), CountOrZero: Range(least=0)}
    assert {hint: hint.__metadata__[0] for hint in named} == named


@dataclass(frozen=True)
class Parent(CheckedArguments):
    """One argument."""

    rate: Positive = 1.0


@dataclass(frozen=True)
class Child(Parent):
    """One more, and another range of the first."""

    rate: Annotated[float, Range(least=2)] = 2.0
    steps: Count = 1


def test_dataclasses_inherit_the_check():
    assert Parent(1.5).rate == 1.5
    for make, message in (
        (lambda: Parent(0.0), "rate = 0.0, expected a number above 0"),
        (lambda: Child(1.5), "rate = 1.5, expected a number of at least 2"),
        (lambda: Child(2.0, 0), "steps = 0, expected an integer of at least 1"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            make()
    assert type(Child(2.0, np.int64(3)).steps) is int
    assert list(inspect.signature(Child).parameters) == ["rate", "steps"]


def test_functions_are_checked_too():
    def halved(steps: Count) -> float:
        check_arguments(halved, {"steps": steps})
        return steps / 2

    assert halved(3) == 1.5
    with pytest.raises(ValueError, match="steps = 0, expected an integer of at least 1"):
        halved(0)
