"""The texts of `--help`, from the descriptions of the verbs and their flags."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable

from ctdiff import config as configuration
from ctdiff.cli.verb import Flag, Verb

__all__ = ["overview", "verb_help"]

_WIDTH = 100
_VALUES = {str: "TEXT", int: "INTEGER", list: "TEXT,TEXT,..."}
"""The word for the value of a flag, by its type."""


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def overview(verbs: Iterable[Verb]) -> str:
    """Return the text of `ctdiff --help`: the verbs, each with the first line of its description, and the presets."""
    first_lines = [f"  {verb.name:<15}{verb.description.splitlines()[0]}" for verb in verbs]
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
    """Return the text of `ctdiff VERB --help`: usage, description and flags."""
    what = verb.takes[0]
    taken = ([what] if verb.least else [f"[{what}]"] if verb.most else []) + ([f"[{what} ...]"] if verb.most is None else [])
    paragraphs = inspect.cleandoc(verb.description).split("\n\n")
    return "\n\n".join(
        [
            " ".join(["Usage: ctdiff", verb.name, *taken, "[--FLAG=VALUE ...]"]),
            *(text if text.startswith(" ") else _wrapped(" ".join(text.split())) for text in paragraphs),
            "\n".join(["Flags:", *map(_flag_help, sorted(verb.all_flags(), key=lambda flag: flag.name))]),
        ]
    )


def _flag_help(flag: Flag) -> str:
    """Return the name, type, bound and default of a flag in one line, and its meaning below."""
    notes = [f"at least {flag.least}"] if flag.least is not None else []
    if flag.kind is bool:
        head, default = f"--[no]{flag.name}", "on" if flag.default else "off"
    else:
        value, default = "|".join(flag.choices) or _VALUES[flag.kind], flag.default
        head = f"--{flag.name}[={value}]" if flag.bare else f"--{flag.name}={value}"
    notes += [f"default: {default}"] if default else []
    noted = f" ({', '.join(notes)})" if notes else ""
    return f"  {head}{noted}\n{_wrapped(flag.meaning, ' ' * 6)}"
