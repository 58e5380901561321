"""Reads a published configuration file without executing it."""

from __future__ import annotations

from pathlib import Path

from ctdiff.published.contents import Published, PublishedError
from ctdiff.published.python_files import read_python
from ctdiff.published.yaml_files import read_yaml

__all__ = ["read_published"]

_LARGEST_FILE = 1_000_000


def read_published(path: Path) -> Published:
    """Read a configuration file, .py, .yaml or .yml.

    Raises:
        PublishedError: the file is damaged, or has no configuration.
        OSError: the file cannot be read.
    """
    if path.suffix not in (".py", ".yaml", ".yml"):
        raise PublishedError(f"{path}: expected a .py or a .yaml file")
    if (size := path.stat().st_size) > _LARGEST_FILE:
        raise PublishedError(f"{path}: {size} bytes, expected a configuration of at most {_LARGEST_FILE}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PublishedError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
    try:
        return read_python(text, path.name) if path.suffix == ".py" else read_yaml(text, path.name)
    except (RecursionError, MemoryError) as error:  # the parsers raise these on deeply nested files
        raise PublishedError(f"{path.name}: nested too deeply") from error
