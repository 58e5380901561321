"""What a number needs to be repeated: strict JSON, hashes, the machine; and parts of work that survive an interruption."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import math
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctdiff.training.checkpoints import write_atomically

__all__ = [
    "Parts",
    "digest",
    "environment",
    "file_hash",
    "keep_result",
    "kept_result",
    "read_json",
    "to_json",
    "unequal",
]


def _strict(value: Any) -> Any:
    """The value with infinities and NaN, of which JSON has no word, as strings."""
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def to_json(content: Mapping[str, Any]) -> str:
    """Strict JSON: tuples become lists, infinities and NaN the strings that `float` reads; other floats come back exactly."""
    return json.dumps(_strict(content), indent=1, allow_nan=False) + "\n"


def read_json(path: Path, form: str) -> dict[str, Any]:
    """The content of a file that was written in a format of ours.

    Arguments:
        path: the file.
        form: the value of its key `format`.

    Raises:
        ValueError: the file cannot be read, or is of another format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != form:
        found = content.get("format") if isinstance(content, dict) else None
        raise ValueError(f"{path} has the format {found!r}, expected {form!r}")
    return content


def keep_result(path: Path, form: str, what: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Write a result and everything that it depends on.

    Arguments:
        path: the file.
        form: the value of its key `format`.
        what: what the result depends on.
        result: the result.
    """
    write_atomically(path, to_json({"format": form, "what": what, "result": result}).encode())


def kept_result(path: Path, form: str, what: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result that `keep_result` wrote; None where there is none, or one that is damaged or depends on something else."""
    try:
        found = read_json(path, form)
    except ValueError:
        return None
    result: dict[str, Any] | None = found.get("result") if found.get("what") == json.loads(to_json(what)) else None
    return result


def unequal(one: Any, other: Any, ignore: Sequence[str] = (), name: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted names of values that differ between two contents of JSON, with both values; None where one lacks it.

    Arguments:
        one: the first.
        other: the second.
        ignore: keys, at any depth, that are not compared.
        name: where both are.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [key for key in {**one, **other} if key not in ignore]
        return [row for key in keys for row in unequal(one.get(key), other.get(key), ignore, f"{name}.{key}".lstrip("."))]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [row for i, (a, b) in pairs for row in unequal(a, b, ignore, f"{name}[{i}]")]
    return [] if one == other else [(name, one, other)]


def digest(content: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that change with the content, not with the order of its keys."""
    return hashlib.sha256(json.dumps(_strict(content), sort_keys=True).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment() -> dict[str, Any]:
    """What numbers depend on in their last digits, beside the settings."""
    try:
        version = importlib.metadata.version("ctdiff")
    except importlib.metadata.PackageNotFoundError:  # imported from a folder
        version = "not installed"
    return {
        "ctdiff": version,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpu": str(torch.backends.cpu.get_cpu_capability()),
        "threads": torch.get_num_threads(),
    }


class Parts:
    """Pieces of work that are kept until all of it is done: what was interrupted goes on where it was.

    Arguments:
        folder: where they are kept, in a folder of its own for each `what`.
        what: everything that the pieces depend on.
    """

    def __init__(self, folder: Path, what: Mapping[str, Any]) -> None:
        self.folder = folder / digest(what)

    def get(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of a piece: those that are there, or new ones, which then are."""
        path = self.folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as found:
                return dict(found)
        except Exception:  # missing, or damaged in any way: it is made anew
            made = make()
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **made)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
        return made

    def clear(self) -> None:
        """Forget all pieces."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()
