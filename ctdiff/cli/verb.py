"""A verb of the command line is a function: its flags are read from its signature, and their meanings from its docstring.

absl parses the flags of a verb, and one more flag for each `--config.section.key=value`. The keys depend on the choices in the
configuration. So their values are texts here, and `ctdiff.config` reads them.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TextIO, TypeVar, get_type_hints

from absl import flags

from ctdiff import progress
from ctdiff.cli.suggestions import Suggested, choices, suggested
from ctdiff.config import OVERRIDE
from ctdiff.recipe import trust as trust_modules
from ctdiff.recipe.engine import booleans
from ctdiff.recipe.errors import closest, one_of
from ctdiff.recipe.schema import EMPTY, meanings
from ctdiff.records import to_json
from diffusion_core.ranges import Argument, Range, arguments, union

__all__ = ["WIRED", "Output", "Result", "Verb", "apply", "say"]

T = TypeVar("T")

WIRED = frozenset({"overrides", "replicates", "say"})
"""The names of arguments that are no flags. A verb gives them, or they have their defaults."""

_ACTS_WITH = {"trust": {"overrides", "model"}}
"""Shared flags that not all verbs have, each with the arguments of a verb with which it acts. A verb without `overrides` and
`model` reads no configuration.
"""


def say(message: str, stream: TextIO | None = None) -> None:
    """Print a message at once, by default to standard output. Letters that the console cannot show are printed as codes."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    print(message.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def apply(function: Callable[..., T], given: Mapping[str, Any], **more: Any) -> T:
    """Call a function with those of the given arguments that it has, and with more arguments, which come first."""
    return function(**{**{name: given[name] for name in arguments(function) if name in given}, **more})


class Result(NamedTuple):
    """The result of a verb. It is printed at the end.

    Arguments:
        text: the result as text, such as a table and the paths of the written files. An empty text is not printed.
        content: the same for `--json`: a dictionary or a dataclass, for `ctdiff.records.as_json`.
        status: the exit status.
    """

    text: str
    content: object
    status: int = 0


class Output(NamedTuple):
    """How a verb prints.

    Arguments:
        quiet: whether only the result is printed.
        json: whether the result is printed as JSON.
    """

    quiet: bool
    json: bool

    def say(self, message: str) -> None:
        """Print a message about the progress. With JSON, it goes to standard error, so that the output is only the result."""
        if not self.quiet:
            say(message, sys.stderr if self.json else None)

    def show(self, result: Result) -> None:
        """Print a result."""
        if self.json:
            say(to_json(result.content).rstrip())
        elif result.text:
            say(result.text)


def shared(*, trust: Sequence[str] | None = None, quiet: bool = False, json: bool = False) -> Output:
    """Use the flags that several verbs have.

    Arguments:
        trust: modules of your own, such as my_module, whose classes the configuration of a run may name. They are imported.
            None means that such classes are an error.
        quiet: print only the result, such as a table and the paths of files, without messages and progress bars. Warnings and
            errors are still written to standard error.
        json: print the result as one JSON object; messages go to standard error. Infinite numbers and NaN are the texts "inf",
            "-inf" and "nan".
    """
    trust_modules(trust or ())
    return Output(quiet, json)


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    A keyword with a default is a flag. Its type is bool, int, float, str, a `Literal` of texts, a sequence of texts, or one of
    these or None. The value of a flag of the type `bool | str` can be left out. A flag that is not given is not passed to the
    function. Only a sequence can be given twice, and then the values are joined.

    Arguments:
        function: does the work, and returns the result. Its name is the name of the verb, and its docstring is the text of
            `ctdiff NAME --help`. Positional arguments are those without dashes. If it has an argument `say`, it gets the
            function that prints messages.
        reads: functions that `function` calls with `apply`. Their keywords are flags too. If several functions have the same
            keyword, the first one counts.
    """

    function: Callable[..., Result]
    reads: Sequence[Callable[..., object]] = ()

    @property
    def name(self) -> str:
        """The name of the verb."""
        return self.function.__name__.replace("_", "-")

    def flag_values(self) -> flags.FlagValues:
        """Return the flags, with their defaults and meanings, for absl."""
        values = flags.FlagValues()
        values["help"] = flags.BooleanFlag("help", False, "Print this text.", "h")
        for name, function in self._owners().items():
            values[name] = _flag(name, arguments(function)[name], meanings(function)[name])
        return values

    def _names(self) -> set[str]:
        """Return the names of the arguments of the functions."""
        return {name for function in (self.function, *self.reads) for name in arguments(function)}

    def _owners(self) -> dict[str, Callable[..., object]]:
        """Return the names of the flags, each with the function that it is read from."""
        idle = {name for name, needed in _ACTS_WITH.items() if not needed & self._names()}
        hidden = {*WIRED, *idle, *inspect.getfullargspec(self.function).args}
        owners: dict[str, Callable[..., object]] = {}
        for function in (self.function, *self.reads, shared):
            flagged = [name for name, argument in arguments(function).items() if argument.default is not EMPTY]
            owners |= {name: function for name in flagged if name not in {*hidden, *owners}}
        return owners

    def suggested(self) -> tuple[Suggested, dict[str, Suggested]]:
        """Return what the shell suggests for the first argument without dashes, and for the value of each flag."""
        wanted = inspect.getfullargspec(self.function)
        hints = get_type_hints(self.function, include_extras=True)
        first = suggested(hints[wanted.args[0]]) if wanted.args else Suggested()
        owners = self._owners()
        return first, {name: suggested(get_type_hints(owners[name], include_extras=True)[name]) for name in owners}

    def help(self) -> str:
        """Return the text of `ctdiff NAME --help`."""
        description = (inspect.getdoc(self.function) or "").partition("\n\nArguments:")[0]
        return f"{description}\n\nFlags:\n{self.flag_values().get_help('  ', include_special_flags=False)}"

    def read(self, words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
        """Parse the words after the verb.

        Returns:
            The arguments without dashes, and the given flags by name. The flags `--config.section.key=value` are a list under
            the name `overrides`, if there are any.

        Raises:
            absl.flags.Error: a flag does not exist, its value is missing or wrong, or a flag with one value is given twice.
            ValueError: the path of a flag is empty, or a key is given to a verb without `overrides`.
        """
        values = self.flag_values()
        for found in filter(None, map(OVERRIDE.fullmatch, words)):
            negated, key, _ = found.groups()
            if (name := f"config.{key}") not in values:
                bare = negated or key.rpartition(".")[2] in booleans()
                values[name] = _flag(name, Argument(bool | str if bare else str, None, None), "A key.")
        _, *others = values(["ctdiff", *words])
        given = {name: values[name].value for name in values if values[name].present}
        for name, each in self.suggested()[1].items():
            if each.paths != "none" and given.get(name) == "":
                raise ValueError(f"--{name}= is empty, expected a path")
        if overrides := [f"--{name}={given.pop(name)}" for name in [*given] if name.startswith("config.")]:
            if "overrides" not in self._names():
                raise ValueError(f"{overrides[0]}: ctdiff {self.name} changes no configuration")
            given["overrides"] = overrides
        return others, given

    def check(self, others: Sequence[str]) -> None:
        """Check the arguments without dashes.

        Raises:
            ValueError: there are too few or too many, one is empty, or one has a value that its type does not have.
        """
        wanted = inspect.getfullargspec(self.function)
        if missing := wanted.args[len(others) : len(wanted.args) - len(wanted.defaults or ())]:
            raise ValueError(f"{meanings(self.function)[missing[0]].rstrip('.')} is missing (see ctdiff {self.name} --help)")
        if wanted.varargs is None and len(others) > len(wanted.args):
            raise ValueError(f"unexpected {others[len(wanted.args)]!r} (a key is set with --config.section.key=value)")
        if "" in others:
            raise ValueError("an argument is empty, expected a path or a name (is a shell variable not set?)")
        for name, word in zip(wanted.args, others, strict=False):
            if (known := choices(arguments(self.function)[name].kind)) and word not in known:
                raise ValueError(f"{name} = {word!r}, expected {one_of(known)}{closest(word, known)}")

    def run(self, words: Sequence[str]) -> int:
        """Parse the words after the verb, call the function, print its result, and return the exit status."""
        others, given = self.read(words)
        if given.get("help"):
            say(self.help())
            return 0
        self.check(others)
        output: Output = apply(shared, given)
        given = {"say": output.say, **given}
        names = self._names()
        with progress.hidden(output.quiet):
            result = self.function(*others, **{name: given[name] for name in given if name in names})
        output.show(result)
        return result.status


def _flag(name: str, argument: Argument, meaning: str) -> flags.Flag[Any]:
    """Return the flag of an argument. Its type says how a text is read."""
    kinds, known = union(argument.kind), choices(argument.kind)
    least: Any = (argument.allowed or Range()).least
    parsers: dict[type, flags.ArgumentParser[Any]] = {
        str: flags.ArgumentParser(),
        bool: flags.BooleanParser(),
        int: flags.IntegerParser(lower_bound=least),
        float: flags.FloatParser(lower_bound=least),
    }
    parser = next((parser for kind, parser in parsers.items() if kind in kinds), flags.ListParser())
    parser = flags.EnumParser(known) if known else parser
    text = re.sub("None means (that )?", "Without it, ", meaning)
    made = _ListFlag if isinstance(parser, flags.ListParser) else flags.Flag
    text = text[:1].upper() + text[1:]
    return made(parser, None, name, argument.default, text, boolean=bool in kinds, allow_overwrite=False)


class _ListFlag(flags.Flag[Any]):
    """A flag with several values. It can be given several times, and the values are joined."""

    def parse(self, argument: Any) -> None:
        before = self.value if self.present else None
        self.value = [*(before or ()), *(self._parse(argument) or ())]
        self.present += 1
