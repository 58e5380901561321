"""Classes of the user, chosen as `module:Class`.

A class is imported if the user typed its name or wrote it in a configuration file. A *loaded* configuration (of a run, or of
a model that was downloaded) can also name a class. Such a class is imported only if its module is trusted: a file never
chooses what is executed. Before anything is imported, the class is looked up in the source of the module.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ctdiff.recipe.errors import closest
from ctdiff.recipe.schema import Unfit, called, members

__all__ = ["is_user_class", "key_of", "trust", "trust_classes", "user_class"]

_TRUSTED: set[str] = set()


def trust(modules: Iterable[str]) -> None:
    """Allow loaded configurations to name classes of these modules, until this process ends."""
    _TRUSTED.update(modules)


def trust_classes(given: Mapping[str, object]) -> None:
    """Trust the classes that the user has named, in a configuration file or on the command line.

    Arguments:
        given: values by key, dotted or nested.
    """
    for key, value in given.items():
        if isinstance(value, Mapping):
            trust_classes(value)
        elif str(key).rpartition(".")[2] == "name" and is_user_class(str(value)):
            trust([str(value)])


def is_user_class(name: str) -> bool:
    """Return whether a name has the form `module:Class`."""
    module, _, cls = name.partition(":")
    return bool(module and cls)


def key_of(name: str) -> str:
    """Return what the settings of a class `module:Class`, which was chosen before, are called in a configuration."""
    module, _, cls = name.partition(":")
    return called(getattr(sys.modules[module], cls)) if module in sys.modules else ""


def user_class(name: str, base: type, wired: frozenset[str]) -> type:
    """Return the class `module:Class`, an alternative of `base`.

    Raises:
        Unfit: its module is not trusted or cannot be found, or the class cannot be chosen as an alternative of `base`.
    """
    module, _, cls = name.partition(":")
    if module not in _TRUSTED and name not in _TRUSTED:
        raise Unfit(
            f"{name!r} is code of the module {module}, and a configuration that is loaded may not choose what is executed: "
            f"--trust={module} allows it"
        )
    _check_source(module, cls, base)
    try:
        imported = getattr(importlib.import_module(module), cls)
    except Exception as error:  # code of the user can raise anything
        raise Unfit(f"{name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(imported, type) and issubclass(imported, base)):
        raise Unfit(f"{name!r} is no subclass of {base.__name__}")
    found: Any = imported
    if inspect.isabstract(found):
        raise Unfit(f"{name!r} is abstract: it lacks {', '.join(sorted(found.__abstractmethods__))}")
    try:
        members(found, wired)
    except NameError as error:
        raise Unfit(f"{name!r} has annotations that cannot be evaluated: {error}; import what they name at the top") from error
    own: type = found
    return own


def _check_source(module: str, cls: str, base: type) -> None:
    """Refuse a class that cannot be a subclass of `base`, judging by the source of its module."""
    if _standard(module) or (file := _file(module)) is None:
        raise Unfit(f"'{module}:{cls}': there is no module {module} of yours, expected the name of a Python file on the path")
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError) as error:
        raise Unfit(f"'{module}:{cls}': {file} is no Python: {error}") from error
    imported = {
        name.asname or name.name.partition(".")[0] for part in body for node in ast.walk(part) for name in _imported(node)
    }
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}

    def may_be_ours(name: str, *seen: str) -> bool:
        bases = [ast.unparse(each).partition("[")[0].partition(".")[0] for each in classes[name].bases]
        local = [each for each in bases if each in classes and each not in (name, *seen)]
        elsewhere = [each for each in bases if each in imported or ("*" in imported and each not in (*classes, *dir(builtins)))]
        return bool(elsewhere) or any(may_be_ours(each, name, *seen) for each in local)

    if cls not in classes:
        raise Unfit(f"'{module}:{cls}': {file} defines no class {cls}{closest(cls, classes)}")
    if not may_be_ours(cls):
        raise Unfit(f"'{module}:{cls}' is no subclass of {base.__name__}")


def _imported(node: ast.AST) -> list[ast.alias]:
    """Return the names that a statement imports, except those of the standard library."""
    if isinstance(node, ast.ImportFrom):
        return [] if _standard(node.module or "") and not node.level else node.names
    return [name for name in node.names if not _standard(name.name)] if isinstance(node, ast.Import) else []


def _standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _file(module: str) -> Path | None:
    """The file of a module on the path, found without importing anything. The working directory is the last place."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    places = [Path(folder, *module.split(".")) for folder in sys.path]
    files = (file for place in places for file in (place / "__init__.py", place.with_name(f"{place.name}.py")))
    return next((file.resolve() for file in files if file.is_file()), None)
