"""Presets: the files of the folder `configs`, and configuration files of the user.

The presets are in the folder `configs` next to this package. The project of a user may have a folder `configs` too. A
configuration file can import from both, and presets have priority: `from configs import mnist` imports our preset, and
`from configs import base` imports a file of the project. A configuration file can also import files of its own folder.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

__all__ = ["FOLDER", "evaluate", "preset_names"]

FOLDER = Path(__file__).resolve().parent.parent / "configs"
"""The folder of the presets."""

_PACKAGE = "configs"


def preset_names() -> list[str]:
    """Return the names of the presets.

    Raises:
        FileNotFoundError: the folder of the presets is missing.
    """
    if not (FOLDER / "mnist.py").is_file():
        raise FileNotFoundError(f"{FOLDER} holds no presets, expected mnist.py there: the installation is incomplete")
    return sorted({path.stem for path in FOLDER.glob("*.py")} - {"__init__"})


def evaluate(path: Path) -> object:
    """Return the result of the function `get_config` of a file. Errors of the file are raised unchanged."""
    spec = importlib.util.spec_from_file_location(f"ctdiff_preset_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    with _presets_importable(), _neighbours_importable(path.resolve().parent):
        sys.modules[spec.name] = module  # where dataclasses look for annotations
        try:
            spec.loader.exec_module(module)
            return module.get_config()
        finally:
            sys.modules.pop(spec.name, None)


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
            places = [getattr(sys.modules[name], "__file__", None), *getattr(sys.modules[name], "__path__", [])]
            if any(place is not None and folder in Path(place).resolve().parents for place in places):
                del sys.modules[name]


@contextmanager
def _presets_importable() -> Iterator[None]:
    """In this context, the package `configs` has the presets, and then the files of another package of this name."""
    theirs = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == _PACKAGE}
    for name in theirs:
        del sys.modules[name]
    ours = ModuleType(_PACKAGE, "The presets of ctdiff, and a project's own.")
    ours.__path__ = [str(FOLDER), *_folders(theirs.get(_PACKAGE))]
    sys.modules[_PACKAGE] = ours
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]
        sys.modules.update(theirs)


def _folders(imported: ModuleType | None) -> list[str]:
    """Return the folders of the user's package `configs`, imported or on the path, without ours."""
    if imported is not None:
        found = list(getattr(imported, "__path__", []))
    else:
        spec = importlib.util.find_spec(_PACKAGE)
        found = list(spec.submodule_search_locations or []) if spec is not None else []
    return [folder for folder in found if Path(folder).resolve() != FOLDER]
