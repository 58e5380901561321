"""`python -m ctdiff.published FILE ...` updates the table of published keys in documents."""

from __future__ import annotations

import sys
from pathlib import Path

from ctdiff.published import with_table

for path in map(Path, sys.argv[1:]):
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
