"""Values are read where that is free, and nowhere else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diffusion_core import values
from diffusion_core.values import ANYTHING, NOTHING, check_within, ends, least, listed, readable

from ..devices import ABSENT, fake_tensors


def test_readable():
    assert readable(torch.zeros(2))
    assert readable(nn.Parameter(torch.zeros(2)))
    assert not readable(torch.zeros(2, device="meta"))
    with fake_tensors():
        assert not readable(torch.zeros(2))
        assert not readable(torch.zeros(2, device=ABSENT))


def test_nothing_is_read_while_compiling():
    @torch.compile(backend="eager", fullgraph=True)
    def function(x):
        check_within(x, 0, 1, "{}")
        return x + 1 if readable(x) or ends(x, NOTHING) != NOTHING else x - 1

    assert function(torch.ones(2)).tolist() == [0, 0]


@pytest.mark.parametrize("unseen", [NOTHING, ANYTHING])
def test_ends(unseen):
    assert ends(torch.tensor([[3, -1], [0, 2]]), unseen) == (-1, 3)
    assert isinstance(ends(torch.tensor(3), unseen)[0], int)
    assert all(math.isnan(end) for end in ends(torch.tensor([1.0, math.nan, -math.inf]), unseen))
    assert ends(torch.zeros(0, 3), unseen) == unseen
    with fake_tensors():
        assert ends(torch.zeros(2), unseen) == unseen


def test_least():
    assert least(torch.tensor([[3.0, 1.0], [0.5, 2.0]]), torch.tensor(0.25)) == 0.25
    assert math.isnan(least(torch.tensor([1.0, math.nan]), torch.tensor([0.0])))
    assert least(torch.ones(2), torch.ones(0)) == -math.inf
    with fake_tensors():
        assert least(torch.ones(2), torch.ones(2)) == -math.inf


def test_listed():
    assert listed(torch.tensor([True, False]), True) == [True, False]
    with fake_tensors():
        assert listed(torch.zeros(3, device=ABSENT), True) == [True] * 3


@pytest.mark.parametrize(("value", "named"), [(-1.0, "-1.0"), (1.5, "1.5"), (math.nan, "nan"), (math.inf, "inf")])
def test_values_outside_are_named(value, named):
    check_within(torch.tensor([0.0, 1.0]), 0, 1, "{}")
    check_within(torch.zeros(0), 0, 1, "{}")
    with pytest.raises(ValueError, match=f"^x = {named}$"):
        check_within(torch.tensor([0.5, value]), 0, 1, "x = {}")


def test_what_cannot_be_read_is_refused_by_the_device(monkeypatch):
    """In uint8 the comparison `x <= 256` is false for every x."""
    monkeypatch.setattr(values, "readable", lambda tensor: False)
    check_within(torch.tensor([0, 255], dtype=torch.uint8), 0, 256, "x = {}")
    check_within(torch.tensor([0.0, 1.0]), 0, 1, "x = {}")
    for wrong in (torch.tensor([0.0, math.nan]), torch.tensor([2]), torch.tensor([-1])):
        with pytest.raises(RuntimeError, match=r"x = \?"):
            check_within(wrong, 0, 1, "x = {}")
