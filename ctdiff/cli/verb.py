"""The verbs of the command line, and the parsing of their arguments.

absl parses the flags of a verb, and one more flag for each `--config.section.key=value`. The keys depend on the choices in the
configuration. So their values are texts here, and `ctdiff.config` reads them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from absl import flags

from ctdiff.recipe.engine import booleans
from ctdiff.recipe.user_classes import trust

__all__ = ["CommandLine", "Flag", "UsageError", "Verb", "say"]


class UsageError(ValueError):
    """A command line that cannot be understood."""


def say(message: str, stream: TextIO | None = None) -> None:
    """Print a message at once, by default to standard output. Letters that the console cannot show are printed as codes."""
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(message.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


@dataclass(frozen=True)
class Flag:
    """A flag of a verb.

    Arguments:
        name: its name, without dashes.
        meaning: its description in `--help`.
        default: its value if it is not given.
        kind: str, int, bool, or list for texts with commas between them.
        least: the smallest allowed integer.
        choices: the allowed texts; empty allows any text.
        bare: whether the value can be left out; it is `true` then.
    """

    name: str
    meaning: str
    default: Any = None
    kind: type = str
    least: int | None = None
    choices: Sequence[str] = ()
    bare: bool = False

    def define(self, values: flags.FlagValues) -> None:
        """Define the flag for absl."""
        given = (self.name, self.default)
        if self.choices:
            flags.DEFINE_enum(*given, list(self.choices), self.meaning, flag_values=values)
        elif self.kind is int:
            flags.DEFINE_integer(*given, self.meaning, lower_bound=self.least, flag_values=values)
        else:
            define: Any = {str: flags.DEFINE_string, bool: flags.DEFINE_bool, list: flags.DEFINE_list}[self.kind]
            define(*given, self.meaning, flag_values=values)
            values[self.name].boolean |= self.bare


_TRUST = "Modules of your own, such as my_module, whose classes the configuration of a run may name. They are imported."


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line.

    Arguments:
        given: the values of the flags by name, including defaults.
        present: the names of the given flags.
        runs: the other arguments: the folders of runs.
        overrides: the arguments `--config.section.key=value`.
    """

    given: Mapping[str, Any]
    present: Sequence[str]
    runs: Sequence[str]
    overrides: Sequence[str]


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Arguments:
        name: the word after `ctdiff`.
        description: the text of `ctdiff NAME --help`; `ctdiff --help` shows its first line.
        own_flags: returns the flags of the verb.
        run: does the work and returns the exit status.
        least: the smallest number of folders of runs, or of what else the verb takes.
        most: the largest number; None means any number.
        goes_on: whether the same command continues after an interruption.
        takes: the arguments without dashes, as the usage line names them and in words.
    """

    name: str
    description: str
    own_flags: Callable[[], Sequence[Flag]]
    run: Callable[[CommandLine], int]
    least: int = 0
    most: int | None = 0
    goes_on: bool = False
    takes: tuple[str, str] = ("RUN", "the folder of a run")

    def all_flags(self) -> Sequence[Flag]:
        """Return the flags of the verb and the flag `--trust`."""
        return [*self.own_flags(), Flag("trust", _TRUST, [], list)]

    def flag_values(self) -> flags.FlagValues:
        """Return the flags of the verb, with their defaults, for absl."""
        values = flags.FlagValues()
        for flag in self.all_flags():
            flag.define(values)
        flags.DEFINE_bool("help", False, "Print this text.", short_name="h", flag_values=values)
        return values

    def read(self, arguments: Sequence[str]) -> CommandLine:
        """Parse the arguments after the verb.

        Raises:
            absl.flags.Error: a flag does not exist, or its value is missing or wrong.
        """
        values = self.flag_values()
        keys = {flag.name: flag for flag in map(_override_flag, arguments) if flag is not None}
        for flag in keys.values():
            flag.define(values)
        _, *runs = values(["ctdiff", *arguments])
        given = {name: value for name, value in values.flag_values_dict().items() if name not in keys}
        overrides = [f"--{name}={values[name].value}" for name in keys if values[name].present]  # not those after --
        trust(given["trust"])
        return CommandLine(given, [name for name in given if values[name].present], runs, overrides)

    def check_runs(self, runs: Sequence[str], least: int | None = None) -> None:
        """Check the number of folders of runs.

        Arguments:
            runs: the folders.
            least: the smallest number; None means the number of the verb.

        Raises:
            UsageError: there are too few or too many folders.
        """
        if len(runs) < (self.least if least is None else least):
            raise UsageError(f"{self.takes[1]} is missing (see ctdiff {self.name} --help)")
        if self.most is not None and len(runs) > self.most:
            raise UsageError(f"unexpected {runs[self.most]!r} (a key is set with --config.section.key=value)")


def _override_flag(argument: str) -> Flag | None:
    """Return a flag for an argument such as `--config.section.key=value`; None for other arguments."""
    match = re.match(r"--?(no)?config\.([^=]+)", argument)
    if match is None:
        return None
    negated, key = match.groups()
    return Flag(f"config.{key}", "A key.", bare=negated is not None or key.rpartition(".")[2] in booleans())
