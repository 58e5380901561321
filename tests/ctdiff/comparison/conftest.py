"""Plots of comparisons without a layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine


@contextmanager
def without_layout() -> Iterator[None]:
    """The parts of plots stay where they are drawn first: to move them takes as long as to draw them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda self, figure: None)
        yield


@pytest.fixture
def no_layout() -> Iterator[None]:
    with without_layout():
        yield
