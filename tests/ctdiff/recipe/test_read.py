"""Every key is read: a setting that nothing reads would change nothing."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ctdiff
from ctdiff.recipe.schema import Setting
from ctdiff.recipe.sections import Training

from .places import TREES

FOLDER = Path(ctdiff.__file__).parent
SETTINGS = sorted({(key, each) for tree in TREES.values() for key, each in tree.items() if isinstance(each, Setting)}, key=str)
OF_SECTIONS = [(key, each) for key, each in SETTINGS if each.owner.__module__.startswith(("ctdiff.recipe", "ctdiff.data.prep"))]
OF_CLASSES = [(key, each) for key, each in SETTINGS if (key, each) not in OF_SECTIONS]
OTHER_NAMES = {"settings"}
"""What functions call a section that they are given."""


def attributes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Everything that is read as `owner.name`, or as `owner["name"]`: the last name of the owner, and the name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            name: object = node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            name = node.slice.value
        else:
            continue
        owner = node.value
        yield getattr(owner, "attr", getattr(owner, "id", "")), str(name)


@cache
def read_in_ctdiff() -> frozenset[tuple[str, str]]:
    """What the package reads."""
    return frozenset(each for path in FOLDER.rglob("*.py") for each in attributes(ast.parse(path.read_text(encoding="utf-8"))))


def read_by(cls: type, name: str) -> bool:
    """Whether a class, or one above it, reads one of its arguments."""
    for base in cls.__mro__:
        if base.__module__ == "builtins":
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        read = {name for owner, name in attributes(tree) if owner in ("self", "schedule")}
        if name in read | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}:
            return True
    return False


def is_read(key: str, setting: Setting) -> bool:
    """Whether a setting of a section is read: as `section.name`, or by its own class, as of `Preparation`."""
    section, name = key.split(".")[-2:]
    if any((owner, name) in read_in_ctdiff() for owner in (section, *OTHER_NAMES)):
        return True
    return setting.owner.__module__ != "ctdiff.recipe.sections" and read_by(setting.owner, name)


def test_every_setting_is_found() -> None:
    owners = {setting.owner.__name__ for _, setting in OF_SECTIONS}
    names = "Chain Evidence Interval Labels Preparation Sampling Saving Training Variance Withheld"
    assert owners == {*names.split()}
    assert len(OF_SECTIONS) > 35
    assert len(OF_CLASSES) > 100


@pytest.mark.parametrize(("key", "setting"), OF_SECTIONS, ids=lambda each: each if isinstance(each, str) else "")
def test_every_setting_of_a_section_is_read(key: str, setting: Setting) -> None:
    assert is_read(key, setting), f"config.{key} is read by nothing in {FOLDER.name}"


def test_every_argument_of_a_class_is_read_by_it() -> None:
    """The recipe gives every argument to what is chosen; its class has to read it."""
    unread = [key for key, setting in OF_CLASSES if not read_by(setting.owner, setting.name)]
    assert not unread


class Forgetful:
    """A class with an argument that it does not read."""

    def __init__(self, used: float, unused: float) -> None:
        self.value = 2 * used


def test_what_nothing_reads_is_found() -> None:
    assert read_by(Forgetful, "used")
    assert not read_by(Forgetful, "unused")
    for key in ("training.patience", "data.contrast", "saving.used"):
        assert not is_read(key, Setting(key.split(".")[1], Forgetful if "data" in key else Training, float, 0.0))
