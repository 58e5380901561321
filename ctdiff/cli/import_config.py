"""The verb `import-config`."""

from __future__ import annotations

from collections.abc import Callable

from ctdiff.cli.suggestions import File
from ctdiff.cli.verb import Result, Verb
from ctdiff.files import expanded, write_atomically
from ctdiff.published import preset_text, read_published, translated
from ctdiff.published.translation import Note

__all__ = ["VERB", "import_config"]


def import_config(file: File, *, out: File | None = None, say: Callable[[str], None]) -> Result:
    """Turn a configuration file of tauLDR, or of code based on it, into a preset.

    Usage: ctdiff import-config FILE [--FLAG=VALUE ...]

    FILE is a .py file with a get_config(), or a .yaml file. The file is read and never executed. The
    result is a .py file for `ctdiff train --config`, which says only what differs from the defaults.
    What was changed or dropped is printed with the reason, and so are the lines that were not
    understood. The section "Keys of the published configurations" of docs/configuration.md lists all
    keys. For example:

        ctdiff import-config mnist_dit.py --out=mine.py

    Arguments:
        file: the configuration file.
        out: the .py file to write. It must not exist, or hold the same text. None means NAME_ctdiff.py in the working
            directory, where NAME is the name of FILE.
        say: a function that prints a message.
    """
    source = expanded(file)
    target = expanded(out or f"{source.stem}_ctdiff.py")
    if target.suffix != ".py":
        raise ValueError(f"--out={target}, expected the path of a .py file")
    if not target.parent.is_dir():
        raise ValueError(f"--out={target}: there is no folder {target.parent}, expected a folder that exists")
    translation = translated(read_published(source))
    content = preset_text(translation.given, source.name).encode()
    if target.exists() and (not target.is_file() or target.read_bytes() != content):
        raise ValueError(f"{target} exists and holds something else, expected a new file: choose another --out")
    write_atomically(target, content)
    say(f"{translation}\ntrain with: ctdiff train --config={target}")
    record = {
        "file": str(target),
        "kept": translation.kept,
        "changed": list(map(_record, translation.changed)),
        "dropped": list(map(_record, translation.dropped)),
        "not_understood": translation.skipped,
    }
    return Result(str(target), record)


def _record(note: Note) -> dict[str, object]:
    """Return a note for JSON, with the value as text, because YAML has types that JSON does not have."""
    return {**vars(note), "value": str(note.value)}


VERB = Verb(import_config)
