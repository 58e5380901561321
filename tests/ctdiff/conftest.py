"""What the tests of runs and commands share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _shared_tables(shared_tables: None) -> None:
    """Commands that build one process after the other."""
