"""The verb `info`."""

from __future__ import annotations

from collections.abc import Mapping

from ctdiff.cli.verb import Result, Verb
from ctdiff.machine import description

__all__ = ["VERB", "info"]


def info() -> Result:
    """Print the versions, the machine and the folders, for a report about a bug.

    Usage: ctdiff info [--FLAG=VALUE ...]

    The text lists the versions of ctdiff and of its packages, the processor, the memory, the devices,
    the caches, and the folders of runs and data in the working directory. For example:

        ctdiff info --json
    """
    content = description()
    return Result("\n".join(line for title, values in content.items() for line in _lines(title, values)), content)


def _lines(title: str, values: Mapping[str, object]) -> list[str]:
    """Return a section as text."""
    width = max(map(len, values), default=0)
    return [f"{title}:", *(f"  {name + ':':{width + 2}}{_text(value)}".rstrip() for name, value in values.items())]


def _text(value: object) -> str:
    return "-" if value is None else " ".join(value) if isinstance(value, list) else str(value)


VERB = Verb(info)
