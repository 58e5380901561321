"""Runs the verb of the command line, and turns errors into messages and exit statuses.

An error of a kind that a user can correct prints one line, with exit status 2. Other errors keep their traceback.
"""

from __future__ import annotations

import importlib
import signal
import sys
import warnings
from collections.abc import Sequence

from absl import flags

from ctdiff.cli.help import overview, verb_help
from ctdiff.cli.verb import Verb, say
from ctdiff.files import FolderError
from ctdiff.memory import keep_freed_memory
from ctdiff.recipe.errors import closest, one_of
from ctdiff.training import CheckpointError

__all__ = ["main"]

_VERBS = ("train", "sample", "evaluate", "compare", "import-config")
"""The names of the verbs; each is a module of this package, with underscores for dashes."""

_MENDABLE = (flags.Error, ValueError, OSError, FolderError, CheckpointError, FloatingPointError)
"""Errors of wrong arguments, missing files or a diverged training: only their message is shown.

A bug of the library can raise such an error too. Call `train` or `sample_run` from Python to see its traceback.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Arguments:
        argv: the arguments after `ctdiff`; None means the arguments of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("help", "--help", "-help", "-h"):
        say(overview(map(_verb, _VERBS)))
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in _VERBS:
        close = closest(name, _VERBS)
        say(f"ctdiff: {name!r} is not a command, expected {one_of(_VERBS)}{close} (see ctdiff --help)", sys.stderr)
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
        say(f"ctdiff: interrupted{'; finished work is kept, the same command continues' if verb.goes_on else ''}", sys.stderr)
        return 128 + signal.SIGINT


def _verb(name: str) -> Verb:
    verb: Verb = importlib.import_module(f"ctdiff.cli.{name.replace('-', '_')}").VERB
    return verb


def _run(verb: Verb, arguments: Sequence[str]) -> int:
    line = verb.read(arguments)
    if line.given["help"]:
        say(verb_help(verb))
        return 0
    verb.check_runs(line.runs)
    return verb.run(line)
