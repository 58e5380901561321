"""The content of a published configuration file: the same for Python files and YAML files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

__all__ = ["DEEPEST", "OPAQUE", "Leaf", "Published", "PublishedError", "Section", "Skipped", "flat", "limit"]

DEEPEST = 8
"""The largest depth of nested sections."""
_MOST_KEYS = 2_000


class PublishedError(ValueError):
    """A file is not a published configuration, or cannot be translated. The message names the file and, if known, the line."""


@dataclass(frozen=True)
class Leaf:
    """A value in a file, and the number of the line that assigns it."""

    value: Any
    line: int


@dataclass(frozen=True)
class Skipped:
    """A line that is not understood.

    Arguments:
        line: the number of the line, counted from 1.
        text: the shortened line.
        why: the part that is not understood.
    """

    line: int
    text: str
    why: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text} ({self.why})"


@dataclass(frozen=True)
class Published:
    """A published configuration.

    Arguments:
        source: the name of the file, for messages.
        leaves: a dictionary from dotted keys to values.
        skipped: the lines that are not understood.
    """

    source: str
    leaves: Mapping[str, Leaf]
    skipped: Sequence[Skipped]


class Section(dict[str, Any]):
    """A section of the configuration: a dictionary from names to leaves, sections and `OPAQUE`."""


OPAQUE = object()
"""Stands for a value that is not understood."""


def flat(section: Section, source: str) -> dict[str, Leaf]:
    """Return a dictionary from dotted keys to the leaves of a section.

    Raises:
        PublishedError: the section is nested too deeply, or has too many keys.
    """
    found: dict[str, Leaf] = {}
    seen = count(1)  # two names can have the same section, so there can be more keys than lines

    def walk(node: Section, path: tuple[str, ...]) -> None:
        for name, value in node.items():
            limit(next(seen), source)
            if isinstance(value, Section) and len(path) < DEEPEST:
                walk(value, (*path, name))
            elif isinstance(value, Leaf):
                found[".".join((*path, name))] = value
            elif value is not OPAQUE:
                raise PublishedError(f"{source}: nested too deeply")

    walk(section, ())
    return found


def limit(keys: int, source: str) -> None:
    """Check that a file does not have too many keys for a configuration.

    Raises:
        PublishedError: there are too many keys.
    """
    if keys > _MOST_KEYS:
        raise PublishedError(f"{source}: more than {_MOST_KEYS} keys, expected a configuration")
