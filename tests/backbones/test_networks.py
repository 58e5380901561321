"""The networks themselves: published sizes, embeddings, patches, padding, fresh outputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from backbones import SinusoidalEmbedding, UNet, UViT
from backbones.attention import ImageAttention, TokenAttention
from backbones.base import group_norm
from backbones.embeddings import ClassEmbedding, TimeEmbedding, patchify, unpatchify


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def perturbed(net: nn.Module) -> nn.Module:
    """The same network with every parameter moved, so that no branch is still 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def test_uvit_has_the_published_sizes():
    with torch.device("meta"):
        small = UViT(img_size=32, in_channels=3, patch_size=2, depth=12, hidden_dim=512, num_heads=8)
        huge = UViT(32, 4, 2, depth=28, hidden_dim=1152, num_heads=16, num_classes=1000, final_conv=False)
    assert count(small) == 44_255_328
    assert count(huge) == 500_832_016


def test_unet_size_by_hand():
    def res(a: int, b: int, e: int) -> int:
        return 2 * a + (9 * a + 1) * b + (e + 1) * 2 * b + 2 * b + (9 * b + 1) * b + ((a + 1) * b if a != b else 0)

    attention = 2 * 16 + (16 + 1) * 48 + (16 + 1) * 16
    total = (8 + 1) * 12 + (12 + 1) * 12  # time
    total += (4 * 9 + 1) * 8 + 2 * res(8, 8, 12) + (8 * 9 + 1) * 16  # stem, level 0, down
    total += 3 * res(16, 16, 12) + 2 * attention + (16 + 1) * 32  # middle, up
    total += res(16, 8, 12) + 2 * 8 + (8 * 9 + 1) * 12
    net = UNet(1, 3, widths=(8, 16), blocks=(2, 3), up_blocks=(1, 1), patch_size=2, time_features=8, time_dim=12)
    assert count(net) == total
    assert count(UNet(1, 2, (64, 128), patch_size=2)) == 1_270_280


def test_fresh_networks_are_zero():
    x, c = torch.randn(2, 3, 8, 12), torch.rand(2)
    for net in (
        UNet(3, 2, widths=(8, 16), num_classes=4),
        UViT((8, 12), 3, 2, 2, 16, 2),
        UViT((8, 12), 3, 2, 2, 16, 2, final_conv=False, out_channels=5, time_mlp=True),
    ):
        assert net(x, c).shape == (2, net.out_channels, 8, 12)
        assert not net(x, c).any()


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
@pytest.mark.parametrize("patch_size", [1, 2, 3])
@pytest.mark.parametrize("size", [(28, 28), (9, 14)])
def test_unet_takes_any_size(levels, patch_size, size):
    net = perturbed(UNet(1, 2, widths=(4,) * levels, blocks=1, patch_size=patch_size, num_heads=1))
    x = torch.randn(1, 1, *size)
    out = net(x, torch.rand(1))
    assert out.shape == (1, 2, *size)
    assert out.isfinite().all()


def test_padding_repeats_the_border():
    net = perturbed(UNet(1, 1, widths=(4, 4), blocks=1, num_heads=1))
    x, c = torch.randn(1, 1, 7, 6), torch.rand(1)
    padded = torch.cat([x, x[:, :, -1:]], dim=2)
    torch.testing.assert_close(net(x, c), net(padded, c)[:, :, :7])


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("attention_levels", [(), (-1,), (0, 1)])
def test_unet_options(scale_shift, attention_levels):
    net = UNet(1, 1, (8, 8), (1, 2), attention_levels=attention_levels, scale_shift=scale_shift, dropout=0.5, time_scale=1.0)
    perturbed(net)
    found = sum(isinstance(module, ImageAttention) for module in net.modules())
    assert found == {(): 0, (-1,): 1, (0, 1): 3}[attention_levels]
    x, c = torch.randn(2, 1, 8, 8), torch.rand(2)
    net.train()
    assert not torch.equal(net(x, c), net(x, c))
    net.eval()
    assert torch.equal(net(x, c), net(x, c))
    assert not torch.allclose(net(x, c), net(x, 1 - c))


def test_channels_last_changes_nothing():
    net = perturbed(UNet(2, 3, widths=(8, 16), patch_size=2)).eval()
    x, c = torch.randn(2, 2, 12, 12), torch.rand(2)
    plain = net(x, c)
    torch.testing.assert_close(net.to(memory_format=torch.channels_last)(x, c), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": ()}, r"widths = \(\), expected"),
        ({"widths": (8, 8), "blocks": (1, 2, 3)}, r"blocks = \(1, 2, 3\), expected .* or 2 of them"),
        ({"blocks": 0}, r"blocks = 0"),
        ({"widths": (8, 8), "up_blocks": (1,)}, r"up_blocks = \(1,\)"),
        ({"attention_levels": (5,)}, r"attention_levels = \(5,\), expected levels in -3 .. 2"),
        ({"num_heads": 3}, r"num_heads = 3 does not divide the width 128"),
        ({"patch_size": 0}, r"patch_size = 0, expected at least 1"),
    ],
)
def test_unet_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        UNet(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 3}, r"patch_size = 3 does not divide the image \(28 x 28\)"),
        ({"img_size": (28, 30), "patch_size": 4}, r"patch_size = 4 does not divide the image \(28 x 30\)"),
        ({"patch_size": 0}, r"patch_size = 0"),
        ({"depth": 3}, r"depth = 3, expected an even number"),
        ({"num_heads": 7}, r"num_heads = 7 does not divide the width 512"),
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


def test_group_norms_fit_any_width():
    assert [group_norm(width, 8).num_groups for width in (64, 192, 12, 9, 7, 2, 1)] == [8, 8, 6, 3, 1, 1, 1]


def test_sinusoids_follow_their_formula():
    embedding = SinusoidalEmbedding(7, scale=50.0)(torch.tensor([0.3], dtype=torch.float64))[0]
    angles = [50 * 0.3 * 10000 ** (-i / 3) for i in range(3)]
    expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles] + [0.0]
    torch.testing.assert_close(embedding, torch.tensor(expected, dtype=torch.float64))
    with pytest.raises(ValueError, match="features = 1"):
        SinusoidalEmbedding(1)


def test_embeddings_follow_the_dtype_of_their_weights():
    assert TimeEmbedding(8, 4).half()(torch.rand(2, dtype=torch.float64)).dtype == torch.float16
    classes = ClassEmbedding(3, 4)
    assert classes.weight.shape == (4, 4)
    assert classes(torch.tensor([3], dtype=torch.uint8)).shape == (1, 4)


def test_patches_by_hand_and_back():
    x = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    tokens = patchify(x, 2)
    assert tokens.shape == (2, 6, 12)
    corner = x[1, :, 2:4, 2:4]  # the fifth patch, row by row
    assert torch.equal(tokens[1, 4], corner.permute(1, 2, 0).flatten())
    assert torch.equal(unpatchify(tokens, 2, (4, 6)), x)


def test_attention_against_the_plain_formula():
    torch.manual_seed(0)
    layer = TokenAttention(8, 2, qkv_bias=True)
    x = torch.randn(3, 5, 8)
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    out = []
    for head in (slice(0, 4), slice(4, 8)):
        out.append((q[..., head] @ k[..., head].mT / 2).softmax(-1) @ v[..., head])
    torch.testing.assert_close(layer(x), layer.proj(torch.cat(out, -1)))


def test_image_attention_is_the_identity_when_fresh_and_attends_over_pixels():
    torch.manual_seed(0)
    layer = ImageAttention(8, num_heads=2, groups=4)
    x = torch.randn(2, 8, 3, 5)
    assert torch.equal(layer(x), x)
    nn.init.normal_(layer.proj.weight)
    tokens = layer.norm(x).flatten(2).mT
    q, k, v = (tokens @ layer.qkv.weight[:, :, 0, 0].T + layer.qkv.bias).chunk(3, dim=-1)
    out = [(q[..., h] @ k[..., h].mT / 2).softmax(-1) @ v[..., h] for h in (slice(0, 4), slice(4, 8))]
    projected = torch.cat(out, -1) @ layer.proj.weight[:, :, 0, 0].T + layer.proj.bias
    torch.testing.assert_close(layer(x), x + projected.mT.reshape(2, 8, 3, 5))
