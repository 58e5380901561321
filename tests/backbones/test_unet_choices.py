"""The blocks and the attention layers of the U-Net: each against a direct computation, and all of them in the network."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from backbones import (
    UNET_SIZES,
    ChannelAttention,
    ClassAttention,
    ConvNeXtBlock,
    ImageAttention,
    LinearAttention,
    ResBlock,
    UNet,
    UNetAttention,
    UNetBlock,
)

from ..devices import ABSENT, fake_tensors
from .small_networks import compiled, concrete, perturbed

BLOCKS, ATTENTIONS = concrete(UNetBlock), concrete(UNetAttention)
EVERY = list(product(BLOCKS, ATTENTIONS))
SMALL: dict[str, Any] = {
    **{"widths": (4, 8), "blocks": (1, 2), "patch_size": 1, "groups": 4, "num_heads": 2, "attention_levels": (0, 1)},
    **{"time_features": 8, "time_dim": 8, "num_classes": 3},
}


def network(block: type[UNetBlock], attention: type[UNetAttention], **settings: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(1, 2, **{**SMALL, "block": block, "attention": attention, **settings})


def labelled(*size: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 1, *size), torch.tensor([0.2, 0.7]), torch.tensor([0, 3])


def test_the_walk_finds_the_classes():
    assert {ResBlock, ConvNeXtBlock} <= {*BLOCKS}
    assert {ImageAttention, LinearAttention, ClassAttention, ChannelAttention} <= {*ATTENTIONS}


@pytest.mark.parametrize("xavier", [False, True])
@pytest.mark.parametrize(("block", "attention"), EVERY)
def test_a_new_network_is_zero_and_its_branches_are_too(block, attention, xavier):
    net = network(block, attention, xavier=xavier, residual_scale=0.5)
    x, c, y = labelled(9, 7)
    out = net(x, c, y=y)
    assert out.shape == (2, 2, 9, 7)
    assert not out.any()
    assert any(isinstance(module, attention) for module in net.modules())
    assert any(isinstance(module, block) for module in net.modules())
    h, label = torch.randn(2, 8, 4, 4), torch.randn(2, 8)
    for module in net.modules():
        if isinstance(module, UNetAttention) and module.norm.num_channels == 8:
            torch.testing.assert_close(module(h, label), 0.5 * h)
        elif isinstance(module, UNetBlock) and isinstance(module.skip, nn.Identity) and module.skip(h).shape == h.shape:
            width = 8 if module is not net.down[0].blocks[0] else 4
            torch.testing.assert_close(module(h[:, :width], label), 0.5 * h[:, :width])


@pytest.mark.parametrize(("block", "attention"), EVERY)
def test_checkpointing_changes_no_gradient_and_every_weight_has_one(block, attention):
    gradients = []
    for use_checkpoint in (False, True):
        net = perturbed(network(block, attention, use_checkpoint=use_checkpoint, dropout=0.3))
        x, c, y = labelled(8, 8)
        net(x, c, y=y).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
    for name, plain in gradients[0].items():
        assert plain is not None, name
        assert plain.any(), name
        assert torch.equal(plain, gradients[1][name]), name


@pytest.mark.parametrize(("block", "attention"), EVERY)
def test_half_precision_is_close(block, attention):
    net = perturbed(network(block, attention), 0.1)
    x, c, y = labelled(8, 8)
    with torch.no_grad():
        exact = net(x, c, y=y)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x, c, y=y)
        weights = net.bfloat16()(x, c, y=y)
    for rounded in (half, weights):
        assert rounded.dtype == torch.bfloat16
        assert (rounded.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(("block", "attention"), EVERY)
def test_no_value_is_read_and_no_tensor_is_on_another_device(block, attention):
    """Under fake tensors on a device that this machine need not have."""
    with fake_tensors(), torch.device(ABSENT):
        net = UNet(1, 2, **{**SMALL, "block": block, "attention": attention})
        x, c, y = torch.randn(2, 1, 9, 8), torch.rand(2), torch.tensor([0, 3])
        out = net(x, c, y=y)
        assert (out.device.type, out.shape) == (ABSENT, (2, 2, 9, 8))


class Scaled(UNetBlock):
    """A 1x1 convolution whose output is scaled by the time."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int, **settings: Any) -> None:
        super().__init__(in_channels, out_channels, time_dim, **settings)
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.time = nn.Linear(time_dim, out_channels)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        out: Tensor = self.conv(x) * self.time(e)[:, :, None, None]
        return out


class Mean(UNetAttention):
    """The mean over all pixels."""

    def update(self, x: Tensor, label: Tensor | None) -> Tensor:
        return self.norm(x).mean((2, 3), keepdim=True).expand_as(x)


def test_a_block_and_an_attention_of_one_s_own():
    net = perturbed(network(Scaled, Mean, xavier=True))
    assert isinstance(net.middle.blocks[0], Scaled)
    assert isinstance(net.middle.attention[0], Mean)
    x, c, y = labelled(8, 8)
    net(x, c, y=y).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


@pytest.mark.parametrize("attention", [each for each in ATTENTIONS if each is not ImageAttention])
def test_one_graph_without_a_break(attention):
    net = perturbed(network(ConvNeXtBlock, attention, widths=(4,), blocks=1, attention_levels=(0,)))
    x, c, y = labelled(8, 8)
    torch.testing.assert_close(compiled(net)(x, c, y=y), net(x, c, y=y), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize(("in_channels", "resample"), [(4, None), (6, None), (4, nn.AvgPool2d(2))])
def test_a_convnext_block_by_hand(in_channels, resample, scale_shift):
    torch.manual_seed(0)
    block = ConvNeXtBlock(in_channels, 4, 6, 2, scale_shift, residual_scale=0.5, resample=resample)
    perturbed(block.double())
    x, e = torch.randn(2, in_channels, 8, 8, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    inner = x if resample is None else x.view(2, in_channels, 4, 2, 4, 2).mean((3, 5))
    side = inner.shape[-1]
    padded, h = F.pad(inner, (3, 3, 3, 3)), torch.zeros_like(inner)
    for i, j in product(range(7), range(7)):  # a sum over the window, channel by channel
        h += block.depthwise.weight[:, 0, i, j][:, None, None] * padded[:, :, i : i + side, j : j + side]
    h = h + block.depthwise.bias[:, None, None]
    embedded = e @ block.time.weight.T + block.time.bias
    if not scale_shift:
        h = h + embedded[:, :, None, None]
    grouped = h.view(2, 2, -1)
    grouped = (grouped - grouped.mean(-1, keepdim=True)) / (grouped.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    h = grouped.view_as(h) * block.norm.weight[:, None, None] + block.norm.bias[:, None, None]
    if scale_shift:
        scale, shift = embedded.unflatten(1, (2, in_channels)).unbind(1)
        h = (1 + scale[:, :, None, None]) * h + shift[:, :, None, None]
    pixels = h.movedim(1, -1) @ block.expand.weight[:, :, 0, 0].T + block.expand.bias
    assert pixels.shape[-1] == 16
    pixels = pixels * (1 + torch.erf(pixels / math.sqrt(2))) / 2  # GELU
    branch = (pixels @ block.contract.weight[:, :, 0, 0].T + block.contract.bias).movedim(-1, 1)
    torch.testing.assert_close(block(x, e), 0.5 * (block.skip(inner) + branch), atol=1e-11, rtol=1e-11)


def test_the_weights_of_a_convnext_block():
    block = ConvNeXtBlock(16, 16, 8)
    number = (49 + 1) * 16 + (8 + 1) * 32 + 2 * 16 + (16 + 1) * 64 + (64 + 1) * 16
    assert sum(parameter.numel() for parameter in block.parameters()) == number


def heads(layer: ImageAttention, x: Tensor) -> list[Tensor]:
    """Queries, keys and values of each head, (heads, B, N, d)."""
    qkv = layer.norm(x).flatten(2).mT @ layer.qkv.weight[:, :, 0, 0].T + layer.qkv.bias
    return [torch.stack(part.chunk(layer.num_heads, dim=-1)) for part in qkv.chunk(3, dim=-1)]


def finished(layer: ImageAttention, x: Tensor, out: Tensor) -> Tensor:
    """The last projection of (heads, B, N, d), and the sum with x."""
    projected = torch.cat([*out], -1) @ layer.proj.weight[:, :, 0, 0].T + layer.proj.bias
    return x + projected.mT.reshape(x.shape)


def test_linear_attention_is_its_quadratic_form():
    torch.manual_seed(0)
    layer = perturbed(LinearAttention(8, 2, 4).double())
    x = 3 * torch.randn(2, 8, 3, 5, dtype=torch.float64)
    q, k, v = heads(layer, x)
    weights = q.softmax(-1) @ k.softmax(-2).mT  # (heads, B, N, N)
    assert weights.shape[-2:] == (15, 15)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 15).double())
    torch.testing.assert_close(layer(x), finished(layer, x, weights @ v), atol=1e-12, rtol=1e-12)


def test_linear_attention_costs_in_proportion_to_the_pixels():
    def multiplications(layer: nn.Module, side: int) -> int:
        with FlopCounterMode(display=False) as flops:
            layer(torch.zeros(1, 8, side, side, device="meta"))
        return flops.get_total_flops()

    with torch.device("meta"):
        linear, softmax = LinearAttention(8, 2), ImageAttention(8, 2)
    assert multiplications(linear, 64) == 16 * multiplications(linear, 16)
    assert multiplications(softmax, 64) > 100 * multiplications(softmax, 16)


def test_linear_attention_of_very_large_scores_is_finite():
    layer = perturbed(LinearAttention(8, 2, 4))
    nn.init.normal_(layer.qkv.weight, std=1e4)
    x = torch.randn(2, 8, 3, 5, requires_grad=True)
    out = layer(x)
    out.square().mean().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_class_attention_has_one_more_key_and_value():
    torch.manual_seed(0)
    layer = perturbed(ClassAttention(8, 2, 4, label_dim=6).double())
    x, label = torch.randn(2, 8, 3, 5, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    q, k, v = heads(layer, x)
    key, value = (label @ layer.label.weight.T + layer.label.bias).chunk(2, -1)
    key, value = (torch.stack(part.chunk(2, -1))[:, :, None] for part in (key, value))
    weights = (q @ torch.cat([k, key], 2).mT / 2).softmax(-1)
    assert weights.shape[-2:] == (15, 16)
    expected = finished(layer, x, weights @ torch.cat([v, value], 2))
    torch.testing.assert_close(layer(x, label), expected, atol=1e-12, rtol=1e-12)


def test_the_class_enters_class_attention_and_learns_from_it():
    net = perturbed(network(ResBlock, ClassAttention))
    for module in net.modules():
        if isinstance(module, UNetBlock):  # the class has no other way to the output
            nn.init.zeros_(module.time.weight)
    x, c, _ = labelled(8, 8)
    out = net(x, c, y=torch.tensor([0, 2]))
    other = net(x, c, y=torch.tensor([1, 2]))
    assert not torch.allclose(out[0], other[0])
    torch.testing.assert_close(out[1], other[1])
    out.square().sum().backward()
    assert isinstance(net.classes, nn.Embedding)
    gradient = net.classes.weight.grad
    assert gradient is not None
    assert gradient.any(1).tolist() == [True, False, True, False]


def test_class_attention_needs_classes():
    with pytest.raises(ValueError, match=r"num_classes = 0, expected at least 1: attention = ClassAttention uses the class"):
        UNet(attention=ClassAttention)
    UNet(attention=ClassAttention, attention_levels=())  # no level attends


def test_channel_attention_by_hand():
    torch.manual_seed(0)
    layer = ChannelAttention(64, groups=8, residual_scale=0.5).double()
    x = torch.randn(2, 64, 3, 5, dtype=torch.float64)
    assert torch.equal(layer(x), 0.5 * x)
    assert layer.conv.weight.shape == (1, 1, 3)
    perturbed(layer, 0.5)
    means, left, middle, right = layer.norm(x).mean((2, 3)), *layer.conv.weight.flatten()
    gates = torch.zeros(2, 64, dtype=torch.float64)
    for i in range(64):
        gates[:, i] = middle * means[:, i]
        gates[:, i] += left * means[:, i - 1] if i > 0 else 0
        gates[:, i] += right * means[:, i + 1] if i < 63 else 0
    torch.testing.assert_close(layer(x), 0.5 * 2 * torch.sigmoid(gates)[:, :, None, None] * x, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("channels", [1, 2, 4, 7, 8, 16, 64, 100, 127, 128, 192, 256, 512, 1024, 2048, 4096])
def test_the_kernel_of_channel_attention_is_the_nearest_odd_number(channels):
    t = math.log2(channels) / 2 + 1 / 2
    nearest = min(range(1, 12, 2), key=lambda k: (abs(k - t), -k))  # the larger of two
    assert ChannelAttention(channels).conv.weight.shape == (1, 1, nearest)


def test_the_names_of_the_new_layers():
    def parts(*layers: str) -> list[str]:
        return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]

    assert list(ConvNeXtBlock(4, 4, 6).state_dict()) == parts("depthwise", "time", "norm", "expand", "contract")
    assert list(LinearAttention(4).state_dict()) == parts("norm", "qkv", "proj")
    assert list(ClassAttention(4, label_dim=6).state_dict()) == parts("norm", "qkv", "proj", "label")
    assert list(ChannelAttention(4).state_dict()) == [*parts("norm"), "conv.weight"]


def test_sizes_with_convnext_blocks():
    with torch.device("meta"):
        counts = {
            name: sum(p.numel() for p in UNet(*channels, **UNET_SIZES[name]).parameters())
            for name, channels in (("convnext_mnist", (1, 6)), ("convnext_cifar10", (3, 3)))
        }
    assert counts == {"convnext_mnist": 2_001_816, "convnext_cifar10": 36_373_379}
