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

from ctdiff.cli.verb import Verb, say
from ctdiff.config import preset_names
from ctdiff.files import FolderError
from ctdiff.recipe import engines, samplers_of
from ctdiff.recipe.errors import closest, one_of
from ctdiff.training import CheckpointError

__all__ = ["VERBS", "main", "verb"]

VERBS = (
    "train", "sample", "evaluate", "compare", "models", "verify", "push", "pull", "import-config", "info", "completion"
)  # fmt: skip
"""The names of the verbs; each is a module of this package, with underscores for dashes."""

_HELP = (["help"], ["--help"], ["-help"], ["-h"])

_CONTINUED = (["train"], ["evaluate"], ["compare"], ["verify"], ["push"])
"""Verbs that keep finished work, and continue it if the same command is run again."""

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
    try:
        if not arguments or arguments in _HELP:
            say(overview())
            return 0 if arguments else 2
        if arguments[:1] in _HELP:
            arguments = [*arguments[1:], "--help"]
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(f"ctdiff: warning: {message}", sys.stderr)
            return verb(arguments[0]).run(arguments[1:])
    except _MENDABLE as error:
        say(f"ctdiff: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "; finished work is kept, run the same command again to continue" if arguments[:1] in _CONTINUED else ""
        say(f"ctdiff: interrupted{kept}", sys.stderr)
        return 128 + signal.SIGINT


def overview() -> str:
    """Return the text of `ctdiff --help`: the verbs, the presets and the samplers."""
    about = "ctdiff: train diffusion models of images, draw images from them, and measure how good these are."
    lines = [f"  {name:<15}{(verb(name).function.__doc__ or '').splitlines()[0]}" for name in VERBS]
    begin = "`ctdiff COMMAND --help` explains a command and its flags. To begin: ctdiff train --config=mnist"
    presets = flags.text_wrap(", ".join(preset_names()), indent="  ")
    samplers = [f"  {engine.name}: {', '.join(samplers_of(engine.name))}" for engine in engines().values()]
    lists = "\n".join(["Presets, for `ctdiff train --config=NAME`:", presets, "", "Samplers, by process.engine:", *samplers])
    return "\n\n".join([about, "\n".join(lines), begin, lists])


def verb(name: str) -> Verb:
    """Return the verb of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in VERBS:
        raise ValueError(f"{name!r} is not a command, expected {one_of(VERBS)}{closest(name, VERBS)} (see ctdiff --help)")
    found: Verb = importlib.import_module(f"ctdiff.cli.{name.replace('-', '_')}").VERB
    return found
