"""Calls the verb that the command line names, and turns errors into messages and exit statuses.

Errors of the kinds that a user can mend are one line and exit status 2. Errors of any other kind keep their trace.
"""

from __future__ import annotations

import difflib
import importlib
import signal
import sys
import warnings
from collections.abc import Sequence

from absl import flags

from ctdiff.cli.help import overview, verb_help
from ctdiff.cli.verb import Verb, say
from ctdiff.memory import keep_freed_memory
from ctdiff.runs import RunError
from ctdiff.training import CheckpointError

__all__ = ["main"]

_VERBS = ("train", "sample", "evaluate", "compare")
"""Each is the name of a module of this package."""

_MENDABLE = (flags.Error, ValueError, OSError, RunError, CheckpointError, FloatingPointError)
"""Kinds of errors that a wrong argument, a missing file or a diverged training raise: their message is shown alone.

A mistake of ours can be of such a kind too. Its trace is seen by calling `train` or `sample_run` from Python.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status.

    Arguments:
        argv: the arguments after `ctdiff`; None is those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("help", "--help", "-help", "-h"):
        say(overview(map(_verb, _VERBS)))
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in _VERBS:
        close = "".join(f". Did you mean {verb}?" for verb in difflib.get_close_matches(name, _VERBS, n=1))
        say(f"ctdiff: {name!r} is not a command, expected one of {', '.join(_VERBS)}{close} (see ctdiff --help)", sys.stderr)
        return 2
    keep_freed_memory()
    verb = _verb(name)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(f"ctdiff: warning: {message}", sys.stderr)
            return _run(verb, rest)
    except _MENDABLE as error:
        say(f"ctdiff: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        say(f"ctdiff: interrupted{'; what is finished is kept, the same command goes on' if verb.goes_on else ''}", sys.stderr)
        return 128 + signal.SIGINT


def _verb(name: str) -> Verb:
    verb: Verb = importlib.import_module(f"ctdiff.cli.{name}").VERB
    return verb


def _run(verb: Verb, arguments: Sequence[str]) -> int:
    line = verb.read(arguments)
    if line.given["help"]:
        say(verb_help(verb))
        return 0
    verb.check_runs(line.runs)
    return verb.run(line)
