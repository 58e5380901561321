"""`python -m ctdiff.models FILE ...` updates the cards of the models in documents."""

from __future__ import annotations

import sys
from pathlib import Path

from ctdiff.models import with_models

for path in map(Path, sys.argv[1:]):
    path.write_text(with_models(path.read_text(encoding="utf-8")), encoding="utf-8")
