"""Toy classes are looked for where the library's are."""

from __future__ import annotations

import pytest

from ctdiff.recipe import schema

from . import toys


@pytest.fixture
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the toys export can be chosen, as of a package of the library."""
    monkeypatch.setattr(schema, "PACKAGES", (toys.__name__,))
