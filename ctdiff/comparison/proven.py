"""The proven properties of samplers, correctors, guidance and bounds, from the section `Proven:` of their docstrings.

The section contains a few sentences, then the tests that prove them, one `folder/file.py::test` a line, relative to `tests`:

    Proven:
        With the exact posterior, the law of the samples converges at first order.

        discrete_diffusion/test_samplers.py::test_first_order_in_total_variation

These properties do not depend on a trained network. The measurements of a comparison do.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from docstring_parser.google import DEFAULT_SECTIONS, GoogleParser, Section, SectionType

from ctdiff import recipe
from diffusion_core import Sampler

__all__ = ["Statement", "of_sampler", "proven", "proven_table", "stated"]

_SECTION = "proven"
_PARSER = GoogleParser([*DEFAULT_SECTIONS, Section("Proven", _SECTION, SectionType.SINGULAR)])
_TEST = re.compile(r"[\w/]+\.py(::\w+)+")
_MISSING = "Nothing: its docstring has no section `Proven:`."


@dataclass(frozen=True)
class Statement:
    """Proven properties.

    Arguments:
        text: the sentences.
        tests: the tests that prove them, `folder/file.py::test`, relative to `tests`.
    """

    text: str
    tests: list[str]


def proven(part: Callable[..., object]) -> Statement:
    """The proven properties of a class or function. If its docstring has no section, the statement says so.

    The docstring of a base class is not used: a subclass may behave differently.

    Arguments:
        part: a class or function of the library or of a user.
    """
    for meta in _PARSER.parse(part.__doc__ or "").meta:
        if meta.args == [_SECTION]:
            lines = (meta.description or "").split("\n")
            tests = [line.strip() for line in lines if _TEST.fullmatch(line.strip())]
            return Statement(" ".join(" ".join(line for line in lines if line.strip() not in tests).split()), tests)
    return Statement(_MISSING, [])


def of_sampler(sampler: Sampler[object], guided: bool) -> Statement:
    """The proven properties of a sampler with its corrector and its guidance.

    Arguments:
        sampler: the sampler of a run.
        guided: whether its denoiser is guided.
    """
    predictor: Sampler[object] = getattr(sampler, "predictor", sampler)
    parts: list[type] = [type(predictor)]
    parts += [type(sampler.corrector)] if hasattr(sampler, "corrector") else []
    parts += [type(predictor.denoiser)] if guided else []
    found = [proven(part) for part in parts]
    tests = dict.fromkeys(test for each in found for test in each.tests)
    return Statement(" ".join(each.text for each in found), list(tests))


def stated(package: ModuleType) -> dict[str, Statement]:
    """The proven properties of all classes and functions with a section `Proven:`, by name.

    Arguments:
        package: the package of an engine; what it and its package `samplers` export is read.
    """
    modules = (importlib.import_module(f"{package.__name__}.samplers"), package)
    found = {name: proven(getattr(module, name)) for module in modules for name in module.__all__}
    return {name: statement for name, statement in found.items() if statement.text != _MISSING}


def proven_table() -> str:
    """All proven properties of both engines, as a Markdown table."""
    lines = ["| engine | part | proven | tests |", "|---|---|---|---|"]
    for engine in recipe.engines().values():
        for name, found in stated(engine.package).items():
            tests = "<br>".join(f"`tests/{test}`" for test in found.tests)
            lines.append(f"| {engine.name} | `{name}` | {found.text.replace('|', chr(92) + '|')} | {tests} |")
    return "\n".join(lines)
