"""Presets: the files of the folder `configs`, and configuration files of the user.

The presets are in the folder `configs` next to this package. The project of a user may have a folder `configs` too. A
configuration file can import from both, and presets have priority: `from configs import mnist` imports our preset, and
`from configs import base` imports a file of the project. A configuration file can also import files of its own folder.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

__all__ = ["FOLDER", "evaluate", "preset_names"]

FOLDER = Path(__file__).resolve().parent.parent / "configs"
"""The folder of the presets."""


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted({path.stem for path in FOLDER.glob("*.py")} - {"__init__"})


def evaluate(path: Path) -> ConfigDict:
    """Return the result of the function `get_config` of a .py file. Errors of the file are raised unchanged.

    Raises:
        TypeError: the result is no ConfigDict.
    """
    loader = SourceFileLoader(f"ctdiff_preset_{path.stem}", str(path))
    module = ModuleType(loader.name)
    module.__file__ = loader.path
    with _importing(path.resolve().parent):
        sys.modules[loader.name] = module  # where dataclasses look for annotations
        loader.exec_module(module)
        config = module.get_config()
    if not isinstance(config, ConfigDict):
        raise TypeError(f"get_config() returned a {type(config).__name__}, expected an ml_collections.ConfigDict")
    return config


@contextmanager
def _importing(folder: Path) -> Iterator[None]:
    """Import from a folder first, as a script does from its own. What is imported from the folder is forgotten afterwards.

    In this context, the package `configs` has the presets, and then the files of other packages of this name.
    """
    theirs = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "configs"}
    before = {*sys.modules}
    sys.modules["configs"] = package = ModuleType("configs", "The presets of ctdiff, and a project's own.")
    package.__path__ = pkgutil.extend_path([str(FOLDER), *getattr(theirs.get("configs"), "__path__", [])], "configs")
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in {*sys.modules} - before:
            places = [getattr(sys.modules[name], "__file__", None), *getattr(sys.modules[name], "__path__", [])]
            near = any(place is not None and folder in Path(place).resolve().parents for place in places)
            if near or name.partition(".")[0] == "configs":
                del sys.modules[name]
        sys.modules.update(theirs)
