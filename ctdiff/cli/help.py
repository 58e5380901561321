"""The texts of `--help`, made from what the verbs say of themselves and of their flags."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable
from typing import Any

from absl import flags

from ctdiff import config as configuration
from ctdiff.cli.verb import Verb

__all__ = ["overview", "verb_help"]

_WIDTH = 100
_VALUES = {"string": "TEXT", "int": "INTEGER", "comma separated list of strings": "TEXT,TEXT,..."}
"""What stands for the value of a flag, by the name that absl has for its type."""


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def overview(verbs: Iterable[Verb]) -> str:
    """What `ctdiff --help` prints: the verbs, each with its first line, and the presets."""
    first_lines = [f"  {verb.name:<10}{verb.description.splitlines()[0]}" for verb in verbs]
    return "\n".join(
        [
            "ctdiff: train diffusion models of images, draw images from them, and measure how good these are.",
            "",
            *first_lines,
            "",
            _wrapped("`ctdiff COMMAND --help` explains a command and its flags. To begin: ctdiff train --config=mnist"),
            "",
            "Presets, the configurations that `ctdiff train --config=NAME` knows by name:",
            _wrapped(", ".join(configuration.preset_names()), "  "),
        ]
    )


def verb_help(verb: Verb) -> str:
    """What `ctdiff VERB --help` prints: how it is called, what it does, and its flags."""
    runs = (["RUN"] if verb.least else ["[RUN]"] if verb.most else []) + (["[RUN ...]"] if verb.most is None else [])
    values = verb.flag_values()
    flag_texts = [_flag_help(values[name]) for name in values if name not in ("help", "h")]
    paragraphs = inspect.cleandoc(verb.description).split("\n\n")
    return "\n\n".join(
        [
            " ".join(["Usage: ctdiff", verb.name, *runs, "[--FLAG=VALUE ...]"]),
            *(text if text.startswith(" ") else _wrapped(" ".join(text.split())) for text in paragraphs),
            "\n".join(["Flags:", *flag_texts]),
        ]
    )


def _flag_help(flag: flags.Flag[Any]) -> str:
    """A flag: its name, type, bound and default in one line, its meaning below."""
    notes, meaning = [], flag.help or ""
    if (bound := getattr(flag.parser, "lower_bound", None)) is not None:
        notes.append(f"at least {bound}")
    if flag.flag_type() == "bool":
        head = f"--[no]{flag.name}"
        notes.append(f"default: {'on' if flag.default else 'off'}")
    else:
        choices = "|".join(getattr(flag.parser, "enum_values", []))
        meaning = meaning.removeprefix(f"<{choices}>: ")  # absl puts them before the meaning
        value = choices or _VALUES[flag.flag_type()]
        head = f"--{flag.name}[={value}]" if flag.boolean else f"--{flag.name}={value}"
        if flag.default:
            notes.append(f"default: {flag.default}")
    noted = f" ({', '.join(notes)})" if notes else ""
    return f"  {head}{noted}\n{_wrapped(meaning, ' ' * 6)}"
