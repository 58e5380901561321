"""Errors that tests on an absent device find."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from .devices import ABSENT, fake_tensors

READS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "float": lambda x: float(x[0]),
    "tolist": lambda x: x.tolist(),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "numpy": lambda x: x.cpu().numpy(),
    "equal": lambda x: torch.equal(x, 2 * x),
    "repeats": lambda x: x.repeat_interleave(x.long()),
}
OUTSIDE = torch.ones(3)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_of_a_value(read):
    with fake_tensors(), torch.device(ABSENT):
        made = {"zeros": torch.zeros(3), "tensor": torch.tensor([1.0, 0.0, 2.0]), "result": torch.tensor([1.0, 0.0, 2.0]) + 1}
        for tensor in made.values():
            with pytest.raises((RuntimeError, NotImplementedError)):
                read(tensor)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x, other: x + other,
        lambda x, other: torch.where(x > 0, x, other),
        lambda x, other: x @ other,
        lambda x, other: x + other[x.long()],  # an index on another device is not found, but the result is still on the CPU
        lambda x, other: torch.cat([x, other]),
        lambda x, other: x.scatter_add(0, x.long(), other),
        lambda x, other: nn.functional.linear(x[None], other[None]),
    ],
)
@pytest.mark.parametrize("of", ["zeros", "tensor"])
def test_two_devices(mixed, of):
    with fake_tensors():
        x = torch.zeros(3, device=ABSENT) if of == "zeros" else torch.tensor([1.0, 0.0, 2.0], device=ABSENT)
        for other in (torch.zeros(3), torch.tensor([1.0, 0.0, 2.0]), OUTSIDE):
            assert isinstance(mixed(x, x), Tensor)
            with pytest.raises(RuntimeError, match="device"):
                mixed(x, other)
