"""The keys of the configuration as text: those of one configuration for help, all keys as tables for the documentation.

`python -m ctdiff.recipe.tables docs/configuration.md` updates the tables of a document.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ctdiff.recipe.engine import engines, tree
from ctdiff.recipe.errors import ConfigError, one_of
from ctdiff.recipe.schema import EMPTY, NONE, Place, Setting
from ctdiff.recipe.tree import chosen, walk
from ctdiff.recipe.values import described, flatten

__all__ = ["BEGIN", "END", "Explanation", "explanations", "replaced", "tables"]

BEGIN, END = "<!-- generated: the keys -->", "<!-- end of the keys -->"
"""The lines of a document before and after the tables."""

_WIDTH = 110
_HEAD = "| key | what it may be | default | meaning |\n|---|---|---|---|"


def _cells(member: Setting | Place) -> tuple[str, str, str]:
    """Return the allowed values of a key, its default (empty if it has none), and its meaning."""
    default = "" if member.default is EMPTY else str(NONE if member.default is None else member.default)
    if isinstance(member, Place):
        return one_of(member.choices()), default, _summary(member.base)
    return described(member), default, member.meaning


def _summary(cls: type | None) -> str:
    """Return the first paragraph of the docstring of a class."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


@dataclass(frozen=True)
class Explanation:
    """What help says about a key of a configuration.

    Arguments:
        key: the key.
        value: its value.
        allowed: the allowed values, in words.
        default: its default as text. It is empty if the key has no default and has to be given.
        meaning: its meaning.
    """

    key: str
    value: Any
    allowed: str
    default: str
    meaning: str

    def __str__(self) -> str:
        default, indent = f"default {self.default}" if self.default else "it has to be given", " " * 6
        text = f"{self.meaning} [{self.allowed}; {default}]"
        lines = textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)
        return f"--config.{self.key}={NONE if self.value is None else self.value}\n{lines}"


def explanations(config: ConfigDict, part: str = "") -> list[Explanation]:
    """Return an explanation of every key of a whole configuration.

    Arguments:
        config: the configuration.
        part: a section or the beginning of keys, such as `model.unet`; an empty text selects all keys.

    Raises:
        ConfigError: no key begins with `part`.
    """
    values, found = flatten(config), []
    for key, member in walk(tree(config.process.engine), config):
        if part and not f"{key}.".startswith(f"{part}."):
            continue
        allowed, default, meaning = _cells(member)
        if isinstance(member, Place) and (cls := chosen(member, values[key], key)) is not None:
            meaning = f"{meaning} {values[key]}: {_summary(cls)}"
        found.append(Explanation(key, values[key], allowed, default, meaning))
    if not found:
        raise ConfigError(f"--help_config={part}: no key begins like this, expected one of {', '.join(config)}")
    return found


def tables() -> str:
    """Return the tables of all keys as Markdown. Under each heading, keys of all engines come before keys of one engine."""
    owners: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for engine in engines():
        for line in _lines(tree(engine)):
            owners[line] = (*owners.get(line, ()), engine)
    headings: dict[str, dict[tuple[str, ...], dict[str, list[str]]]] = {}
    for (heading, title, row), group in owners.items():
        headings.setdefault(heading, {}).setdefault(group, {}).setdefault(title, []).append(row)
    text = []
    for heading, groups in headings.items():
        text.append(f"### `{heading}`\n")
        for group in sorted(groups, key=len, reverse=True):
            if len(group) == 1:
                text.append(f"Only with `process.engine={group[0]}`:\n")
            text += ["\n".join([title, *lines, ""]) for title, lines in groups[group].items()]
    return "\n".join(text)


def _lines(whole: Place) -> Iterator[tuple[str, str, str]]:
    """Yield the lines of the tables of one engine, each with its heading and its title.

    A line is the row of a key, or describes one of the names that the key can have.
    """
    rows: dict[str, Setting | Place] = {}
    for key, member in walk(whole):
        rows.setdefault(key, member)
    explained: set[type] = set()
    for key, member in rows.items():
        section, inner, *_ = key.split(".")
        heading = f"{section}.{inner}" if isinstance(whole.inner(section).fields.get(inner), Place) else section
        allowed, default, meaning = _cells(member)
        found = member.found() if isinstance(member, Place) else {}
        choices = {name: cls for name, cls in found.items() if cls not in explained}
        explained.update(choices.values())
        if choices:
            allowed = f"a name, see below{f', or {NONE}' if allowed.startswith(f'one of {NONE},') else ''}"
        cells = f"`{key}`", allowed, f"`{default}`" if default else "it has to be given", meaning
        yield heading, _HEAD, "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        for name, cls in choices.items():
            yield heading, f"`{key}` may be:\n", f"- `{name}`: {_summary(cls)}"


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
        _path.write_text(replaced(_path.read_text(encoding="utf-8"), BEGIN, END, tables()), encoding="utf-8")
