"""Classes of a user's own, chosen as `module:Class`.

What a user types or writes in a configuration file is imported. What a configuration names that was *loaded* (of a run, or
of a model that was downloaded) is imported only if its module is trusted: a file never chooses what is executed. A class is
looked up in the module's source before anything is imported.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from ctdiff.recipe.errors import closest
from ctdiff.recipe.schema import Unfit, members

__all__ = ["is_user_class", "trust", "trust_classes", "user_class"]

_TRUSTED: set[str] = set()


def trust(modules: Iterable[str]) -> None:
    """Let configurations that are loaded name classes of these modules, for the rest of this process."""
    _TRUSTED.update(modules)


def trust_classes(given: Mapping[str, object]) -> None:
    """Trust the modules of the classes that a user has named, in a configuration file or on the command line.

    Arguments:
        given: values by key, dotted or nested.
    """
    for key, value in given.items():
        if isinstance(value, Mapping):
            trust_classes(value)
        elif key.rpartition(".")[2] == "name" and is_user_class(str(value)):
            trust([str(value).partition(":")[0]])


def trusted(name: str) -> bool:
    """Whether the module of `module:Class` is trusted."""
    return name.partition(":")[0] in _TRUSTED


def is_user_class(name: str) -> bool:
    """Whether a name has the form `module:Class`."""
    return ":" in name


def user_class(name: str, base: type, wired: frozenset[str]) -> type:
    """The class `module:Class`, which has to be one that a configuration can choose at a place for `base`.

    Raises:
        Unfit: its module is not trusted or cannot be found, or the class is none that can be chosen for `base`.
    """
    module, _, cls = name.partition(":")
    if not trusted(name):
        raise Unfit(
            f"{name!r} is code of the module {module}, and a configuration that is loaded may not choose what is executed: "
            f"--trust={module} allows it"
        )
    _check_source(module, cls, base)
    try:
        imported = getattr(importlib.import_module(module), cls)
    except Exception as error:  # the module is the user's: whatever it raises is the answer
        raise Unfit(f"{name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(imported, type) and issubclass(imported, base)):
        raise Unfit(f"{name!r} is no subclass of {base.__name__}")
    found: Any = imported
    if inspect.isabstract(found):
        raise Unfit(f"{name!r} is abstract: it lacks {', '.join(sorted(found.__abstractmethods__))}")
    members(found, wired)
    own: type = found
    return own


def _check_source(module: str, cls: str, base: type) -> None:
    """Refuse a class that cannot be a subclass of ours, by the text of its module alone."""
    spec = None if _standard(module) else _spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise Unfit(f"'{module}:{cls}': there is no module {module} of yours, expected the name of a Python file on the path")
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    imported = {name.asname or name.name.partition(".")[0] for node in body for name in _imported(node)}
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}

    def may_be_ours(name: str) -> bool:
        bases = [ast.unparse(each).partition("[")[0].partition(".")[0] for each in classes[name].bases]
        return any(each in imported or (each in classes and each != name and may_be_ours(each)) for each in bases)

    if cls not in classes:
        raise Unfit(f"'{module}:{cls}': {spec.origin} defines no class {cls}{closest(cls, classes)}")
    if not may_be_ours(cls):
        raise Unfit(f"'{module}:{cls}' is no subclass of {base.__name__}")


def _imported(node: ast.stmt) -> list[ast.alias]:
    """What a statement imports from elsewhere than the standard library."""
    if isinstance(node, ast.ImportFrom):
        return [] if _standard(node.module or "") and not node.level else node.names
    return [name for name in node.names if not _standard(name.name)] if isinstance(node, ast.Import) else []


def _standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _spec(module: str) -> ModuleSpec | None:
    """Where a module lies, found without importing anything; the working directory is looked in last."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    path, spec = None, None
    parts = module.split(".")
    for i in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: i + 1]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec
