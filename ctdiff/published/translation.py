"""Translates the keys and values of a published configuration to keys and values of ctdiff.

A published configuration is a configuration file of tauLDR, or of an MNIST project that is based on tauLDR. The home of a
published key is the key of ctdiff with the same meaning. `keys.ROWS` lists the homes. Most values are copied unchanged to the
home of their key. For the other published keys, `rules.RULES` has functions that translate the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from reprlib import repr as shortened
from typing import Any

from ctdiff import config as configuration
from ctdiff.published.contents import Published, PublishedError, Skipped
from ctdiff.published.keys import ROWS, Row
from ctdiff.published.preset import nested
from ctdiff.published.rules import RULES
from ctdiff.published.values import Homes, Values, refuse
from ctdiff.recipe.errors import ConfigError, UnknownKey, closest

__all__ = ["Note", "Translation", "translated"]

_IMPLIED: Mapping[str, object] = {"optimizer.schedule.name": "constant", "optimizer.schedule.warmup": 0}
"""Settings of the published training that have no published key."""


@dataclass(frozen=True)
class Note:
    """A message about one published key.

    Arguments:
        line: the number of the line in the file.
        key: the published key.
        value: the value in the file.
        text: the result of the translation and the reason.
    """

    line: int
    key: str
    value: Any
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.key} = {shortened(self.value)}: {self.text}"


@dataclass
class Translation:
    """A published configuration, translated to keys of ctdiff.

    Arguments:
        given: a dictionary from keys of ctdiff to values.
        kept: the published keys that were translated to keys of ctdiff.
        changed: messages about values that were changed.
        dropped: messages about published keys that were left out.
        skipped: the lines of the file that were not understood.
    """

    given: Homes = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    changed: list[Note] = field(default_factory=list)
    dropped: list[Note] = field(default_factory=list)
    skipped: Sequence[Skipped] = ()

    def __str__(self) -> str:
        """Return what became of the keys, a line each."""
        lines = [f"{len(self.kept)} keys were translated"]
        for title, notes in (("changed", self.changed), ("dropped", self.dropped), ("not understood", self.skipped)):
            lines += [f"{title}:", *(f"  {note}" for note in notes)] if notes else []
        return "\n".join(lines)


def translated(published: Published) -> Translation:
    """Translate a published configuration.

    Raises:
        PublishedError: a value has a wrong type, is out of range, or is the name of something that does not exist. The message
            has the line, the key, the value and the allowed values.
    """
    values = Values(published)
    result = Translation(skipped=published.skipped)
    rows = {name: row for row in ROWS for name in row.names}
    result.given.update({**_IMPLIED, **values.implied()})
    moves: dict[str, Homes] = {}
    for key, leaf in published.leaves.items():
        if (row := rows.get(key)) is None:
            why = f"this published key is not known{closest(key, list(rows))}"
            result.dropped.append(Note(leaf.line, key, leaf.value, why))
            continue
        moves[key], text = _moved(values, key, row)
        result.given.update(moves[key])
        if not moves[key]:
            result.dropped.append(Note(leaf.line, key, leaf.value, text or row.meaning.removeprefix("Gone: ")))
        elif text:
            now = ", ".join(f"{home} = {value!r}" for home, value in moves[key].items())
            result.changed.append(Note(leaf.line, key, leaf.value, f"{now}. {text}"))
    _settle(published, result, {home: key for key, homes in moves.items() for home in homes})
    result.kept = [key for key, homes in moves.items() if any(home in result.given for home in homes)]
    result.changed = [note for note in result.changed if note.key in result.kept]
    return result


def _moved(values: Values, key: str, row: Row) -> tuple[Homes, str]:
    """Return the values of a published key by keys of ctdiff, and a text if they are changed or left out."""
    value = values.get(key)
    if rule := RULES.get(key):
        return rule(values, value)
    value = values.number(key) if row.kind == "a number" else value
    return {home.replace("<model>", values.model).replace("<data>", values.data): value for home in row.homes}, ""


def _settle(published: Published, result: Translation, owners: Mapping[str, str]) -> None:
    """Remove keys that have no effect with the chosen classes, and check the values of the others.

    Arguments:
        published: the published configuration.
        result: the translation so far.
        owners: a dictionary from keys of ctdiff to the published keys that they come from.
    """

    def take_out(home: str) -> None:
        del result.given[home]
        if (key := owners.get(home)) is not None:
            leaf = published.leaves[key]
            text = f"there is no key {home} with {_chosen(home, result.given)}"
            result.dropped.append(Note(leaf.line, key, leaf.value, text))

    while True:
        try:
            config = configuration.complete(nested(result.given))
            break
        except UnknownKey as error:
            if error.key not in result.given:
                raise PublishedError(f"{published.source}: {error}") from error
            take_out(error.key)
        except ConfigError as error:
            wrong = [home for home in owners if str(error).startswith(f"config.{home} =")]
            if not wrong:
                raise PublishedError(f"{published.source}: {error}") from error
            refuse(published.source, owners[wrong[0]], published.leaves[owners[wrong[0]]], str(error))
    for home in result.given.keys() - configuration.flatten(config).keys():
        take_out(home)
    try:
        configuration.check(config)
    except ValueError as error:
        raise PublishedError(f"{published.source}: its values do not fit together: {error}") from error


def _chosen(home: str, given: Homes) -> str:
    """Return the choices that a key depends on, in words."""
    parts = home.split(".")
    names = [".".join([*parts[: i + 1], "name"]) for i in range(len(parts))]
    found = [f"{name} = {given[name]!r}" for name in names if name in given and name != home]
    return " and ".join(found) or "this version"
