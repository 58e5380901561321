"""The numbers of every step, as a file of JSON lines that survives interruptions."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from ctdiff.training.checkpoints import write_atomically

__all__ = ["MetricsFile"]


class MetricsFile:
    """A file of JSON lines, one record a line, ascending in `step`.

    Arguments:
        path: the file.
        step: the step that the run continues from; later lines, and a half-written one, are dropped.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        kept = [record for record in self.read(path) if record["step"] <= step]
        write_atomically(path, "".join(self._line(record) for record in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; the system has it when this returns. Numbers that are not finite become null."""
        self._file.write(self._line(record))
        self._file.flush()

    def flush(self) -> None:
        """Wait until the disk has everything."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """The whole lines of a file; none where there is no file."""
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
