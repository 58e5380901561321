"""The networks themselves: published sizes, embeddings, patches, padding, fresh outputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from backbones import DiT, SinusoidalEmbedding, UNet
from backbones.attention import CrossAttention, TokenAttention, attend
from backbones.base import group_norm, normal, truncated_normal, xavier
from backbones.embeddings import ClassEmbedding, TimeEmbedding, patchify, sincos_positions, unpatchify
from backbones.image_attention import ImageAttention


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def perturbed(net: nn.Module) -> nn.Module:
    """The same network with every parameter moved, so that no branch is still 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


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
    assert count(UNet(1, 2, (64, 128), blocks=2, patch_size=2)) == 1_270_280


def test_fresh_networks_are_zero():
    x, c = torch.randn(2, 3, 8, 12), torch.rand(2)
    for net in (UNet(3, 2, widths=(8, 16), num_classes=4), DiT((8, 12), 3, 2, 2, 16, 2, out_channels=6)):
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
    net = perturbed(UNet(1, 1, widths=(4, 4), blocks=1, patch_size=1, num_heads=1))
    x, c = torch.randn(1, 1, 7, 6), torch.rand(1)
    padded = torch.cat([x, x[:, :, -1:]], dim=2)
    torch.testing.assert_close(net(x, c), net(padded, c)[:, :, :7])


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("attention_levels", [(), (-1,), (0, 1)])
def test_unet_options(scale_shift, attention_levels):
    settings = {"attention_levels": attention_levels, "scale_shift": scale_shift, "dropout": 0.5, "time_scale": 1.0}
    net = UNet(1, 1, (8, 8), (1, 2), patch_size=1, **settings)
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
    net = perturbed(UNet(2, 3, widths=(8, 16), blocks=2, patch_size=2)).eval()
    x, c = torch.randn(2, 2, 12, 12), torch.rand(2)
    plain = net(x, c)
    torch.testing.assert_close(net.to(memory_format=torch.channels_last)(x, c), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": ()}, r"widths = \(\), expected"),
        ({"widths": (8, 8), "blocks": (1, 2, 3)}, r"blocks = \(1, 2, 3\), expected .* or 2 integers"),
        ({"blocks": 0}, r"blocks = 0"),
        ({"widths": (8, 8), "up_blocks": (1, 1, 1)}, r"up_blocks = \(1, 1, 1\)"),
        ({"attention_levels": (5,)}, r"attention_levels = \(5,\), expected levels in -2 .. 1"),
        ({"num_heads": 3}, r"num_heads = 3 does not divide the width 128"),
        ({"patch_size": 0}, r"patch_size = 0, expected an integer of at least 1"),
    ],
)
def test_unet_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        UNet(**settings)


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


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """The formula, head by head, in double precision."""
    width, out = q.shape[-1] // heads, []
    for i in range(heads):
        one = slice(i * width, (i + 1) * width)
        scores = q[..., one].double() @ k[..., one].double().mT / math.sqrt(width)
        out.append((scores if mask is None else scores + mask[:, i].double()).softmax(-1) @ v[..., one].double())
    return torch.cat(out, -1).float()


def test_a_mask_is_added_to_the_scores_and_learns():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 3, 5, 8)
    heads = [tensor.unflatten(-1, (2, 4)) for tensor in (q, k, v)]
    bias = torch.randn(1, 2, 5, 5, requires_grad=True)
    out = attend(*heads, bias)
    torch.testing.assert_close(out, plain_attention(q, k, v, 2, bias))
    out.square().sum().backward()
    assert bias.grad is not None
    assert bias.grad.abs().min() > 0
    hidden = torch.zeros(1, 1, 5, 5)
    hidden[..., 3] = -torch.inf
    moved = [heads[0], *(tensor + (torch.arange(5) == 3)[:, None, None] for tensor in heads[1:])]
    torch.testing.assert_close(attend(*heads, hidden), attend(*moved, hidden))


def test_cross_attention_against_the_plain_formula():
    torch.manual_seed(0)
    layer = CrossAttention(8, 2, qkv_bias=True)
    x, context = torch.randn(3, 5, 8), torch.randn(3, 2, 8)
    k, v = layer.kv(context).chunk(2, dim=-1)
    torch.testing.assert_close(layer(x, context), layer.proj(plain_attention(layer.q(x), k, v, 2)))
    with pytest.raises(ValueError, match=r"num_heads = 3 does not divide the width 8"):
        CrossAttention(8, 3)


@pytest.mark.parametrize("layer", [TokenAttention(8, 2), CrossAttention(8, 2)], ids=["self", "cross"])
def test_attention_is_equivariant_to_permuted_tokens(layer):
    torch.manual_seed(0)
    x, order = torch.randn(2, 7, 8), torch.randperm(7)
    context = (torch.randn(2, 3, 8),) if isinstance(layer, CrossAttention) else ()
    torch.testing.assert_close(layer(x[:, order], *context), layer(x, *context)[:, order])


def test_the_softmax_is_float32_in_half_precision():
    torch.manual_seed(0)
    layer = TokenAttention(16, 2).bfloat16()
    x = torch.randn(2, 300, 16).bfloat16()
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    exact = plain_attention(q, k, v, 2)
    error = (layer(x).float() - layer.proj(exact.bfloat16()).float()).abs().max()
    assert error < 2**-7 * exact.abs().max()  # weights of 1 / 300, rounded and then added in bfloat16, would stop growing


def test_positions_are_sines_and_cosines_of_column_and_row():
    table = sincos_positions((3, 5), 8).view(3, 5, 8)
    for row in range(3):
        for column in range(5):
            expected = [f(place * w) for place in (column, row) for f in (math.sin, math.cos) for w in (1.0, 0.01)]
            torch.testing.assert_close(table[row, column], torch.tensor(expected))
    with pytest.raises(ValueError, match=r"hidden_dim = 18, expected a multiple of 4"):
        sincos_positions((2, 2), 18)


def test_starts_of_linear_layers():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(300, 200), nn.Sequential(nn.Linear(200, 400, bias=False)), nn.LayerNorm(400))
    for start, scales in ((xavier, (500, 600)), (normal, (5000, 5000)), (truncated_normal, (5000, 5000))):
        assert start(layers) is layers
        for layer, scale in zip((layers[0], layers[1][0]), scales, strict=True):
            torch.testing.assert_close(layer.weight.var(), torch.tensor(2 / scale), rtol=0.02, atol=0)
        assert not layers[0].bias.any()
    assert xavier(layers)[0].weight.abs().max() <= math.sqrt(6 / 500)
    assert layers[2].weight.eq(1).all()


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
