"""Presets: the files of the folder `configs`, and configuration files of a user's own.

The presets are those beside this package, whatever is on the path: a user's project may have a folder `configs` of its
own. A configuration file sees both, the presets first: `from configs import mnist` is ours, `from configs import base` is
the project's where it has one. It can import its neighbours too.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

__all__ = ["FOLDER", "evaluate", "names"]

FOLDER = Path(__file__).resolve().parent.parent / "configs"
"""Where the presets are."""

_PACKAGE = "configs"


def names() -> list[str]:
    """The presets that there are.

    Raises:
        FileNotFoundError: the folder is not beside this package.
    """
    if not (FOLDER / "mnist.py").is_file():
        raise FileNotFoundError(f"{FOLDER} holds no presets, expected mnist.py there: the installation is incomplete")
    return sorted({path.stem for path in FOLDER.glob("*.py")} - {"__init__"})


def evaluate(path: Path) -> object:
    """What the function `get_config` of a file returns. Whatever the file raises is raised."""
    spec = importlib.util.spec_from_file_location(f"ctdiff_preset_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    with _presets_importable(), _neighbours_importable(path.resolve().parent):
        spec.loader.exec_module(module)
        return module.get_config()


@contextmanager
def _neighbours_importable(folder: Path) -> Iterator[None]:
    """Import from a folder first, as a script does from its own; what is imported from there is forgotten afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).resolve().parent == folder:
                del sys.modules[name]


@contextmanager
def _presets_importable() -> Iterator[None]:
    """While this context lasts, the package `configs` is ours, continued by another one of that name if there is one."""
    theirs = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == _PACKAGE}
    for name in theirs:
        del sys.modules[name]
    ours = _package([str(FOLDER), *_folders(theirs.get(_PACKAGE))])
    sys.modules[_PACKAGE] = ours
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]
        sys.modules.update(theirs)


def _package(folders: list[str]) -> ModuleType:
    package = ModuleType(_PACKAGE, "The presets of ctdiff, and a project's own.")
    package.__path__ = folders
    return package


def _folders(imported: ModuleType | None) -> list[str]:
    """The folders of a user's package `configs`, imported or on the path, without ours."""
    if imported is not None:
        found = list(getattr(imported, "__path__", []))
    else:
        spec = importlib.util.find_spec(_PACKAGE)
        found = list(spec.submodule_search_locations or []) if spec is not None else []
    return [folder for folder in found if Path(folder).resolve() != FOLDER]
