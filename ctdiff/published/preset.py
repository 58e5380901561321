"""Writes the text of a preset: a Python file whose `get_config()` returns the values that differ from the defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ctdiff import config as configuration
from ctdiff.recipe.engine import tree

__all__ = ["nested", "preset_text"]

_WIDTH = 128

_TEMPLATE = '''"""Imported from {source} by `ctdiff import-config`."""

from __future__ import annotations

from ml_collections import ConfigDict

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """Return the values that differ from the defaults."""
    return ConfigDict(
        {content}
    )
'''


def preset_text(given: Mapping[str, Any], source: str) -> str:
    """Return the text of a preset.

    Arguments:
        given: a dictionary from dotted keys to values. Values that are equal to the defaults are left out.
        source: the name of the published file.
    """
    content = _written(nested(_needed(given)), 8)
    return _TEMPLATE.format(source=re.sub(r"[^\w.\- ]", "_", source), content=content)


def _needed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that change the whole configuration. Without any one of them, it would be different."""
    needed = dict(given)
    whole = configuration.flatten(configuration.complete(nested(needed)))
    for key in given:
        fewer = {name: value for name, value in needed.items() if name != key}
        if configuration.flatten(configuration.complete(nested(fewer))) == whole:
            needed = fewer
    return needed


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Convert dotted keys to nested sections, in the order of a whole configuration. In a section, choices come first."""
    result: dict[str, Any] = {section: {} for section in tree("discrete").fields}
    for key, value in sorted(flat.items(), key=lambda item: item[0].count(".") if item[0].endswith(".name") else 9):
        *sections, name = key.split(".")
        node = result
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return {section: values for section, values in result.items() if values}


def _written(value: Any, indent: int) -> str:
    """Return a value as Python source, in one line if it fits."""
    if not isinstance(value, dict):
        return _literal(value)
    line = "{" + ", ".join(f"{_literal(key)}: {_written(each, 0)}" for key, each in value.items()) + "}"
    if indent and (indent == 8 or indent + len(line) > _WIDTH - 20):
        inner = " " * (indent + 4)
        lines = [f"{inner}{_literal(key)}: {_written(each, indent + 4)},\n" for key, each in value.items()]
        return "{\n" + "".join(lines) + " " * indent + "}"
    return line


def _literal(value: object) -> str:
    """Return a value as Python source, with texts in double quotes."""
    text = repr(tuple(value) if isinstance(value, list) else value)
    return f'"{text[1:-1]}"' if isinstance(value, str) and text.startswith("'") and '"' not in text else text
