"""The verb `completion`: scripts that complete commands in a shell. They are made from the verbs and their flags."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Literal

from ctdiff.cli.main import VERBS, verb
from ctdiff.cli.suggestions import Suggested
from ctdiff.cli.verb import Result, Verb

__all__ = ["VERB", "completion"]

# In bash, "=" is a word of its own, unless the user has changed COMP_WORDBREAKS.
_BASH = r"""_ctdiff() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} flag= prefix= words= paths= found
    if [[ $word == --*=* ]]; then flag=${word%%=*} prefix=$flag= word=${word#*=}
    elif [[ $word == = ]]; then flag=$before word=
    elif [[ $before == = ]]; then flag=${COMP_WORDS[COMP_CWORD-2]}
    elif [[ $before == --* && $word != -* ]]; then flag=$before
    fi
    if [[ $COMP_CWORD == 1 ]]; then words=@VERBS@
    else case "${COMP_WORDS[1]} $flag" in
@CASES@
    esac; fi
    # The word as it was typed: without its opening quote, or without backslashes, which `read` removes.
    if [[ $word == [\"\']* ]]; then word=${word:1}; else IFS= read word <<< "$word"; fi
    COMPREPLY=()
    while IFS= read -r found; do COMPREPLY+=("$found"); done < <(
        compgen -P "$prefix" -W "$words" -- "$word"
        [[ $paths ]] && compgen -P "$prefix" $paths -- "$word"
    )
    if [[ $paths ]]; then
        compopt -o filenames 2>/dev/null
    elif [[ ${COMPREPLY[0]} == --*= ]]; then compopt -o nospace 2>/dev/null
    fi
    return 0
}
complete -F _ctdiff ctdiff
"""

_ZSH = r"""#compdef ctdiff
_ctdiff_value() {
    local paths=$1
    shift
    (( $# )) && compadd -- "$@"
    case $paths in files) _files ;; folders) _files -/ ;; esac
}
_ctdiff() {
    local verb=$words[2]
    if (( CURRENT == 2 )); then
        local -a verbs=(@VERBS@)
        _describe -t commands command verbs
        return
    fi
    shift words
    (( CURRENT-- ))
    case $verb in
@CASES@
    esac
}
if [[ $funcstack[1] == _ctdiff ]]; then _ctdiff "$@"; else compdef _ctdiff ctdiff; fi
"""

_PATHS_OF_BASH = {"files": "-f", "folders": "-d", "none": ""}


def completion(shell: Literal["bash", "zsh", "fish"]) -> Result:
    """Print a script that completes commands in a shell.

    Usage: ctdiff completion SHELL [--FLAG=VALUE ...]

    SHELL is bash, zsh or fish. The script completes commands, flags, the presets of --config, names of
    models, files and folders. Write it to a file, and load the file with `source FILE` when the shell
    starts. Write it again after an update of ctdiff. For example:

        ctdiff completion bash

    Arguments:
        shell: the shell: bash, zsh or fish.
    """
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()
    return Result(script.rstrip(), {"shell": shell, "script": script})


def _summary(name: str) -> str:
    """Return the first line of the help of a verb."""
    return (verb(name).function.__doc__ or "").splitlines()[0]


def _described(name: str) -> tuple[Suggested, dict[str, tuple[str, Suggested | None]]]:
    """Return what is suggested for the arguments without dashes of a verb, and its flags.

    A flag comes with the first sentence of its meaning, and with what is suggested for its value. This is None for a flag that
    needs no value.
    """
    found = verb(name)
    values, (first, suggested) = found.flag_values(), found.suggested()
    flags = {}
    for flag in sorted({*values} - {"h"}):
        about = (values[flag].help or "").partition(". ")[0].rstrip(".")
        flags[flag] = about, None if values[flag].boolean else suggested[flag]
    return first, flags


def _bash() -> str:
    cases = "\n".join(f"        {line} ;;" for name in VERBS for line in _bash_cases(name))
    return _BASH.replace("@VERBS@", shlex.quote(" ".join(VERBS))).replace("@CASES@", cases)


def _bash_cases(name: str) -> Iterator[str]:
    """Yield the branches of a verb: one for each flag with a value, and one for the other words."""
    first, flags = _described(name)
    for flag, (_, values) in flags.items():
        if values is not None:
            yield f"'{name} --{flag}') {_bash_values(values)}"
    names = " ".join(f"--{flag}" if values is None else f"--{flag}=" for flag, (_, values) in flags.items())
    yield f"'{name} '*) if [[ $word == -* ]]; then words={shlex.quote(names)}; else {_bash_values(first)}; fi"


def _bash_values(suggested: Suggested) -> str:
    return f"words={shlex.quote(' '.join(suggested.words()))} paths={_PATHS_OF_BASH[suggested.paths]}"


def _zsh() -> str:
    verbs = " ".join(shlex.quote(f"{name}:{_summary(name)}") for name in VERBS)
    cases = "\n".join(f"        {name}) _arguments {' '.join(map(shlex.quote, _zsh_arguments(name)))} ;;" for name in VERBS)
    return _ZSH.replace("@VERBS@", verbs).replace("@CASES@", cases)


def _zsh_arguments(name: str) -> Iterator[str]:
    """Yield the flags and the other words of a verb, as arguments of `_arguments`."""
    first, flags = _described(name)
    for flag, (about, values) in flags.items():
        escaped = re.sub(r"([\[\]\\])", r"\\\1", about)
        yield f"--{flag}[{escaped}]" if values is None else f"--{flag}=[{escaped}]:value:{_zsh_values(values)}"
    yield f"*:argument:{_zsh_values(first)}"


def _zsh_values(suggested: Suggested) -> str:
    return " ".join([" _ctdiff_value", suggested.paths, *suggested.words()])


def _fish() -> str:
    lines = ["complete -c ctdiff -f"]
    for name in VERBS:
        lines.append(f"complete -c ctdiff -n __fish_use_subcommand -a {name} -d {shlex.quote(_summary(name))}")
        first, flags = _described(name)
        here = f"complete -c ctdiff -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{here} {_fish_values(first)}"]
        for flag, (about, values) in flags.items():
            lines.append(f"{here} -l {flag} -d {shlex.quote(about)} {'' if values is None else _fish_values(values)}".rstrip())
    return "\n".join(lines)


def _fish_values(suggested: Suggested) -> str:
    """Return the options of `complete` for suggestions."""
    words = " ".join(suggested.words())
    if suggested.paths == "folders":
        words = f"{words} (__fish_complete_directories)".lstrip()
    return f"{'-r -F' if suggested.paths == 'files' else '-x'} -a {shlex.quote(words)}"


VERB = Verb(completion)
