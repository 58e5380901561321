"""The records of training steps, in a file of JSON lines. After an interruption, the file can be continued."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from ctdiff.files import write_atomically

__all__ = ["MetricsFile"]


class MetricsFile:
    """A file of JSON lines: one record per line, in the order of `step`.

    Arguments:
        path: the file.
        step: the step from which the run continues. Records of later steps, and an incomplete line, are deleted.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        kept = [record for record in self.read(path) if record["step"] <= step]
        write_atomically(path, "".join(self._line(record) for record in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append a record and pass it to the operating system. NaN and infinite numbers are written as null."""
        self._file.write(self._line(record))
        self._file.flush()

    def flush(self) -> None:
        """Flush all records to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Return the records of the complete lines of a file. The list is empty if there is no file."""
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [record for line in lines if (record := _parsed(line)) is not None]

    @staticmethod
    def _line(record: dict[str, Any]) -> str:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        return json.dumps(finite) + "\n"


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
