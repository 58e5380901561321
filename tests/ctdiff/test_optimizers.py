"""Optimisers, against torch's own with the same groups."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ctdiff.training import SGD, Adam, AdamW, parameter_groups


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2))


def stepped(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> list[torch.Tensor]:
    """The parameters after some steps."""
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()
    return [p.detach() for p in module.parameters()]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (AdamW(0.02, 0.3, (0.8, 0.95)), lambda groups: torch.optim.AdamW(groups, lr=0.02, betas=(0.8, 0.95), fused=True)),
        (Adam(0.02, 0.3, (0.8, 0.95)), lambda groups: torch.optim.Adam(groups, lr=0.02, betas=(0.8, 0.95), fused=True)),
        (SGD(0.02, 0.3, 0.7), lambda groups: torch.optim.SGD(groups, lr=0.02, momentum=0.7)),
    ],
)
def test_steps_are_torch_s(ours, theirs):
    one = network()
    other = copy.deepcopy(one)
    matrices, vectors = ([p for p in other.parameters() if (p.ndim == 2) is decays] for decays in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = ours(one.parameters())
    for mine, expected in zip(stepped(one, optimizer), stepped(other, theirs(groups)), strict=True):
        assert mine.equal(expected)
    for parameter, state in optimizer.state.items():
        assert sum(tensor.shape == parameter.shape for tensor in state.values()) == ours.copies


def test_only_matrices_decay():
    module = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Conv2d(1, 2, 3))
    matrices, vectors = parameter_groups(module.parameters(), 0.3)
    assert [p.ndim for p in matrices["params"]] == [2, 4]
    assert all(p.ndim == 1 for p in vectors["params"])
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamW(lr=0.0), "lr = 0.0, expected a number above 0"),
        (lambda: Adam(weight_decay=-0.1), "weight_decay = -0.1, expected a number of at least 0"),
        (lambda: AdamW(betas=(0.9, 1.0)), r"betas = \(0.9, 1.0\), expected each a number in \[0, 1\)"),
        (lambda: SGD(momentum=1.0), r"momentum = 1.0, expected a number in \[0, 1\)"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
