"""Writes files and folders so that a crash never leaves them incomplete, and locks folders.

A file or a folder is written under a hidden name and flushed to the disk. Then it is renamed. The file system makes a rename
completely or not at all, so the final name never belongs to incomplete content. A folder is renamed to a hidden name before it
is deleted, for the same reason. If a process is killed, only files and folders with hidden names are incomplete.
`remove_leftovers` deletes them.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = [
    "FolderError",
    "discard",
    "expanded",
    "locked",
    "new_folder",
    "remove_leftovers",
    "write_atomically",
    "write_durably",
]

_WRITING, _DELETING = ".writing_", ".deleting_"


class FolderError(RuntimeError):
    """An error about a folder that cannot be used. The message names the folder and a way to solve the problem."""


def expanded(path: str | Path) -> Path:
    """Return a path in which `~` is the home folder, and `~name` that of a user.

    Raises:
        ValueError: the home folder is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {Path(path).parts[0]} is not a known home folder, expected an absolute path") from error


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the content of a file. Readers find its old or its new content, never a part of it, even after a crash."""
    building = path.with_name(f"{_WRITING}{path.name}_{os.getpid()}")
    write_durably(building, content)
    building.replace(path)
    _flush(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder that gets its name only when its content is complete. An older folder of this name is replaced.

    `with new_folder(path) as hidden:` makes a hidden folder to write into. At the end of the block, it is renamed to `path`.
    If the block ends with an error, the hidden folder is deleted. If the process is killed, `remove_leftovers` can delete it.
    """
    building = path.with_name(f"{_WRITING}{path.name}_{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        yield building
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    _flush(building)
    discard(path)
    building.rename(path)
    _flush(path.parent)


def discard(path: Path) -> None:
    """Delete a folder if it exists. It gets a hidden name first, so that an incomplete folder never has the old name."""
    if path.exists():
        doomed = path.with_name(f"{_DELETING}{path.name}_{os.getpid()}")
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path, age: float = 0.0) -> None:
    """Delete the files and folders that a killed process left half written or half deleted.

    Arguments:
        folder: the folder in which they are.
        age: a time in seconds. Files and folders that were changed within this time are kept, because another process may
            still be writing them. 0 deletes all.
    """
    for path in [*folder.glob(f"{_WRITING}*"), *folder.glob(f"{_DELETING}*")]:
        with suppress(FileNotFoundError):  # another process has just renamed or deleted it
            if age and time.time() - max(part.lstat().st_mtime for part in (path, *path.glob("*"))) <= age:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


# `filelock` locks a file, which is left in the folder. Here the folder itself is locked, and no file is left.
@contextmanager
def locked(path: Path, work: str, flag: str | None = None) -> Iterator[None]:
    """Make a folder and lock it until the end of the `with` block.

    The operating system locks the folder itself, so there is no lock file. The lock ends with the process, even if the process
    is killed. On Windows, and on file systems without locks (some network file systems), nothing is locked.

    Arguments:
        path: the folder.
        work: the name of the work in the folder, such as "training", for the error message.
        flag: the flag that chooses another folder, such as "--workdir", for the error message. None if there is none.

    Raises:
        FolderError: the folder cannot be made, or another process has locked it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = None if sys.platform == "win32" else os.open(path, os.O_RDONLY)
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error}") from error
    if descriptor is None or sys.platform == "win32":
        yield
        return
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                other = f", or give another {flag}" if flag else ""
                raise FolderError(f"another {work} uses {path}: wait until it ends{other}") from error
        yield
    finally:
        os.close(descriptor)


def _flush(folder: Path) -> None:
    """Flush the names in a folder to the disk. Some systems cannot open folders, and need no flush."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
