"""Reads the values of a YAML file with PyYAML's SafeLoader, which makes only plain values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import yaml

from ctdiff.published.contents import DEEPEST, OPAQUE, Leaf, Published, PublishedError, Section, Skipped, flat, limit

__all__ = ["read_yaml"]

_TAG = "tag:yaml.org,2002:"
_TAGS = ("map", "seq", "str", "int", "float", "bool", "null", "python/tuple", "timestamp")
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""Numbers such as 1e-9, which are texts in YAML 1.1."""


def read_yaml(text: str, source: str) -> Published:
    """Read the configuration from the text of a YAML file.

    Raises:
        PublishedError: the text is not YAML, or has no configuration.
    """
    try:
        section = _root(text, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise PublishedError(f"{source}, line {mark.line + 1 if mark else 1}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise PublishedError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    lines = text.splitlines()
    skipped = [Skipped(line, lines[line - 1].strip()[:80], why) for line, why in _taken_out(section)]
    return Published(source, flat(section, source), skipped)


def _root(text: str, source: str) -> Section:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise PublishedError(f"{source}: there is no configuration, expected sections with keys")
        return _section_of(loader, root, source, 0, count(1))
    finally:
        loader.dispose()


def _section_of(loader: yaml.SafeLoader, node: yaml.MappingNode, source: str, depth: int, seen: Iterator[int]) -> Section:
    """Convert a mapping to a section. A value that is not understood becomes a pair of its line and the reason."""
    section = Section()
    if depth > DEEPEST:
        raise PublishedError(f"{source}: nested too deeply")
    for key, value in node.value:
        limit(next(seen), source)
        line = key.start_mark.line + 1
        name = _scalar(loader, key, source) if isinstance(key, yaml.ScalarNode) else None
        if not isinstance(name, str) or value.tag not in (*(_TAG + tag for tag in _TAGS), "!"):
            raise PublishedError(f"{source}, line {line}: not understood: {str(name)[:40]}, with the tag {value.tag}")
        if isinstance(value, yaml.MappingNode):
            section[name] = _section_of(loader, value, source, depth + 1, seen)
        elif isinstance(value, yaml.ScalarNode):
            section[name] = Leaf(_scalar(loader, value, source), line)
        elif all(isinstance(each, yaml.ScalarNode) for each in value.value):
            section[name] = Leaf([_scalar(loader, each, source) for each in value.value], line)
        else:
            section[name] = (line, "a list of lists")
    return section


def _scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode, source: str) -> Any:
    try:
        value = loader.construct_object(node)
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # a date such as 2024-13-45, or a wrong tag
        raise PublishedError(f"{source}, line {node.start_mark.line + 1}: not YAML: {error}") from error
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _taken_out(section: Section) -> Iterator[tuple[int, str]]:
    """Yield the line and the reason of each value that is not understood, and replace the value by `OPAQUE`."""
    for name, value in section.items():
        if isinstance(value, Section):
            yield from _taken_out(value)
        elif isinstance(value, tuple):
            section[name] = OPAQUE
            yield value
