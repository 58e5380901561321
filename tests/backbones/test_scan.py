"""The scan without a loop against the recurrence itself, one position after the other."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from backbones.scan import linear_recurrence, selective_scan

LENGTHS = (1, 2, 7, 49, 1024)
HEADS, P, N = 3, 4, 2


def recurrence(g: Tensor, x: Tensor) -> Tensor:
    """h_t = exp(g_t) h_{t-1} + x_t."""
    h, states = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = g[:, t].exp() * h + x[:, t]
        states.append(h)
    return torch.stack(states, dim=1)


def scan(u: Tensor, g: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """h_t = exp(g_t) h_{t-1} + b_t u_t^T, y_t = h_t^T c_t."""
    states = recurrence(g[..., None, None], torch.einsum("btn,bthp->bthnp", b, u))
    return torch.einsum("bthnp,btn->bthp", states, c)


def inputs(length: int, dtype: torch.dtype = torch.float64, batch: int = 2) -> list[Tensor]:
    """u, g, b, c. Decays are near 1 and near 0: logarithms from -12 to -0.001."""
    torch.manual_seed(length)
    shapes = ((HEADS, P), (HEADS,), (N,), (N,))
    u, g, b, c = (torch.randn(batch, length, *shape, dtype=torch.float64) for shape in shapes)
    g = -torch.exp(math.log(1e-3) + math.log(12e3) * torch.rand_like(g))
    return [part.to(dtype).requires_grad_() for part in (u, g, b, c)]


def with_gradients(function: Any, parts: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of a sum of its elements with fixed random weights."""
    y = function(*parts)
    torch.manual_seed(0)
    weights = torch.randn(y.shape, dtype=torch.float64).to(y.dtype) / math.sqrt(y.shape[1])
    return [y, *torch.autograd.grad((y * weights).sum(), parts, materialize_grads=True)]


TOLERANCES = [(torch.float32, 1e-5), (torch.float64, 1e-12)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=["float32", "float64"])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_selective_scan_is_the_recurrence(length, dtype, tolerance):
    found = with_gradients(selective_scan, inputs(length, dtype))
    expected = with_gradients(scan, inputs(length))
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), plain, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=["float32", "float64"])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_associative_scan_is_the_recurrence(length, dtype, tolerance):
    def decays_and_inputs(dtype: torch.dtype) -> list[Tensor]:
        u, g, *_ = inputs(length, dtype)
        return [g.unsqueeze(-1).detach().requires_grad_(), u]  # the decays are broadcast

    found = with_gradients(linear_recurrence, decays_and_inputs(dtype))
    expected = with_gradients(recurrence, decays_and_inputs(torch.float64))
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), plain, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 64])
def test_chunks_change_nothing(chunk):
    parts = inputs(7)
    for ours, plain in zip(
        with_gradients(lambda *each: selective_scan(*each, chunk), parts), with_gradients(scan, parts), strict=True
    ):
        torch.testing.assert_close(ours, plain, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("chunk", [2, 8])
def test_first_and_second_derivatives(chunk):
    parts = tuple(inputs(5, batch=1))
    assert gradcheck(lambda *each: selective_scan(*each, chunk), parts)
    assert gradgradcheck(lambda *each: selective_scan(*each, chunk), parts)
    assert gradcheck(linear_recurrence, (parts[1], parts[1].detach().sin().requires_grad_()))


@pytest.mark.parametrize("g", [0.0, -1e-8, -1.0, -1e4, -1e30])
def test_decays_at_their_extremes(g):
    """From a sum of all inputs to no memory at all."""
    u, _, b, c = inputs(512)
    decays = torch.full((2, 512, HEADS), g, dtype=torch.float64, requires_grad=True)
    expected = with_gradients(scan, [u, decays, b, c])
    single = [part.detach().float().requires_grad_() for part in (u, decays, b, c)]
    for ours, plain in zip(with_gradients(selective_scan, single), expected, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), plain, atol=1e-5 * float(plain.detach().abs().max()), rtol=1e-5)


def test_a_small_decay_behind_a_large_one_keeps_its_digits():
    """The state is forgotten every eighth position, and decays by a thousandth at all others."""
    u, _, b, c = inputs(128)
    g = torch.full((2, 128, HEADS), -1e-3, dtype=torch.float64)
    g[:, ::8] = -1e4
    single = [part.detach().float() for part in (u, g, b, c)]
    torch.testing.assert_close(selective_scan(*single).double(), scan(u, g, b, c).detach(), atol=1e-5, rtol=1e-5)


def test_half_precision_keeps_decays_and_states():
    """Inputs and weights are rounded to bfloat16; a state that sums 4,096 inputs is not."""
    u, g, b, c = (part.detach() for part in inputs(4096))
    rounded = [u.bfloat16(), (g / 1000).float(), b.bfloat16(), c.bfloat16()]
    exact = scan(*(part.double() for part in rounded))
    found = selective_scan(*rounded)
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact).norm() < 0.01 * exact.norm()


class Operations(TorchDispatchMode):
    """Counts torch's operations."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def cost(length: int) -> tuple[int, int, int]:
    """How many operations, multiplications in products of matrices, and numbers that are saved for the gradient."""
    parts, saved = inputs(length), {}

    def keep(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = (x.untyped_storage().nbytes(), x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), Operations() as operations:
        y = selective_scan(*parts)
    with FlopCounterMode(display=False) as flops:
        torch.autograd.grad(selective_scan(*parts).sum(), parts)
    assert y.shape == (2, length, HEADS, P)
    return operations.number, flops.get_total_flops(), sum(nbytes for nbytes, _ in saved.values())


def test_time_and_memory_are_linear_in_the_length():
    operations, multiplications, saved = zip(*(cost(256 * 2**i) for i in range(4)), strict=True)
    growth = [after - before for before, after in pairwise(multiplications)]
    assert growth == [growth[0], 2 * growth[0], 4 * growth[0]]
    for i, numbers in enumerate(saved):
        assert numbers == pytest.approx(2**i * saved[0], rel=0.05)
    levels = [after - before for before, after in pairwise(operations)]
    assert levels == [levels[0]] * 3  # one more level for a doubled length, and no loop over positions
