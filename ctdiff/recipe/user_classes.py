"""Classes of the user, chosen as `module:Class`.

A class is imported if the user typed its name or wrote it in a configuration file. A *loaded* configuration (of a run, or of
a model that was downloaded) can also name a class. Such a class is imported only if its module is trusted: a file never
chooses what is executed. Before anything is imported, the class is looked up in the source of the module.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ctdiff.recipe.errors import closest
from ctdiff.recipe.schema import Place, Unfit, called
from ctdiff.recipe.values import flatten
from diffusion_core.ranges import arguments

__all__ = ["is_user_class", "key_of", "trust", "trust_classes", "user_class", "user_modules"]

_TRUSTED: set[str] = set()


def trust(modules: Iterable[str]) -> None:
    """Allow loaded configurations to name classes of these modules, until this process ends."""
    _TRUSTED.update(modules)


def trust_classes(given: Mapping[str, object]) -> None:
    """Trust the classes that the user has named, in a configuration file or on the command line.

    Arguments:
        given: values by key, dotted or nested.
    """
    trust(_user_classes(given))


def user_modules(given: Mapping[str, object]) -> list[str]:
    """Return the modules of the user's classes in a configuration, which `--trust` needs, in alphabetical order.

    Arguments:
        given: values by key, dotted or nested.
    """
    return sorted({name.partition(":")[0] for name in _user_classes(given)})


def _user_classes(given: Mapping[str, object]) -> list[str]:
    chosen = (str(value) for key, value in flatten(given).items() if key.rpartition(".")[2] == "name")
    return list(filter(is_user_class, chosen))


def is_user_class(name: str) -> bool:
    """Return whether a name has the form `module:Class`."""
    module, _, cls = name.partition(":")
    return bool(module and cls)


def key_of(name: str) -> str:
    """Return the key of the settings of a class `module:Class` in a configuration; empty if the class cannot be imported."""
    try:
        return called(_imported_class(name, object))
    except Unfit:
        return ""


def user_class(name: str, place: Place) -> type:
    """Return the class `module:Class`, a further alternative of a place.

    Raises:
        Unfit: its module is not trusted or cannot be found, or the class cannot be chosen at this place.
    """
    assert place.base is not None
    found = _imported_class(name, place.base)
    if lacking := sorted(getattr(found, "__abstractmethods__", ())):
        raise Unfit(f"it is abstract: it lacks {', '.join(lacking)}")
    try:
        arguments(found)
    except Exception as error:  # annotations of the user can raise anything
        what = f"{type(error).__name__}: {error}"
        raise Unfit(f"it has annotations that cannot be evaluated: {what}; import what they name at the top") from error
    place.around(found)
    return found


def _imported_class(name: str, base: type) -> type:
    """Import the class `module:Class` of a trusted module, a subclass of `base`."""
    module, _, cls = name.partition(":")
    if not {module, name} & _TRUSTED:
        code = f"code of the module {module}, and a configuration that is loaded may not choose what is executed"
        raise Unfit(f"it is {code}: --trust={module} allows it")
    _check_source(module, cls, base)
    try:
        found = getattr(importlib.import_module(module), cls)
    except Exception as error:  # code of the user can raise anything
        raise Unfit(f"it cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise Unfit(f"it is no subclass of {base.__name__}")
    return found


def _check_source(module: str, cls: str, base: type) -> None:
    """Raise an error if the source of a module shows that its class cannot be a subclass of `base`."""
    if _standard(module) or (file := _file(module)) is None:
        raise Unfit(f"there is no module {module} of yours, expected the name of a Python file on the path")
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError) as error:
        raise Unfit(f"{file} is no Python: {error}") from error
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    if cls not in classes:
        raise Unfit(f"{file} defines no class {cls}{closest(cls, classes)}")
    if cls not in _perhaps_ours(body):
        raise Unfit(f"it is no subclass of {base.__name__}")


def _perhaps_ours(body: Sequence[ast.stmt]) -> set[str]:
    """Return the names in a module that can stand for the library: imports, and classes with a base class among them."""
    ours: set[str] = set()
    defined = {*dir(builtins), *(node.name for node in body if isinstance(node, ast.ClassDef))}
    for statement in body:  # in this order: a class is defined after its base classes
        for node in ast.walk(statement):
            ours.update(name.asname or name.name.partition(".")[0] for name in _imported(node))
        if isinstance(statement, ast.ClassDef):
            bases = {ast.unparse(base).partition("[")[0].partition(".")[0] for base in statement.bases}
            inherits = bases & ours or ("*" in ours and bases - defined)
            ours = ours | {statement.name} if inherits else ours - {statement.name}
    return ours


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
