"""Saves results so that they can be repeated: dataclasses as JSON, hashes, the environment, and parts of unfinished work."""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch

from ctdiff.files import write_atomically
from ctdiff.hashes import json_hash

__all__ = [
    "Environment",
    "Parts",
    "as_json",
    "digest",
    "environment",
    "from_json",
    "keep_result",
    "kept_result",
    "read_json",
    "read_record",
    "to_json",
    "unequal",
]


class Written(Protocol):
    """A dataclass that is the whole content of a JSON file."""

    FORMAT: ClassVar[str]


T = TypeVar("T")
W = TypeVar("W", bound=Written)


def as_json(value: object) -> Any:
    """Convert a value to the types of JSON.

    Dataclasses become dictionaries, and tuples become lists. Infinities and NaN become strings that `float` accepts. If a
    dataclass has an attribute FORMAT, it is the first key, `format`.
    """
    if is_dataclass(value) and not isinstance(value, type):
        heading = {"format": value.FORMAT} if hasattr(value, "FORMAT") else {}
        return heading | {item.name: as_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def to_json(content: object) -> str:
    """Return strict JSON text of dataclasses, dictionaries, lists and plain values. Finite floats stay exact."""
    return json.dumps(as_json(content), indent=1, allow_nan=False) + "\n"


def from_json(cls: type[T], content: object, where: str) -> T:
    """Make a dataclass from the content that `as_json` returned for it.

    The types of the fields may be dataclasses, `list`, `dict`, unions with None, plain values and `Any`. A field with a
    default may be missing.

    Arguments:
        cls: the dataclass.
        content: the parsed JSON.
        where: the file's name, for error messages.

    Raises:
        ValueError: a key is missing or unknown, or a value has another type.
    """
    made: T = _read(cls, content, where)
    return made


def _read(kind: Any, value: Any, where: str) -> Any:
    """Return a value of the given type from parsed JSON."""
    if kind is Any:
        return value
    arguments = get_args(kind)
    if NoneType in arguments:
        return None if value is None else _read(next(each for each in arguments if each is not NoneType), value, where)
    if is_dataclass(kind) and isinstance(value, dict):
        return _read_fields(kind, value, where)
    origin = get_origin(kind) or kind
    if origin is float and (value in ("inf", "-inf", "nan") or type(value) is int):
        return float(value)
    if not isinstance(value, origin) or (isinstance(value, bool) and origin is not bool):
        raise ValueError(f"{where} = {value!r}, expected {'an object' if is_dataclass(kind) else origin.__name__}")
    if origin is list:
        return [_read(arguments[0], item, f"{where}[{place}]") for place, item in enumerate(value)]
    if origin is dict:
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    return value


def _read_fields(cls: Any, content: dict[str, Any], where: str) -> Any:
    """A dataclass from its keys."""
    given = {key: value for key, value in content.items() if key != "format" or not hasattr(cls, "FORMAT")}
    kinds = get_type_hints(cls)
    expected = {item.name: item.default is MISSING and item.default_factory is MISSING for item in fields(cls)}
    if unknown := [key for key in given if key not in expected]:
        raise ValueError(f"{where} has the unknown key {unknown[0]!r}, expected {', '.join(expected)}")
    if missing := [name for name, required in expected.items() if required and name not in given]:
        raise ValueError(f"{where} has no key {missing[0]!r}, expected {', '.join(expected)}")
    return cls(**{key: _read(kinds[key], value, f"{where}: {key}") for key, value in given.items()})


def read_json(path: Path, form: str) -> dict[str, Any]:
    """Read a JSON file of ctdiff, and return its content as a dictionary.

    Arguments:
        path: the file.
        form: the expected value of its key `format`.

    Raises:
        ValueError: the file cannot be read, or has another format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != form:
        found = content.get("format") if isinstance(content, dict) else None
        raise ValueError(f"{path} has the format {found!r}, expected {form!r}")
    return content


def read_record(path: Path, cls: type[W]) -> W:
    """Read a JSON file, and return its content as a dataclass.

    Arguments:
        path: a file with a text of `to_json`.
        cls: the dataclass, with an attribute FORMAT.

    Raises:
        ValueError: the file cannot be read, has another format, or has missing, unknown or wrong values.
    """
    return from_json(cls, read_json(path, cls.FORMAT), str(path))


def keep_result(path: Path, form: str, what: Mapping[str, Any], result: object) -> None:
    """Write a result, with everything that it depends on.

    Arguments:
        path: the file.
        form: the value of its key `format`.
        what: everything that the result depends on.
        result: the result, a dataclass.
    """
    write_atomically(path, to_json({"format": form, "what": what, "result": result}).encode())


def kept_result(path: Path, form: str, what: Mapping[str, Any], cls: type[T]) -> T | None:
    """Read the result that `keep_result` wrote. Return None if the file is missing or damaged, or if `what` is different.

    Arguments:
        path: the file.
        form: the expected value of its key `format`.
        what: everything that the result depends on.
        cls: the result's dataclass.
    """
    try:
        found = read_json(path, form)
        return from_json(cls, found.get("result"), str(path)) if found.get("what") == as_json(what) else None
    except ValueError:
        return None


def unequal(one: Any, other: Any, ignore: Sequence[str] = (), name: str = "") -> list[tuple[str, Any, Any]]:
    """List the values that differ between two contents: dotted name, first value, second value.

    A value that one content does not have is None.

    Arguments:
        one: the first content, made of dataclasses, dictionaries, lists and plain values.
        other: the second content.
        ignore: the keys, at any depth, that are not compared.
        name: the name of both contents, a prefix of the dotted names.
    """
    one, other = as_json(one), as_json(other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [key for key in {**one, **other} if key not in ignore]
        return [row for key in keys for row in unequal(one.get(key), other.get(key), ignore, f"{name}.{key}".lstrip("."))]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [row for i, (a, b) in pairs for row in unequal(a, b, ignore, f"{name}[{i}]")]
    return [] if one == other else [(name, one, other)]


def digest(content: Mapping[str, Any]) -> str:
    """Return a hash of the content, 16 hexadecimal digits. The order of the keys does not change it."""
    return json_hash(as_json(content))[:16]


@dataclass(frozen=True)
class Environment:
    """The software and the machine. The last digits of numbers depend on them.

    Arguments:
        ctdiff: the version of ctdiff, or "not installed".
        python: the version of Python.
        torch: the version of PyTorch.
        numpy: the version of NumPy.
        machine: the architecture of the processor, such as x86_64.
        cpu: the processor's instruction set that PyTorch uses, such as AVX2.
        threads: the number of threads that PyTorch uses.
    """

    ctdiff: str
    python: str
    torch: str
    numpy: str
    machine: str
    cpu: str
    threads: int


def environment() -> Environment:
    """Return the environment of this process."""
    try:
        version = importlib.metadata.version("ctdiff")
    except importlib.metadata.PackageNotFoundError:  # imported from a folder
        version = "not installed"
    return Environment(
        ctdiff=version,
        python=platform.python_version(),
        torch=str(torch.__version__),
        numpy=np.__version__,
        machine=platform.machine(),
        cpu=str(torch.backends.cpu.get_cpu_capability()),
        threads=torch.get_num_threads(),
    )


class Parts:
    """Saves finished pieces of a long computation in files. After an interruption, only the unfinished piece is lost.

    Arguments:
        folder: the folder of the files. Each `what` has a subfolder.
        what: everything that the pieces depend on.
    """

    def __init__(self, folder: Path, what: Mapping[str, Any]) -> None:
        self.folder = folder / digest(what)

    def get(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the arrays of a piece. If its file is missing or damaged, `make` computes them, and they are saved."""
        path = self.folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as found:
                return dict(found)
        except Exception:  # missing, or damaged in any way: computed again
            made: dict[str, Any] = make()
        buffer = io.BytesIO()
        np.savez(buffer, **made)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
        return made

    def clear(self) -> None:
        """Delete all pieces."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()
