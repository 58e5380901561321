"""A whole configuration from what was given, and objects from it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from ctdiff.config import ConfigError
from ctdiff.recipe.errors import UnknownKey
from ctdiff.recipe.schema import Place, fields_of
from ctdiff.recipe.tree import completed, flatten, made
from ctdiff.recipe.values import Text
from diffusion_core.ranges import CheckedArguments, Count

from .toys import BoxShape, CircleScale, DashedFactor, Frame, HTTPBrush, RoundBrush, Shape, SolidFactor, Stroke

pytestmark = pytest.mark.usefixtures("_toys")


@dataclass(frozen=True)
class Paper(CheckedArguments):
    """A section."""

    width: Count = 4
    title: str = "untitled"


@pytest.fixture
def root(_toys):
    """A configuration of three sections."""
    steps = frozenset({"steps"})
    return Place(
        {
            "paper": Place(fields_of(Paper)),
            "shape": Place(fields_of(Paper, "width"), Shape, "circle", steps),
            "extra": Place(fields_of(Paper, "title"), Stroke, optional=True),
        }
    )


CIRCLE = {"stroke": {"name": "solid", "solid": {"width": 2.5}}, "fill": {"name": "none"}, "radius": 1.0}
BOX = {"sides": 1.0, "depth": None, "mode": "fill", "level": 1, "title": "a box", "closed": True, "brush": "round_brush"}


def test_what_is_not_given_has_its_default(root):
    assert completed(root, {}) == {
        "paper": {"width": 4, "title": "untitled"},
        "shape": {"name": "circle", "title": "untitled", "tension": 0.25, "circle": CIRCLE},
        "extra": {"name": "none"},
    }


def test_a_choice_brings_its_keys_and_takes_the_others_away(root):
    given = {"shape": {"name": "box", "box": {"corners": [0, 1], "sides": 3}}, "extra": {"name": "dashed"}}
    assert completed(root, given) == {
        "paper": {"width": 4, "title": "untitled"},
        "shape": {"name": "box", "title": "untitled", "tension": 0.5, "box": {**BOX, "corners": (0, 1), "sides": (3,)}},
        "extra": {"name": "dashed", "width": 4, "dashed": {"gaps": 3}},
    }


def test_what_is_complete_stays_as_it_is(root):
    given = {"shape": {"name": "circle", "circle": {"fill": {"name": "solid", "solid": {"width": 9.0}}}}}
    once = completed(root, given)
    assert completed(root, once) == once
    assert flatten(once)["shape.circle.fill.solid.width"] == 9.0


def test_what_was_given_is_left_alone(root):
    given = {"shape": {"box": {"corners": [0, 1]}, "tension": Text("1")}}
    completed(root, given)
    assert given == {"shape": {"box": {"corners": [0, 1]}, "tension": "1"}}


@pytest.mark.parametrize(
    "given",
    [
        {"shape": {"box": {"sides": 2.0, "corners": (1, 1)}}},
        {"shape": {"box": {"sides": 2.0}}},  # corners, which have no default, are asked for where a box is chosen
        {"shape": {"frame": {"inner": {"name": "solid", "solid": {"width": 2.0}}}}},
        {"shape": {"circle": {"stroke": {"name": "solid", "dashed": {"gaps": 2}}}}},
        {"shape": {"circle": {"fill": {"dashed": {"gaps": 2}, "solid": {"width": 3.0}}}}},
        {"extra": {"width": 3, "dashed": {"gaps": 9}}},  # settings beside a choice of none
    ],
)
def test_arguments_of_what_is_not_chosen_are_dropped(root, given):
    assert completed(root, given) == completed(root, {})


def test_shared_arguments_that_the_chosen_class_lacks_are_dropped(root):
    assert completed(root, {"shape": {"name": "frame", "tension": 0.7}}) == completed(root, {"shape": {"name": "frame"}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"shape": {"box": {"sides": -2.0}}},
            "config.shape.box.sides = (-2.0,), expected a number above 0, or numbers, each above 0",
        ),
        ({"shape": {"box": {"side": 2.0}}}, "config.shape.box.side is not a key, expected one of sides, depth, mode, "),
        ({"shape": {"circle": {"fill": {"dashed": {"gaps": 0}}}}}, "config.shape.circle.fill.dashed.gaps = 0, expected an "),
        ({"shape": {"name": "frame", "tension": 7.0}}, "config.shape.tension = 7.0, expected a number in [0, 1]"),
        ({"extra": {"width": 0}}, "config.extra.width = 0, expected an integer of at least 1"),
        ({"shape": {"box": {"brush": "broom"}}}, "config.shape.box.brush = 'broom', expected one of http_brush, round_brush"),
    ],
)
def test_arguments_of_what_is_not_chosen_are_checked(root, given, message):
    with pytest.raises(ConfigError) as told:
        completed(root, given)
    assert str(told.value).startswith(message)


@pytest.mark.parametrize(
    ("given", "key", "message"),
    [
        (
            {"shape": {"box": {"sides": Text("2")}}},
            "shape.box.sides",
            "config.shape.box.sides = 2 cannot act: config.shape.name = 'circle', expected 'box'",
        ),
        (
            {"shape": {"circle": {"stroke": {"dashed": {"gaps": Text("2")}}}}},
            "shape.circle.stroke.dashed.gaps",
            "config.shape.circle.stroke.dashed.gaps = 2 cannot act: config.shape.circle.stroke.name = 'solid', "
            "expected 'dashed'",
        ),
        (
            {"extra": {"width": Text("3")}},
            "extra.width",
            "config.extra.width = 3 cannot act: config.extra.name = 'none', expected one of 'dashed', 'solid'",
        ),
        (
            {"shape": {"name": Text("frame"), "tension": Text("0.7")}},
            "shape.tension",
            "config.shape.tension = 0.7 cannot act: config.shape.name = 'frame', expected one of 'box', 'circle'",
        ),
        (
            {"shape": {"box": Text("2")}},
            "shape.box",
            "config.shape.box = 2 cannot act: config.shape.name = 'circle', expected 'box'",
        ),
        (
            {"shape": {"radius": Text("2")}},
            "shape.radius",
            "config.shape.radius is not a key, expected one of name, title, tension, circle, box, frame",
        ),
        (
            {"shape": {"circle": {"radios": 2.0}}},
            "shape.circle.radios",
            "config.shape.circle.radios is not a key, expected one of radius, stroke, fill. Did you mean radius?",
        ),
        (
            {"shap": {"circle": {"radius": Text("2")}}},
            "shap.circle.radius",
            "config.shap.circle.radius is not a key, expected one of paper, shape, extra. Did you mean shape?",
        ),
        ({"shap": {}}, "shap", "config.shap is not a key, expected one of paper, shape, extra. Did you mean shape?"),
        ({"shape": {"box_": {}}}, "shape.box_", "config.shape.box_ is not a key, expected one of name, title, tension, "),
        (
            {"paper": {"name": "thick"}},
            "paper.name",
            "config.paper.name is not a key, expected one of width, title",
        ),
    ],
)
def test_keys_that_there_are_not_or_that_cannot_act(root, given, key, message):
    with pytest.raises(UnknownKey) as told:
        completed(root, given)
    assert str(told.value).startswith(message)
    assert told.value.key == key


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"paper": 3}, "config.paper = 3: it is a section, expected one of its keys, such as config.paper.width"),
        ({"shape": Text("box")}, "config.shape = 'box': it is a section, expected one of its keys, such as config.shape.name"),
        ({"shape": {"circle": [1]}}, "config.shape.circle = [1]: it is a section, expected one of its keys, such as "),
        ({"shape": {"name": "disc"}}, "config.shape.name = 'disc', expected one of box, circle, frame"),
        (
            {"shape": {"name": "circel"}},
            "config.shape.name = 'circel', expected one of box, circle, frame. Did you mean circle",
        ),
        ({"shape": {"name": "none"}}, "config.shape.name = 'none', expected one of box, circle, frame"),
        ({"extra": {"name": "dotted"}}, "config.extra.name = 'dotted', expected one of none, dashed, solid"),
        ({"shape": {"name": "box"}}, "config.shape.box.corners is missing: "),
        ({"shape": {"circle": {"radius": {"a": 1}}}}, "config.shape.circle.radius = {'a': 1}, expected a number in (0, 10)"),
        ({"shape": {"circle": {"radius": None}}}, "config.shape.circle.radius = None, expected a number in (0, 10)"),
    ],
)
def test_wrong_values(root, given, message):
    with pytest.raises(ConfigError) as told:
        completed(root, given)
    assert str(told.value).startswith(message)
    assert not isinstance(told.value, UnknownKey)


def _made(root, steps=3, **shape):
    whole = completed(root, {"shape": shape})
    return made(root.fields["shape"], whole["shape"], "shape", {"steps": steps, "channels": 9, "unasked": None})


def test_objects_have_settings_parts_and_wires(root):
    circle = _made(root, circle={"radius": 2.0, "fill": {"name": "dashed", "dashed": {"gaps": 5}}}, tension=0.75)
    assert type(circle) is CircleScale
    assert (circle.steps, circle.tension, circle.radius) == (3, 0.75, 2.0)
    assert (circle.stroke, circle.fill) == (SolidFactor(2.5), DashedFactor(5))
    assert _made(root).fill is None
    box = _made(root, 4, name="box", box={"corners": (0, 2), "brush": "http_brush", "level": 3})
    assert type(box) is BoxShape
    assert (box.steps, box.corners, box.brush, box.level, box.depth) == (4, (0, 2), HTTPBrush, 3, None)
    frame = _made(root, name="frame")
    assert (type(frame), frame.inner, frame.outer) == (Frame, SolidFactor(7.0), HTTPBrush)
    assert _made(root, name="box", box={"corners": (0, 0)}).brush is RoundBrush


def test_none_makes_nothing(root):
    whole = completed(root, {})
    assert made(root.fields["extra"], whole["extra"], "extra", {}) is None


def test_what_stands_beside_a_choice_is_not_its_argument(root):
    whole = completed(root, {"extra": {"name": "dashed", "width": 8}})
    assert made(root.fields["extra"], whole["extra"], "extra", {}) == DashedFactor(3)


def test_what_a_constructor_refuses_is_told_with_its_key(root):
    with pytest.raises(ConfigError, match=r"^config\.shape\.circle: radius = 9\.5, expected at most 9 for 3 steps$"):
        _made(root, circle={"radius": 9.5})
    whole = completed(root, {"shape": {"circle": {"stroke": {"solid": {"width": 1.0}}}}})
    whole["shape"]["circle"]["stroke"]["solid"]["width"] = -1.0  # past the schema
    expected = re.escape("config.shape.circle.stroke.solid: width = -1.0, expected a number above 0")
    with pytest.raises(ConfigError, match=f"^{expected}$"):
        made(root.fields["shape"], whole["shape"], "shape", {"steps": 3})


def test_flatten_gives_dotted_keys():
    assert flatten({"a": {"b": 1, "c": {"d": (2,)}}, "e": {}}) == {"a.b": 1, "a.c.d": (2,)}
    assert flatten({"b": 1}, "a.") == {"a.b": 1}
