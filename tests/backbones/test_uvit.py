"""U-ViT: published sizes and starts, long skips, tokens, bad input."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from backbones import UVIT_SIZES, UViT


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def perturbed(net: nn.Module) -> nn.Module:
    """The same network with every parameter moved."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def test_published_sizes():
    with torch.device("meta"):
        small = UViT(32, 3, 2, **UVIT_SIZES["S"])
        huge = UViT(32, 4, 2, **UVIT_SIZES["H"], num_classes=1000, final_conv=False)
        middle, large = (UViT(64, 3, 4, **UVIT_SIZES[name], num_classes=1000) for name in ("M", "L"))
    assert count(small) == 44_255_328
    assert count(huge) == 500_832_016
    assert round(count(middle) / 1e6) == 131
    assert round(count(large) / 1e6) == 287


def test_layers_start_as_published():
    torch.manual_seed(0)
    net = UViT(8, 4, 2, depth=2, hidden_dim=128, num_heads=2, num_classes=200, time_mlp=True)
    block = net.second[0]
    linears = [block.skip, block.attention.qkv, block.attention.proj, block.mlp[0], block.mlp[3], net.out, *net.time.mlp[::2]]
    for layer in linears:
        torch.testing.assert_close(layer.weight.std(), torch.tensor(0.02), rtol=0.05, atol=0)
        assert layer.bias is None or not layer.bias.any()
    assert net.time.mlp[0].out_features == 4 * 128
    assert 0.01 < net.positions.std() < 0.03
    torch.testing.assert_close(net.classes.weight.std(), torch.tensor(1.0), rtol=0.05, atol=0)
    for layer in (net.embed, net.final):  # both are convolutions in the authors' code, and start as torch's do
        bound = layer.weight[0].numel() ** -0.5
        assert 0.8 * bound < layer.weight.abs().max() <= bound


@pytest.mark.parametrize("final_conv", [False, True])
def test_non_square_images_and_more_channels_out(final_conv):
    net = UViT((8, 12), 3, 4, 2, 16, 2, final_conv=final_conv, out_channels=5)
    assert net.positions.shape == (1, 1 + 2 * 3, 16)
    assert net(torch.randn(2, 3, 8, 12), torch.rand(2)).shape == (2, 5, 8, 12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 3}, r"patch_size = 3 does not divide the image \(28 x 28\)"),
        ({"img_size": (28, 30), "patch_size": 4}, r"patch_size = 4 does not divide the image \(28 x 30\)"),
        ({"patch_size": 0}, r"patch_size = 0"),
        ({"depth": 3}, r"depth = 3, expected an even number"),
        ({"num_heads": 7}, r"num_heads = 7 does not divide the width 192"),
    ],
)
def test_uvit_refuses(settings, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        UViT(**settings)


def test_uvit_refuses_another_image_size():
    net = UViT((8, 12), 1, 2, 0, 8, 1)
    with pytest.raises(ValueError, match=r"x has shape \(1, 1, 12, 8\), expected \(B, 1, 8, 12\)"):
        net(torch.zeros(1, 1, 12, 8), torch.zeros(1))


def test_uvit_dropout_acts_in_training_only():
    x, c = torch.randn(2, 1, 8, 8), torch.rand(2)
    for settings in ({"dropout_attention": 0.5}, {"dropout": 0.5}):
        net = perturbed(UViT(8, 1, 2, 2, 16, 2, qkv_bias=True, mlp_ratio=2.0, **settings))
        assert not torch.equal(net.train()(x, c), net(x, c))
        assert torch.equal(net.eval()(x, c), net(x, c))


def test_the_long_skips_join_mirror_images():
    net = perturbed(UViT(8, 1, 2, 4, 16, 2, final_conv=False)).eval()
    outputs, inputs = {}, {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            inputs[name], outputs[name] = args, out

        return hook

    for i in (0, 1):
        net.first[i].register_forward_hook(watch(f"first {i}"))
        net.second[i].register_forward_hook(watch(f"second {i}"))
    net(torch.randn(1, 1, 8, 8), torch.rand(1))
    assert inputs["second 0"][1] is outputs["first 1"]
    assert inputs["second 1"][1] is outputs["first 0"]
