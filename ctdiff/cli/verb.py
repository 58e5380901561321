"""What a verb of the command line is, and how its line is read.

absl reads the line: the flags that a verb defines, and a flag for each `--config.section.key=value` that is in it. Which keys
there are depends on what is chosen, so their values are texts here; `ctdiff.config` reads these.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from absl import flags

from ctdiff.recipe import booleans, trust

__all__ = ["CommandLine", "Flag", "UsageError", "Verb", "say"]


class UsageError(ValueError):
    """A command line that cannot be understood."""


def say(message: str, stream: TextIO | None = None) -> None:
    """Print at once, to standard output if no stream is given. Letters that the console cannot show are printed as codes."""
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(message.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


@dataclass(frozen=True)
class Flag:
    """A flag of a verb.

    Arguments:
        name: its name, without dashes.
        meaning: what `--help` says of it.
        default: its value where it is not given.
        kind: str, int, bool, or list for texts with commas between them.
        least: the least that an integer may be.
        choices: the texts that it may be; none is any.
        bare: whether a text can be left out; it is `true` then.
    """

    name: str
    meaning: str
    default: Any = None
    kind: type = str
    least: int | None = None
    choices: Sequence[str] = ()
    bare: bool = False

    def define(self, values: flags.FlagValues) -> None:
        """Define it for absl."""
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
    """A line that was read.

    Arguments:
        given: the values of the verb's flags by name, defaults where a flag was not given.
        present: the names of the flags that were given.
        runs: what else was given: the folders of runs.
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
        description: what `ctdiff NAME --help` says of it; `ctdiff --help` shows the first line.
        own_flags: gives the verb's flags.
        run: does the work, and returns the exit status.
        least: how many folders of runs have to be given.
        most: how many may be given; None is any number.
        goes_on: whether the same command goes on where an interruption stopped it.
    """

    name: str
    description: str
    own_flags: Callable[[], Sequence[Flag]]
    run: Callable[[CommandLine], int]
    least: int = 0
    most: int | None = 0
    goes_on: bool = False

    def flag_values(self) -> flags.FlagValues:
        """The verb's flags with their defaults."""
        values = flags.FlagValues()
        for flag in (*self.own_flags(), Flag("trust", _TRUST, [], list)):
            flag.define(values)
        flags.DEFINE_bool("help", False, "Print this text.", short_name="h", flag_values=values)
        return values

    def read(self, arguments: Sequence[str]) -> CommandLine:
        """Read what follows the verb.

        Raises:
            absl.flags.Error: a flag does not exist, has no value, or a wrong one.
        """
        values = self.flag_values()
        keys = {flag.name: flag for flag in map(_override_flag, arguments) if flag is not None}
        for flag in keys.values():
            flag.define(values)
        _, *runs = values(["ctdiff", *arguments])
        given = {name: value for name, value in values.flag_values_dict().items() if name not in keys}
        overrides = [f"--{name}={values[name].value}" for name in keys if values[name].present]  # not what is behind --
        trust(given["trust"])
        return CommandLine(given, [name for name in given if values[name].present], runs, overrides)

    def check_runs(self, runs: Sequence[str], least: int | None = None) -> None:
        """Refuse too few folders of runs, or too many.

        Arguments:
            runs: the folders.
            least: how many there have to be; None is as many as the verb always needs.

        Raises:
            UsageError: saying what is missing, or which argument is too many.
        """
        if len(runs) < (self.least if least is None else least):
            raise UsageError(f"the folder of a run is missing (see ctdiff {self.name} --help)")
        if self.most is not None and len(runs) > self.most:
            raise UsageError(f"unexpected {runs[self.most]!r} (a key is set with --config.section.key=value)")


def _override_flag(argument: str) -> Flag | None:
    """The flag of an argument such as `--config.section.key=value`; None for other arguments."""
    match = re.match(r"--?(no)?config\.([^=]+)", argument)
    if match is None:
        return None
    negated, key = match.groups()
    return Flag(f"config.{key}", "A key.", bare=negated is not None or key.rpartition(".")[2] in booleans())
