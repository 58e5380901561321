"""Grids that are lists of times: rows of a published table, and times of the user's own."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

import continuous_diffusion  # noqa: F401 - its grids are met too
from diffusion_core import CustomGrid, RespacedGrid, ShapedGrid, TimeGrid


def subclasses(base: type) -> list[type]:
    return [cls for child in base.__subclasses__() for cls in (child, *subclasses(child))]


@pytest.mark.parametrize("T", [100, 1000, 4000])
def test_respaced_rows_are_evenly_rounded(T):
    for steps in (1, 3, 9, 49, 99):
        grid = RespacedGrid(steps, T)
        exact = np.linspace(0, T - 1, steps + 1)[::-1]
        assert np.abs(np.array(grid.rows()) - exact).max() <= 0.5 + 1e-9
        assert grid.times() == [(row + 1) / T for row in grid.rows()]
        assert (grid.times()[0], grid.times()[-1]) == (grid.t_max, grid.t_min) == (1.0, 1 / T)
        assert all(t > s for t, s in pairwise(grid.times()))


def test_respaced_as_published():
    """The rows that improved DDPM chooses for 10 and 25 of 4000 timesteps, and all of a table."""
    assert RespacedGrid(9, 4000).rows()[::-1] == [0, 444, 889, 1333, 1777, 2222, 2666, 3110, 3555, 3999]
    assert RespacedGrid(24, 4000).rows()[::-1][:6] == [0, 167, 333, 500, 666, 833]
    assert RespacedGrid(99, 100).rows() == list(range(99, -1, -1))


def test_a_grid_says_one_thing():
    """What has a shape takes its times from it; a grid that is a list of times has no shape to contradict them."""
    for grid in subclasses(TimeGrid):
        assert hasattr(grid, "shape") == issubclass(grid, ShapedGrid), grid.__name__
        assert not issubclass(grid, ShapedGrid) or grid.times is ShapedGrid.times, grid.__name__


def test_custom_grid():
    grid = CustomGrid([0.9, 0.5, 0.1])
    assert (grid.steps, grid.t_max, grid.t_min, grid.times()) == (2, 0.9, 0.1, [0.9, 0.5, 0.1])
    assert grid == CustomGrid((0.9, 0.5, 0.1)) != CustomGrid((0.9, 0.4, 0.1))


@pytest.mark.parametrize("points", [[], [1.0], [0.2, 0.5], [0.5, 0.5, 0.1]])
def test_points_must_fall(points):
    with pytest.raises(ValueError, match="expected at least two decreasing times"):
        CustomGrid(points)


def test_bad_numbers():
    for wrong in ([1.0, -0.1], [1.0, float("nan"), 0.1]):
        with pytest.raises(ValueError, match=rf"points = {re.escape(repr(wrong))}, expected each a number in \[0, 1\]"):
            CustomGrid(wrong)
    with pytest.raises(ValueError, match="steps = 0, expected an integer of at least 1"):
        RespacedGrid(0)
    with pytest.raises(ValueError, match="steps = 1000, expected at most T - 1 = 999"):
        RespacedGrid(1000)
    for T in (1, 2.5):
        with pytest.raises(ValueError, match=f"T = {T}, expected an integer of at least 2"):
            RespacedGrid(1, T)
