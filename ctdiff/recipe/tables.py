"""The keys of the configuration as text: those of one configuration for help, all keys as tables for the documentation.

`python -m ctdiff.recipe.tables docs/configuration.md` updates the tables of a document.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ctdiff.recipe.engine import engines, tree
from ctdiff.recipe.errors import ConfigError, one_of
from ctdiff.recipe.schema import EMPTY, NONE, Place, Setting, alternatives
from ctdiff.recipe.tree import chosen, flatten
from ctdiff.recipe.values import described

__all__ = ["BEGIN", "END", "explained", "replaced", "tables", "with_tables"]

BEGIN, END = "<!-- generated: the keys -->", "<!-- end of the keys -->"
"""The lines of a document before and after the tables."""

_WIDTH = 110
_HEAD = "| key | what it may be | default | meaning |\n|---|---|---|---|"


def _rows(place: Place, path: str = "", config: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Setting | Place]]:
    """Yield the keys below a place, each with its setting or choice.

    Arguments:
        place: the place.
        path: its key.
        config: the part of a whole configuration at the place: only chosen classes have keys. None means the keys of
            all choices.
    """
    classes: list[type | None] = [None]
    if place.base is not None:
        yield f"{path}.name", place
        classes = [*alternatives(place.base, place.wired).values()]
        classes = classes if config is None else [chosen(place, config["name"], path)]
    for cls in classes:
        for name, member in place.around(cls).items():
            key = f"{path}.{name}" if path else name
            if isinstance(member, Place):
                yield from _rows(member, key, None if config is None else config[name])
            else:
                yield key, member


def _row(member: Setting | Place) -> tuple[str, str, str]:
    """Return the allowed values of a key, its default (empty if it has none), and its meaning."""
    default = "" if member.default is EMPTY else str(NONE if member.default is None else member.default)
    if isinstance(member, Place):
        return one_of(member.choices()), default, _summary(member.base)
    return described(member), default, member.meaning


def _summary(cls: type | None) -> str:
    """Return the first paragraph of the docstring of a class."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def explained(config: ConfigDict, part: str = "") -> str:
    """Return a text on every key of a whole configuration: its value, the allowed values, its default and its meaning.

    Arguments:
        config: the configuration.
        part: a section or the beginning of keys, such as `model.unet`; an empty text selects all keys.

    Raises:
        ConfigError: no key begins with `part`.
    """
    values, lines = flatten(config), []
    for key, member in _rows(tree(config.process.engine), config=config):
        if not f"{key}.".startswith(f"{part}." if part else ""):
            continue
        allowed, default, meaning = _row(member)
        if isinstance(member, Place) and (cls := chosen(member, values[key], key)) is not None:
            meaning = f"{meaning} {values[key]}: {_summary(cls)}"
        text = f"{meaning} [{allowed}; {f'default {default}' if default else 'it has to be given'}]"
        indent = " " * 6
        lines.append(f"--config.{key}={NONE if values[key] is None else values[key]}")
        lines.append(textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent))
    if not lines:
        raise ConfigError(f"--help_config={part}: no key begins like this, expected one of {', '.join(config)}")
    return "\n".join(lines)


def tables() -> str:
    """Return the tables of all keys as Markdown. Under each heading, keys of all engines come before keys of one engine."""
    names = list(engines())
    owners: dict[tuple[str, str, str], list[str]] = {}
    for name in names:
        for line in _lines(tree(name)):
            owners.setdefault(line, []).append(name)
    text = []
    for heading in dict.fromkeys(heading for heading, _, _ in owners):
        text.append(f"### `{heading}`\n")
        for group in (names, *([name] for name in names)):
            titles: dict[str, list[str]] = {}
            for line, found in owners.items():
                if line[0] == heading and found == group:
                    titles.setdefault(line[1], []).append(line[2])
            if titles and group != names:
                text.append(f"Only with `process.engine={group[0]}`:\n")
            text += ["\n".join([title, *lines, ""]) for title, lines in titles.items()]
    return "\n".join(text)


def _lines(whole: Place) -> Iterator[tuple[str, str, str]]:
    """Yield the lines of the tables of one engine, each with its heading and its title.

    A line is the row of a key, or describes one of the names that the key can have.
    """
    rows: dict[str, Setting | Place] = {}
    for key, member in _rows(whole):
        rows.setdefault(key, member)
    explained: set[type] = set()
    for key, member in rows.items():
        section, inner = key.split(".")[:2]
        heading = f"{section}.{inner}" if isinstance(whole.inner(section).fields.get(inner), Place) else section
        allowed, default, meaning = _row(member)
        found = alternatives(member.base, member.wired) if isinstance(member, Place) and member.base is not None else {}
        choices = {name: cls for name, cls in found.items() if cls not in explained}
        explained.update(choices.values())
        if choices:
            allowed = f"a name, see below{f', or {NONE}' if isinstance(member, Place) and member.optional else ''}"
        cells = f"`{key}`", allowed, f"`{default}`" if default else "it has to be given", meaning
        yield heading, _HEAD, "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        for name, cls in choices.items():
            yield heading, f"`{key}` may be:\n", f"- `{name}`: {_summary(cls)}"


def with_tables(text: str) -> str:
    """Return a document with its tables updated.

    Raises:
        ValueError: the document has no lines `BEGIN` and `END`.
    """
    return replaced(text, BEGIN, END, tables())


def replaced(text: str, begin: str, end: str, content: str) -> str:
    """A text with other content between two of its lines.

    Raises:
        ValueError: it has no such lines.
    """
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"the document has no lines {begin!r} and {end!r}")
    return f"{before}{begin}\n\n{content}\n{end}{after}"


if __name__ == "__main__":
    for _path in map(Path, sys.argv[1:]):
        _path.write_text(with_tables(_path.read_text(encoding="utf-8")), encoding="utf-8")
