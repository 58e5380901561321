"""What a verb of the command line is, and how its line is read.

absl reads the flags that a verb defines. The overrides `--config.section.key=value` are set aside first: which keys exist
is the configuration's affair, and `ctdiff.config.override` reads them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from absl import flags

from ctdiff import config as configuration
from ctdiff import presets

__all__ = ["CommandLine", "UsageError", "Verb", "say", "separate_overrides"]


class UsageError(ValueError):
    """A command line that cannot be understood."""


def say(message: str, stream: TextIO | None = None) -> None:
    """Print at once, to standard output if no stream is given. Letters that the console cannot show are printed as codes."""
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(message.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


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
        define_flags: defines the verb's flags.
        run: does the work, and returns the exit status.
        least: how many folders of runs have to be given.
        most: how many may be given; None is any number.
        goes_on: whether the same command goes on where an interruption stopped it.
    """

    name: str
    description: str
    define_flags: Callable[[flags.FlagValues], None]
    run: Callable[[CommandLine], int]
    least: int = 0
    most: int | None = 0
    goes_on: bool = False

    def flag_values(self) -> flags.FlagValues:
        """The verb's flags with their defaults."""
        values = flags.FlagValues()
        self.define_flags(values)
        flags.DEFINE_bool("help", False, "Print this text.", short_name="h", flag_values=values)
        return values

    def read(self, arguments: Sequence[str]) -> CommandLine:
        """Read what follows the verb.

        Raises:
            absl.flags.Error: a flag does not exist, has no value, or a wrong one.
        """
        arguments, overrides = separate_overrides(arguments)
        values = self.flag_values()
        _, *runs = values(["ctdiff", *arguments])
        present = [name for name in values if values[name].present]
        return CommandLine(values.flag_values_dict(), present, runs, overrides)

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


def separate_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the overrides `--config.section.key=value` from all other arguments, in the order they are in.

    They are written as absl's own flags are: with one dash or two, with the value behind `=` or in the next argument, and
    `--config.section.key` or `--noconfig.section.key` for a boolean key.

    Returns:
        The other arguments, and the overrides, each of them one argument.
    """
    defaults_by_key = configuration.flatten(presets.default_config())
    others: list[str] = []
    overrides: list[str] = []
    following = iter(arguments)
    for argument in following:
        match = re.match(r"--?(no)?config\.(.*)", argument, re.DOTALL)
        if match is None:
            others.append(argument)
            continue
        negated, key = match.groups()
        complete = negated or "=" in key or isinstance(defaults_by_key.get(key), bool)
        value = None if complete else next(following, None)
        overrides.append(argument if value is None else f"{argument}={value}")
    return others, overrides
