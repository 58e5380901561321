"""The state-space backbone: its layer against a loop over tokens, both directions, sizes, cost, initial values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from backbones import SSM, SSM_SIZES
from backbones.ssm import SelectiveSSM, SSMBlock

from ..devices import ABSENT, fake_tensors
from .small_networks import perturbed


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def by_token(layer: SelectiveSSM, x: Tensor) -> Tensor:
    """The layer, token by token and head by head."""
    heads, n, (width, _, size) = layer.num_heads, layer.state_dim, layer.conv.weight.shape
    padded, out = torch.cat([x.new_zeros(len(x), size - 1, width), x], dim=1), []
    state = x.new_zeros(len(x), heads, n, width // heads)
    for t in range(x.shape[1]):
        window = padded[:, t : t + size]  # the token and those before it
        token = F.silu((window * layer.conv.weight[:, 0].T).sum(1) + layer.conv.bias)
        dt, b, c = (token @ layer.select.weight.T).split([heads, n, n], dim=-1)
        dt = torch.log1p(torch.exp(dt + layer.dt_bias))
        decay = torch.exp(-dt * torch.exp(layer.log_a))
        u = token.view(len(x), heads, -1)
        state = decay[..., None, None] * state + torch.einsum("bh,bn,bhp->bhnp", dt, b, u)
        out.append((torch.einsum("bhnp,bn->bhp", state, c) + layer.D[:, None] * u).flatten(1))
    return torch.stack(out, dim=1)


@pytest.mark.parametrize("length", [1, 3, 49, 130])
def test_the_layer_is_its_recurrence(length):
    torch.manual_seed(0)
    layer = perturbed(SelectiveSSM(12, 3, 4, 4).double())
    x = torch.randn(2, length, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_token(layer, x), atol=1e-12, rtol=1e-12)


def test_a_block_reads_in_both_directions():
    torch.manual_seed(0)
    block = perturbed(SSMBlock(8, 2, 4, 2, 3).double())
    z, e = torch.randn(2, 6, 8, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    shift, scale, gate = block.modulation(e)[:, None].chunk(3, -1)
    x, r = block.enter((1 + scale) * F.layer_norm(z, (8,), eps=1e-6) + shift).chunk(2, -1)
    y = by_token(block.first_to_last, x) + by_token(block.last_to_first, x.flip(1)).flip(1)
    expected = z + gate * ((y * F.silu(r)) @ block.proj.weight.T)
    torch.testing.assert_close(block(z, e), expected, atol=1e-12, rtol=1e-12)

    token = z.clone().requires_grad_()
    reached = [torch.autograd.grad(block(token, e)[:, t].square().sum(), token)[0].abs().sum(-1) for t in (0, 3, 5)]
    assert all(each.min() > 0 for each in reached)  # every token depends on every other


def test_a_direction_is_causal():
    layer = perturbed(SelectiveSSM(8, 2, 4, 3).double())
    x = torch.randn(1, 6, 8, dtype=torch.float64, requires_grad=True)
    for t in range(6):
        reached = torch.autograd.grad(layer(x)[:, t].sum(), x)[0].abs().sum((0, 2))
        assert (reached > 0).tolist() == [s <= t for s in range(6)]


def test_a_new_network_is_zero_and_a_new_block_the_identity():
    net = SSM((8, 12), 3, patch_size=2, depth=2, hidden_dim=16, num_heads=2, num_classes=3, out_channels=6)
    out = net(torch.randn(2, 3, 8, 12), torch.rand(2), y=torch.tensor([0, 3]))
    assert out.shape == (2, 6, 8, 12)
    assert not out.any()
    z = torch.randn(2, 5, 16)
    assert torch.equal(net.blocks[0](z, torch.randn(2, 16)), z)


def test_steps_and_decays_of_a_new_layer_are_mambas():
    torch.manual_seed(0)
    layer = SelectiveSSM(4096, 4096, 1, 1)
    steps, a = F.softplus(layer.dt_bias.detach()), layer.log_a.detach().exp()
    assert 0.99e-3 < steps.min() < 1.05e-3
    assert 0.095 < steps.max() < 0.101
    torch.testing.assert_close(steps.log10().mean(), torch.tensor(-2.0), atol=0.05, rtol=0)  # log-uniform
    assert 1 <= a.min() < 1.05
    assert 15.9 < a.max() <= 16
    torch.testing.assert_close(a.mean(), torch.tensor(8.5), atol=0.3, rtol=0)  # uniform
    assert layer.D.eq(1).all()


def test_sizes():
    assert set(SSM_SIZES) == {f"{name}/{patch}" for name in ("Ti", "S") for patch in (2, 4, 8)}

    def by_hand(d: int, heads: int, depth: int, patch: int) -> int:
        width, state = 2 * d, 16
        direction = (4 + 1) * width + width * (heads + 2 * state) + 3 * heads
        block = d * 2 * width + 2 * direction + width * d + (d + 1) * 3 * d
        ends = (4 * patch**2 + 1) * d + (256 + 1) * d + (d + 1) * d + 1001 * d  # patches, time, classes
        return ends + depth * block + (d + 1) * 2 * d + (d + 1) * 8 * patch**2

    with torch.device("meta"):
        for size, settings in SSM_SIZES.items():
            assert (settings["depth"], settings["hidden_dim"]) == (24, {"Ti": 192, "S": 384}[size.split("/")[0]])
            net = SSM(32, 4, **settings, num_classes=1000, out_channels=8)
            assert count(net) == by_hand(settings["hidden_dim"], settings["num_heads"], 24, settings["patch_size"])


def test_cost_is_linear_in_the_number_of_patches():
    def multiplications(side: int) -> int:
        with torch.device("meta"):
            net, x, c = SSM(side, 1, 2, 2, 16, 2), torch.zeros(1, 1, side, side), torch.zeros(1)
        with FlopCounterMode(display=False) as flops:
            net(x, c)
        return flops.get_total_flops()

    small, middle, large = map(multiplications, (32, 64, 128))  # 256, 1,024 and 4,096 patches
    assert large - middle == 4 * (middle - small)


def test_no_value_is_read_and_no_tensor_is_on_another_device():
    """Under fake tensors on a device that this machine need not have."""
    with fake_tensors(), torch.device(ABSENT):
        net = SSM(32, 3, 2, 2, 16, 2, num_classes=3)  # 256 patches, so several chunks
        x, c, y = torch.randn(2, 3, 32, 32), torch.rand(2), torch.tensor([0, 3])
        out = net(x, c, y=y)
        assert (out.device.type, out.shape) == (ABSENT, x.shape)


def test_what_does_not_fit_is_refused():
    for settings, message in (
        ({"num_heads": 7}, r"num_heads = 7 does not divide the width 320"),
        ({"hidden_dim": 10}, r"hidden_dim = 10, expected a multiple of 4"),
        ({"patch_size": 5}, r"patch_size = 5 does not divide the image \(28 x 28\)"),
        ({"state_dim": 0}, r"state_dim = 0, expected an integer of at least 1"),
    ):
        with torch.device("meta"), pytest.raises(ValueError, match=message):
            SSM(**settings)
