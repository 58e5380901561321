"""From published keys and values to ours.

Most values move unchanged to the home that `keys.ROWS` names. `rules.RULES` has those that need a translation.
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
"""What the published training does without a key."""


@dataclass(frozen=True)
class Note:
    """What to say about one published key.

    Arguments:
        line: the line of the file.
        key: the key.
        value: its value there.
        text: what became of it, and why.
    """

    line: int
    key: str
    value: Any
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.key} = {shortened(self.value)}: {self.text}"


@dataclass
class Translation:
    """A published configuration in our keys.

    Arguments:
        given: the values by our keys.
        kept: the published keys that have a home.
        changed: what became another value.
        dropped: what has no home.
        skipped: the lines of the file that are not understood.
    """

    given: Homes = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    changed: list[Note] = field(default_factory=list)
    dropped: list[Note] = field(default_factory=list)
    skipped: Sequence[Skipped] = ()


def translated(published: Published) -> Translation:
    """Translate a published configuration.

    Raises:
        PublishedError: a value has a wrong type, is out of range, or names something that there is not. The message has the
            line, the key, the value and what is allowed.
    """
    values = Values(published)
    result = Translation(skipped=published.skipped)
    rows = {name: row for row in ROWS for name in row.names}
    result.given.update({**_IMPLIED, **values.implied()})
    moves: dict[str, Homes] = {}
    for key, leaf in published.leaves.items():
        if (row := rows.get(key)) is None:
            why = f"not a published key that is known here{closest(key, list(rows))}"
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
    """Where a key moves: values by our keys, and what to say if they are changed, or if there are none."""
    value = values.get(key)
    if rule := RULES.get(key):
        return rule(values, value)
    value = values.number(key) if row.kind == "a number" else value
    return {home.replace("<model>", values.model).replace("<data>", values.data): value for home in row.homes}, ""


def _settle(published: Published, result: Translation, owners: Mapping[str, str]) -> None:
    """Take out what cannot act on what is chosen, and refuse values that a key may not have.

    Arguments:
        published: the configuration.
        result: its translation so far.
        owners: the published key of each of our keys.
    """

    def take_out(home: str) -> None:
        del result.given[home]
        if (key := owners.get(home)) is not None:
            leaf = published.leaves[key]
            text = f"{home} is no key here, with {_chosen(home, result.given)}"
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
    """The choices that a key depends on, in words."""
    parts = home.split(".")
    names = [".".join([*parts[: i + 1], "name"]) for i in range(len(parts))]
    found = [f"{name} = {given[name]!r}" for name in names if name in given and name != home]
    return " and ".join(found) or "this version"
