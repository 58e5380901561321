"""Writing of files and folders that a crash cannot leave half done, and the lock of a folder.

A file or a folder is written under a hidden name, flushed to the disk, and renamed: one step for the file system. A folder is
renamed before it is deleted, for the same reason. A process that is killed can only leave hidden names behind;
`remove_leftovers` deletes these.
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

__all__ = ["FolderError", "discard", "locked", "new_folder", "remove_leftovers", "write_atomically", "write_durably"]

_WRITING, _DELETING = ".writing_", ".deleting_"


class FolderError(RuntimeError):
    """A folder that cannot be used. The message names the folder and says what can be done."""


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the content of a file. A reader or a crash finds the old content or the new content, never a part."""
    building = path.with_name(f"{_WRITING}{path.name}_{os.getpid()}")
    write_durably(building, content)
    building.replace(path)
    _flush(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder whose name appears only when its content is complete. An older folder of this name is replaced.

    The context gives the hidden folder to write into. If the context ends with an error, the hidden folder stays until
    `remove_leftovers` deletes it.
    """
    building = path.with_name(f"{_WRITING}{path.name}_{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    yield building
    _flush(building)
    discard(path)
    building.rename(path)
    _flush(path.parent)


def discard(path: Path) -> None:
    """Delete a folder if it exists. The folder is renamed first, so that its name never stands for a part of it."""
    if path.exists():
        doomed = path.with_name(f"{_DELETING}{path.name}_{os.getpid()}")
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path, age: float = 0.0) -> None:
    """Delete the files and folders that a killed process left half written or half deleted.

    Arguments:
        folder: the folder that holds them.
        age: the time since the last change, in seconds. Younger ones stay: another process may still be writing them.
    """
    for path in [*folder.glob(f"{_WRITING}*"), *folder.glob(f"{_DELETING}*")]:
        with suppress(FileNotFoundError):  # another process has just renamed or deleted it
            if age and time.time() - max(part.lstat().st_mtime for part in (path, *path.glob("*"))) <= age:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


# Not `filelock`: it locks a file, which stays in the folder; here the folder itself is locked, and nothing stays.
@contextmanager
def locked(path: Path, work: str, flag: str) -> Iterator[None]:
    """Make a folder and lock it while the context lasts.

    The lock is the system's lock of the folder itself. It leaves no file, and it ends with the process, however the process
    ends. File systems without locks (some network file systems) and Windows have no lock.

    Arguments:
        path: the folder.
        work: the work that is done in the folder, for the message.
        flag: the flag that chooses another folder, for the message.

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
                raise FolderError(f"another {work} is at work in {path}: wait for it, or give another {flag}") from error
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
