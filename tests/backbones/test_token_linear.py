"""The linear layer of tokens against torch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from backbones.attention import TokenLinear


@pytest.mark.parametrize("bias", [True, False])
def test_is_torchs_layer_with_its_gradients(bias: bool) -> None:
    layer = TokenLinear(5, 7, bias=bias).double()
    peer = nn.Linear(5, 7, bias=bias).double()
    peer.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 3, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), peer(x))
    found = torch.autograd.grad(layer(x), [x, *layer.parameters()], g)
    torch.testing.assert_close(found, torch.autograd.grad(peer(x), [x, *peer.parameters()], g))
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_starts_as_torchs_layer() -> None:
    torch.manual_seed(0)
    layer = TokenLinear(5, 7)
    torch.manual_seed(0)
    for found, expected in zip(layer.parameters(), nn.Linear(5, 7).parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_half_precision_is_torchs_to_the_last_digit() -> None:
    layer, x = TokenLinear(32, 16), torch.randn(2, 9, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = layer(x), nn.functional.linear(x, layer.weight, layer.bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    half = copy.deepcopy(layer).bfloat16()
    torch.testing.assert_close(half(x.bfloat16()), nn.functional.linear(x.bfloat16(), half.weight, half.bias), rtol=0, atol=0)
