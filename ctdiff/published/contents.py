"""What a published configuration file assigns, however it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

__all__ = ["DEEPEST", "OPAQUE", "Leaf", "Published", "PublishedError", "Section", "Skipped", "flat", "limit"]

DEEPEST = 8
"""How many sections may be inside one another."""
_MOST_KEYS = 2_000


class PublishedError(ValueError):
    """A file that is no published configuration; the message names the file and, where there is one, the line."""


@dataclass(frozen=True)
class Leaf:
    """A value of a file, and the line that assigns it."""

    value: Any
    line: int


@dataclass(frozen=True)
class Skipped:
    """A line that is not understood.

    Arguments:
        line: its number, from 1 on.
        text: the line, shortened.
        why: the part that is not understood.
    """

    line: int
    text: str
    why: str


@dataclass(frozen=True)
class Published:
    """A published configuration.

    Arguments:
        source: the name of the file, for messages.
        leaves: the values by dotted key.
        skipped: the lines that are not understood.
    """

    source: str
    leaves: Mapping[str, Leaf]
    skipped: Sequence[Skipped]


class Section(dict[str, Any]):
    """A section of the configuration: leaves, sections and `OPAQUE` by name."""


OPAQUE = object()
"""Stands for a value that is not understood."""


def flat(section: Section, source: str) -> dict[str, Leaf]:
    """The leaves of a section by dotted key.

    Raises:
        PublishedError: the section is nested too deeply, or has too many keys.
    """
    found: dict[str, Leaf] = {}
    seen = count(1)  # sections can be the same object, so they can be more than the file has lines

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
    """Refuse a file with more keys than a configuration has.

    Raises:
        PublishedError: there are more.
    """
    if keys > _MOST_KEYS:
        raise PublishedError(f"{source}: more than {_MOST_KEYS} keys, expected a configuration")
