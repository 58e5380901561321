"""One value: read from text by the type of its setting, and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pytest

from ctdiff.config import ConfigError
from ctdiff.recipe.schema import Setting
from ctdiff.recipe.values import Text, checked, described, names
from diffusion_core.ranges import Range

from .toys import Brush, Shape

ABOVE = Range(above=0)
COUNT = Range(least=1)
KINDS = {
    "number": Setting("a", Shape, float, 1.0, ABOVE),
    "finite": Setting("a", Shape, float, 1.0, Range()),
    "integer": Setting("a", Shape, int, 1, COUNT),
    "seed": Setting("a", Shape, int, 1, Range(least=0, below=2**64)),
    "boolean": Setting("a", Shape, bool, True),
    "text": Setting("a", Shape, str, ""),
    "optional number": Setting("a", Shape, float | None, None, ABOVE),
    "optional text": Setting("a", Shape, str | None, None),
    "pair": Setting("a", Shape, tuple[float, float], (0.5, 0.5), Range(least=0, below=1)),
    "integers": Setting("a", Shape, Sequence[int], (1,), COUNT),
    "one or several": Setting("a", Shape, int | Sequence[int], 4, COUNT),
    "one, several or none": Setting("a", Shape, int | Sequence[int] | None, None, COUNT),
    "word": Setting("a", Shape, Literal["auto", "float32"], "auto"),
    "number of a few": Setting("a", Shape, Literal[1, 3], 1),
    "class": Setting("a", Shape, type[Brush], "round_brush"),
}


def _same(value, expected):
    """Equal and of the same types: True is not 1."""
    assert value == expected
    assert type(value) is type(expected)
    if isinstance(value, tuple):
        assert [type(item) for item in value] == [type(item) for item in expected]


@pytest.mark.usefixtures("_toys")
@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("number", "2.5", 2.5),
        ("number", "1e-3", 1e-3),
        ("number", "2", 2),  # an integer will do
        ("finite", "-1e4", -1e4),
        ("integer", "7", 7),
        ("seed", str(2**64 - 1), 2**64 - 1),
        *(("boolean", text, True) for text in ("true", "True", "TRUE", "t", "yes", "1")),
        *(("boolean", text, False) for text in ("false", "False", "f", "no", "No", "0")),
        ("text", "a b=c", "a b=c"),
        ("text", "3", "3"),
        ("text", "(1, 2)", "(1, 2)"),
        ("text", "", ""),
        ("text", "none", "none"),  # which is no value of its own where there must be one
        ("optional number", "none", None),
        ("optional number", "None", None),
        ("optional number", "0.5", 0.5),
        ("optional text", "none", None),
        ("optional text", "some", "some"),
        ("pair", "(0.9, 0.99)", (0.9, 0.99)),
        ("pair", "[0.9, 0.99]", (0.9, 0.99)),
        ("pair", "0.9, 0.99", (0.9, 0.99)),
        ("integers", "(8, 16)", (8, 16)),
        ("integers", "8", (8,)),
        ("one or several", "3", (3,)),
        ("one or several", "(3,)", (3,)),
        ("one or several", "(3, 4)", (3, 4)),
        ("one, several or none", "none", None),
        ("one, several or none", "2", (2,)),
        ("word", "float32", "float32"),
        ("number of a few", "3", 3),
        ("class", "http_brush", "http_brush"),
    ],
)
def test_text_of_every_type(kind, text, expected):
    _same(checked("s.a", Text(text), KINDS[kind]), expected)


@pytest.mark.usefixtures("_toys")
@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("number", 2, 2),
        ("optional number", None, None),
        ("pair", [0.9, 0.99], (0.9, 0.99)),
        ("integers", [], ()),
        ("one or several", 3, (3,)),
        ("boolean", False, False),
        ("class", "round_brush", "round_brush"),
        ("number of a few", 1, 1),
    ],
)
def test_values_that_are_none_of_text(kind, value, expected):
    _same(checked("s.a", value, KINDS[kind]), expected)


@pytest.mark.usefixtures("_toys")
@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("number", Text("fast"), "'fast', expected a number above 0"),
        ("number", Text(""), "'', expected a number above 0"),
        ("number", Text("none"), "'none', expected a number above 0"),
        ("number", Text("True"), "True, expected a number above 0"),
        ("number", Text("nan"), "'nan', expected a number above 0"),
        ("number", Text("1e999"), "inf, expected a number above 0"),
        ("number", Text("2*3"), "'2*3', expected a number above 0"),
        ("number", Text("__import__('os')"), "\"__import__('os')\", expected a number above 0"),
        ("number", Text("(1.0,)"), "(1.0,), expected a number above 0"),
        ("number", 0.0, "0.0, expected a number above 0"),
        ("number", "2.5", "'2.5', expected a number above 0"),  # a text of JSON is no number
        ("number", math.nan, "nan, expected a number above 0"),
        ("number", True, "True, expected a number above 0"),
        ("number", {"b": 1}, "{'b': 1}, expected a number above 0"),
        ("finite", math.inf, "inf, expected a number"),
        ("integer", Text("1.5"), "1.5, expected an integer of at least 1"),
        ("integer", Text("many"), "'many', expected an integer of at least 1"),
        ("integer", 2.0, "2.0, expected an integer of at least 1"),
        ("integer", 0, "0, expected an integer of at least 1"),
        ("integer", True, "True, expected an integer of at least 1"),
        ("boolean", Text("maybe"), "'maybe', expected True or False"),
        ("boolean", Text("2"), "'2', expected True or False"),
        ("boolean", 1, "1, expected True or False"),
        ("boolean", "true", "'true', expected True or False"),
        ("text", 3, "3, expected a text"),
        ("text", None, "None, expected a text"),
        ("optional text", 3, "3, expected a text, or none"),
        ("optional number", Text("-1"), "-1, expected a number above 0, or none"),
        ("optional number", Text("never"), "'never', expected a number above 0, or none"),
        ("pair", Text("(0.9,)"), "(0.9,), expected 2 numbers, each in [0, 1)"),
        ("pair", Text("0.9"), "(0.9,), expected 2 numbers, each in [0, 1)"),
        ("pair", (0.9, 0.9, 0.9), "(0.9, 0.9, 0.9), expected 2 numbers, each in [0, 1)"),
        ("pair", (0.9, 1.0), "(0.9, 1.0), expected 2 numbers, each in [0, 1)"),
        ("integers", Text("(8, 'a')"), "(8, 'a'), expected integers, each of at least 1"),
        ("integers", (8, 2.5), "(8, 2.5), expected integers, each of at least 1"),
        ("integers", Text("(8, 0)"), "(8, 0), expected integers, each of at least 1"),
        ("integers", "88", "'88', expected integers, each of at least 1"),
        ("integers", {}, "{}, expected integers, each of at least 1"),
        ("integers", None, "None, expected integers, each of at least 1"),
        ("one or several", Text("none"), "'none', expected an integer of at least 1, or integers, each of at least 1"),
        ("one or several", True, "True, expected an integer of at least 1, or integers, each of at least 1"),
        ("word", Text("half"), "'half', expected one of auto, float32"),
        ("word", Text("float23"), "'float23', expected one of auto, float32. Did you mean float32?"),
        ("word", ("auto",), "('auto',), expected one of auto, float32. Did you mean auto?"),
        ("number of a few", Text("2"), "2, expected one of 1, 3"),
        ("number of a few", 2, "2, expected one of 1, 3"),
        ("number of a few", True, "True, expected one of 1, 3"),  # which is equal to 1
        ("number of a few", 3.0, "3.0, expected one of 1, 3"),
        ("class", Text("round"), "'round', expected one of http_brush, round_brush. Did you mean round_brush?"),
        ("class", None, "None, expected one of http_brush, round_brush"),
    ],
)
def test_what_is_refused_is_told_with_key_value_and_what_is_allowed(kind, value, message):
    with pytest.raises(ConfigError) as told:
        checked("s.a", value, KINDS[kind])
    assert str(told.value).startswith(f"config.s.a = {message}")


@pytest.mark.usefixtures("_toys")
def test_names_of_settings_that_have_a_few_values():
    assert names(KINDS["word"]) == ["auto", "float32"]
    assert names(KINDS["number of a few"]) == [1, 3]
    assert names(KINDS["class"]) == ["http_brush", "round_brush"]
    assert names(KINDS["number"]) == names(KINDS["text"]) == names(KINDS["boolean"]) == []


@pytest.mark.usefixtures("_toys")
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("number", "a number above 0"),
        ("finite", "a number"),
        ("integer", "an integer of at least 1"),
        ("boolean", "True or False"),
        ("text", "a text"),
        ("optional number", "a number above 0, or none"),
        ("pair", "2 numbers, each in [0, 1)"),
        ("integers", "integers, each of at least 1"),
        ("one or several", "an integer of at least 1, or integers, each of at least 1"),
        ("one, several or none", "an integer of at least 1, or integers, each of at least 1, or none"),
        ("word", "one of auto, float32"),
        ("class", "one of http_brush, round_brush"),
    ],
)
def test_what_a_setting_may_be_in_words(kind, words):
    assert described(KINDS[kind]) == words
