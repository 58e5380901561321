"""The proven properties of samplers, correctors, guidance and bounds, from the section `Proven:` of their docstrings.

A property is called proven if a test compares the code with an exact result. The section first states the properties in a few
sentences. Then it lists the tests, one `folder/file.py::test` a line, relative to `tests`:

    Proven:
        With the exact posterior, the law of the samples converges at first order.

        discrete_diffusion/test_samplers.py::test_first_order_in_total_variation

These properties do not depend on a trained network, but the measurements of a comparison do.
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
    """Proven properties, and the tests that compare them with exact results.

    Arguments:
        text: the sentences that state the properties.
        tests: the tests, `folder/file.py::test`, relative to `tests`.
    """

    text: str
    tests: list[str]


def proven(part: Callable[..., object]) -> Statement:
    """Return the proven properties of a class or function. Without a section `Proven:`, the text says that there are none.

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
    """Return the proven properties of a sampler, including those of its corrector and its guidance.

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
    """Return a dictionary from the names of all classes and functions with a section `Proven:` to their properties.

    Arguments:
        package: the package of an engine. The exports of this package and of its package `samplers` are searched.
    """
    modules = (importlib.import_module(f"{package.__name__}.samplers"), package)
    found = {name: proven(getattr(module, name)) for module in modules for name in module.__all__}
    return {name: statement for name, statement in found.items() if statement.text != _MISSING}


def proven_table() -> str:
    """Return a Markdown table of all proven properties of both engines."""
    lines = ["| engine | part | proven | tests |", "|---|---|---|---|"]
    for engine in recipe.engines().values():
        for name, found in stated(engine.package).items():
            tests = "<br>".join(f"`tests/{test}`" for test in found.tests)
            lines.append(f"| {engine.name} | `{name}` | {found.text.replace('|', chr(92) + '|')} | {tests} |")
    return "\n".join(lines)
