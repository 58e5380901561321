"""A device that no machine needs to have, for tests of devices other than the CPU."""

from __future__ import annotations

from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["ABSENT", "fake_tensors"]

ABSENT = "meta"
"""The device of such tests. On "cuda" an index of a fake tensor needs a driver in torch 2.7."""


def fake_tensors() -> FakeTensorMode:
    """Return a mode in which tensors have no values. A read of a value fails, and an operation on two devices fails.

    `torch.tensor` makes a tensor on `ABSENT` that is not fake. It has no values either, so the mode accepts such tensors.
    """
    return FakeTensorMode(allow_non_fake_inputs=True)
