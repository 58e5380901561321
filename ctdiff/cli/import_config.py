"""Turn a configuration file of tauLDR, or of code based on it, into a preset.

FILE is a .py file with a get_config(), or a .yaml file. The file is read and never executed. The result is a .py file for
`ctdiff train --config`, which says only what differs from the defaults. What was changed or dropped is printed with the
reason, and so are the lines that were not understood. The section "Keys of the published configurations" of
docs/configuration.md lists all keys. For example:

    ctdiff import-config mnist_dit.py --out=mine.py
"""

from __future__ import annotations

from pathlib import Path

from ctdiff.cli.verb import CommandLine, Flag, UsageError, Verb, say
from ctdiff.published import Translation, preset_text, read_published, translated

__all__ = ["VERB"]


def _flags() -> list[Flag]:
    return [
        Flag(
            "out",
            "The .py file to write. It must not exist, or hold the same text. Without it, NAME_ctdiff.py in the working "
            "directory, where NAME is the name of FILE.",
        )
    ]


def _run(line: CommandLine) -> int:
    if line.overrides:
        raise UsageError(f"{line.overrides[0]}: change the configuration when you train with it")
    file = Path(line.runs[0]).expanduser()
    out = Path(line.given["out"] or f"{file.stem}_ctdiff.py").expanduser()
    if out.suffix != ".py":
        raise UsageError(f"--out={out}, expected the path of a .py file")
    translation = translated(read_published(file))
    text = preset_text(translation.given, file.name)
    if out.exists() and (not out.is_file() or out.read_text(encoding="utf-8") != text):
        raise UsageError(f"{out} exists and holds something else, expected a new file: choose another --out")
    out.write_text(text, encoding="utf-8")
    say(_report(translation))
    say(f"written: {out}\ntrain with: ctdiff train --config={out}")
    return 0


def _report(translation: Translation) -> str:
    """What became of the keys, a line each."""
    groups: dict[str, list[str]] = {
        "changed": [str(note) for note in translation.changed],
        "dropped": [str(note) for note in translation.dropped],
        "not understood": [f"line {each.line}: {each.text} ({each.why})" for each in translation.skipped],
    }
    lines = [f"{len(translation.kept)} keys have a home here"]
    for title, notes in groups.items():
        lines += [f"{title}:", *(f"  {note}" for note in notes)] if notes else []
    return "\n".join(lines)


VERB = Verb("import-config", __doc__, _flags, _run, least=1, most=1, takes=("FILE", "the configuration file"))
