"""The keys are read from constructors: of toys, and of everything in both engines' trees."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Literal, get_args, get_origin

import pytest

from ctdiff.config import ConfigError
from ctdiff.recipe.engine import Engine, booleans, engines
from ctdiff.recipe.schema import EMPTY, PACKAGES, Place, Setting, Unfit, alternatives, called, fields_of, members
from ctdiff.recipe.values import checked, described
from diffusion_core.ranges import Range, union

from .places import CHOICES, TREES
from .toys import (
    BoxShape,
    Brush,
    CircleScale,
    DashedFactor,
    Dotted,
    Frame,
    HTTPBrush,
    Mark,
    Mesh,
    Outline,
    RoundBrush,
    Shape,
    SolidFactor,
    Spiral,
    Stroke,
)

STEPS = frozenset({"steps"})
toys = pytest.mark.usefixtures("_toys")


# Toys


@toys
def test_the_settings_of_a_class_have_its_types_defaults_and_ranges():
    found = members(BoxShape, STEPS)
    assert {name: (each.kind, each.default, each.allowed) for name, each in found.items()} == {
        "corners": (tuple[int, int], EMPTY, Range(least=-1)),
        "tension": (float, 0.5, Range(least=0, most=1)),
        "sides": (float | Sequence[float], 1.0, Range(above=0)),
        "depth": (int | None, None, Range(least=1)),
        "mode": (Literal["fill", "line"], "fill", None),
        "level": (Literal[1, 3], 1, None),
        "title": (str, "a box", None),
        "closed": (bool, True, None),
        "brush": (type[Brush], "round_brush", None),
    }
    assert all(each.owner is BoxShape and each.name == name for name, each in found.items())


@toys
def test_a_meaning_is_of_the_class_or_of_one_above_it():
    found = members(CircleScale, STEPS)
    assert found["radius"].meaning == "of the circle."
    assert found["tension"].meaning == "of all shapes."
    assert members(SolidFactor, frozenset())["width"].meaning == "how wide it is."
    assert members(BoxShape, STEPS)["title"].meaning == ""


@toys
def test_a_part_of_a_class_is_a_place_with_the_values_of_its_default():
    found = members(CircleScale, STEPS)
    assert list(found) == ["tension", "radius", "stroke", "fill"]  # observer has a default, and can be no setting
    stroke, fill = found["stroke"], found["fill"]
    assert (stroke.base, stroke.default, stroke.optional, stroke.choices()) == (Stroke, "solid", False, ["dashed", "solid"])
    assert (fill.base, fill.default, fill.optional, fill.choices()) == (Stroke, "none", True, ["none", "dashed", "solid"])
    assert stroke.around(SolidFactor)["solid"].fields["width"].default == 2.5  # of this stroke
    assert fill.around(SolidFactor)["solid"].fields["width"].default == 1.0  # of the class
    assert stroke.around(DashedFactor)["dashed"].fields["gaps"].default == 3  # of another class
    assert fill.around(None) == {}


@toys
def test_the_values_of_a_default_go_through_every_level():
    frame = Place({}, Shape, wired=STEPS, instance=Frame(1, SolidFactor(4.0)))
    own = frame.around(Frame)["frame"]
    assert own.fields["inner"].around(SolidFactor)["solid"].fields["width"].default == 4.0
    assert own.fields["outer"].default == "http_brush"
    circle = Place({}, Shape, wired=STEPS, instance=CircleScale(1, fill=SolidFactor(3.0)))
    fill = circle.around(CircleScale)["circle"].fields["fill"]
    assert (fill.default, fill.around(SolidFactor)["solid"].fields["width"].default) == ("solid", 3.0)
    without = Place({}, Shape, wired=STEPS, instance=CircleScale(1)).around(CircleScale)["circle"].fields["fill"]
    assert (without.default, without.choices()) == ("none", ["none", "dashed", "solid"])


@toys
def test_arguments_of_the_base_class_are_shared():
    place = Place({"title": Setting("title", Shape, str, "")}, Shape, "circle", STEPS)
    around = place.around(CircleScale)
    assert list(around) == ["title", "tension", "circle"]
    assert around["tension"].default == 0.25  # as of the class that is chosen
    assert list(around["circle"].fields) == ["radius", "stroke", "fill"]
    assert list(place.around(Frame)) == ["title", "frame"]  # which has no tension


@toys
def test_alternatives_are_concrete_exported_and_fit():
    assert dict(alternatives(Shape, STEPS)) == {"box": BoxShape, "circle": CircleScale, "frame": Frame}
    assert Place({}, Shape, "box", STEPS, optional=True).choices() == ["none", "box", "circle", "frame"]
    assert {"spiral"} == set(alternatives(Shape, STEPS | {"channels"})) - set(alternatives(Shape, STEPS))
    assert dict(alternatives(Brush)) == {"http_brush": HTTPBrush, "round_brush": RoundBrush}  # not called: whatever they take
    assert dict(alternatives(Brush, frozenset())) == {}  # called, they lack hairs
    assert issubclass(Dotted, Stroke)
    assert list(alternatives(Stroke, frozenset())) == ["dashed", "solid"]


@toys
@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (Outline, "the argument shape of Outline can be no setting"),
        (Mesh, "the argument points of Mesh can be no setting"),
        (Spiral, "Spiral needs channels, which it is not given here"),
        (HTTPBrush, "the argument hairs of HTTPBrush can be no setting"),
    ],
)
def test_unfit_classes_say_why(cls, why):
    with pytest.raises(Unfit, match=f"^{why}$"):
        members(cls, STEPS)


def test_without_a_wire_of_its_name_an_argument_is_missed():
    with pytest.raises(Unfit, match=r"^BoxShape needs steps, which it is not given here$"):
        members(BoxShape, frozenset())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GaussianTargetRates", "gaussian_target"),
        ("CosineSurvival", "cosine"),
        ("UViT", "u_vi_t"),
        ("ELBOAndCrossEntropy", "elbo_and_cross_entropy"),
        ("BoundedLogSNRGrid", "bounded_log_snr"),
        ("EMNIST", "emnist"),
        ("X0Denoiser", "x0"),
        ("MinSNR", "min_snr"),
        ("Times", "times"),  # nothing would be left of it
        ("LossOfAll", "loss_of_all"),
    ],
)
def test_names_are_snake_case_without_the_kind(name, expected):
    assert called(type(name, (), {})) == expected


def test_a_name_of_its_own_is_not_inherited():
    assert called(BoxShape) == "box"
    assert called(type("Tall", (BoxShape,), {})) == "tall"
    assert called(type("Odd", (), {"name": property(lambda self: 1)})) == "odd"


@toys
def test_a_module_of_another_package_offers_nothing(monkeypatch):
    """A user's module may have a name that begins like one of ours, and a class of the same name."""
    module = ModuleType(f"{Stroke.__module__}_of_mine")
    module.SolidFactor = type("SolidFactor", (SolidFactor,), {"__module__": module.__name__})
    module.__all__ = ["SolidFactor"]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert dict(alternatives.__wrapped__(Stroke, frozenset())) == {"dashed": DashedFactor, "solid": SolidFactor}


@toys
def test_two_classes_of_one_name_are_refused():
    with pytest.raises(TypeError, match=r"^(Tick and TickFactor|TickFactor and Tick) are both called 'tick'$"):
        alternatives(Mark, frozenset())


@toys
def test_what_is_chosen_may_not_hide_a_key():
    place = Place({"circle": Setting("circle", Shape, str, "")}, Shape, "circle", STEPS)
    with pytest.raises(Unfit, match=r"^CircleScale is called 'circle' in keys, expected a name .* no key beside it: set its "):
        place.around(CircleScale)


@dataclass
class Section:
    """Settings of a section, where every name can be one."""

    steps: int = 3
    device: str = "cpu"
    extra: object = None


def test_fields_of_a_section_may_have_any_name():
    assert {name: each.default for name, each in fields_of(Section).items()} == {"steps": 3, "device": "cpu"}
    assert list(fields_of(Section, "device")) == ["steps"]


def _draw(steps: int, width: Annotated[float, Range(above=0)] = 2.0, observer: object = None) -> None:
    """Draw.

    Arguments:
        steps: how many
            there are.
        width: how wide each is.
        observer: no setting.
    """


def test_a_function_has_settings_like_a_class():
    found = fields_of(_draw)
    assert found == {
        "steps": Setting("steps", _draw, int, EMPTY),
        "width": Setting("width", _draw, float, 2.0, Range(above=0)),
    }
    assert [each.meaning for each in found.values()] == ["how many there are.", "how wide each is."]


# The trees of both engines

SETTINGS = [
    pytest.param(key, member, id=f"{engine} {key}")
    for engine, found in TREES.items()
    for key, member in found.items()
    if isinstance(member, Setting)
]


def test_the_engines_are_two():
    assert list(engines()) == ["discrete", "gaussian"]
    assert {type(engine) for engine in engines().values()} == set(Engine.__subclasses__())
    for engine in engines().values():  # what has no default in the protocol
        assert {"process", "pixels", "network", "guided", "ends", "described"} <= vars(type(engine)).keys()
        assert {"name", "title", "package", "loss", "fields", "places"} <= vars(type(engine)).keys()


@pytest.mark.parametrize(("engine", "key"), [pytest.param(e, k, id=f"{e} {k}") for e, found in CHOICES.items() for k in found])
def test_every_place_has_its_alternatives(engine, key):
    assert set(CHOICES[engine][key].split()) <= set(TREES[engine][key].choices())


@pytest.mark.parametrize("engine", CHOICES)
def test_every_place_with_a_choice_is_listed(engine):
    choices = {key for key, member in TREES[engine].items() if isinstance(member, Place) and len(member.choices()) > 1}
    assert choices == set(CHOICES[engine])
    for key in choices:
        assert TREES[engine][key].default in TREES[engine][key].choices()


def test_there_are_as_many_settings_as_there_were():
    assert len(SETTINGS) > 300
    assert {"model.unet.learned_null", "data.quantise", "model.uvit.final_conv"} <= {each.values[0] for each in SETTINGS}
    assert {"quantise", "argmax", "download", "use_checkpoint", "learned_variance"} <= booleans()


def _numbers(kind):
    """Whether a type is made of numbers that need a range."""
    return kind in (int, float) or any(
        _numbers(each) for each in (*([] if union(kind) == (kind,) else union(kind)), *getattr(kind, "__args__", ()))
    )


@pytest.mark.parametrize(("key", "setting"), SETTINGS)
def test_every_setting_has_a_meaning_and_every_number_a_range(key, setting):
    assert setting.meaning != "" or key == "process.engine"
    assert (setting.allowed is not None) == _numbers(setting.kind)
    assert (
        setting.allowed is None
        or any(end is not None for end in vars(setting.allowed).values())
        or key.rpartition(".")[2] in FREE
    )
    assert described(setting) != ""


FREE = ("attention_levels", "time_scale", "mu", "log_snr_max", "log_snr_min")
"""Numbers whose range is all: levels that the network knows, and log-SNRs."""


@pytest.mark.parametrize(("key", "setting"), SETTINGS)
def test_every_default_fits_its_type_and_range(key, setting):
    if setting.default is not EMPTY:
        value = checked(key, setting.default, setting)
        assert value == setting.default or value == (setting.default,)
    else:
        assert key.rpartition(".")[2] in ("path", "edges")


def test_objects_that_are_defaults_keep_their_arguments():
    """Their values are the defaults of the keys, so each has to be an attribute of the name of its argument."""
    kept = [place for found in TREES.values() for place in found.values() if isinstance(place, Place) and place.instance]
    assert len(kept) > 10
    for place in kept:
        assert all(hasattr(place.instance, name) for name in members(type(place.instance), place.wired)), place


def test_what_is_left_out_can_be_no_setting():
    exported = set()
    for package in PACKAGES:
        module = __import__(package, fromlist=["__all__"])
        exported |= {cls for name in module.__all__ if inspect.isclass(cls := getattr(module, name))}
    for found in TREES.values():
        for place in found.values():
            if not isinstance(place, Place) or place.base is None:
                continue
            chosen = set(alternatives(place.base, place.wired).values())
            for cls in exported:
                if issubclass(cls, place.base) and not inspect.isabstract(cls) and cls not in chosen:
                    with pytest.raises(Unfit):  # else it could be chosen at this key
                        members(cls, place.wired)


# Numbers just outside their ranges, and just inside


def _ends(setting):
    """Values just outside the range of a setting, and values just inside."""
    allowed, kinds = setting.allowed, union(setting.kind)
    integer = any(kind is int or int in get_args(kind) for kind in kinds)
    outside, inside = [math.nan] if not integer else [], []
    for closed, opened, direction in ((allowed.least, allowed.above, -1), (allowed.most, allowed.below, 1)):
        end = opened if closed is None else closed
        if end is None:
            outside += [] if integer else [direction * math.inf]
            continue
        end = int(end) if integer else float(end)
        beyond, within = (
            (end + direction, end - direction)
            if integer
            else (math.nextafter(end, direction * math.inf), math.nextafter(end, -direction * math.inf))
        )
        outside.append(end if closed is None else beyond)
        inside.append(within if closed is None else end)
    return outside, inside


@pytest.mark.parametrize(("key", "setting"), [each for each in SETTINGS if each.values[1].allowed is not None])
def test_a_value_just_outside_is_refused_by_its_key(key, setting):
    outside, inside = _ends(setting)
    length = next((len(get_args(kind)) for kind in union(setting.kind) if get_origin(kind) in (tuple, Sequence)), 0)
    several = length > 0 and not any(kind in (int, float) for kind in union(setting.kind))
    for value in outside:
        given = (*(inside * 2)[: length - 1], value) if several else value  # one wrong item is enough
        with pytest.raises(ConfigError, match=rf"^config\.{re.escape(key)} = .*{re.escape(repr(value))}.*, expected .*"):
            checked(key, given, setting)
    for value in inside:
        checked(key, (value,) * length if several else value, setting)
    assert outside or key.endswith(("attention_levels",))  # the network knows its levels
