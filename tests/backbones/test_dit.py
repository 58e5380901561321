"""DiT: published sizes, arithmetic and starts, the four conditionings against their formulas, bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from backbones import DIT_SIZES, AdaLNBlock, AdaLNZeroBlock, CrossAttentionBlock, DiT, DiTBlock, InContextBlock

from .small_networks import compiled

BLOCKS = [InContextBlock, CrossAttentionBlock, AdaLNBlock, AdaLNZeroBlock]


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def published(size: str, conditioning: type[DiTBlock]) -> DiT:
    """A network of the paper, without memory: latents 32 x 32 x 4, 1000 classes, learned variance."""
    with torch.device("meta"):
        return DiT(32, 4, **DIT_SIZES[size], num_classes=1000, out_channels=8, conditioning=conditioning)


def perturbed(net: nn.Module) -> nn.Module:
    """The same network with every parameter moved, so that no branch is still 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize(
    ("size", "conditioning", "parameters"),
    [
        ("S/2", AdaLNZeroBlock, 32_865_056),
        ("XL/2", AdaLNZeroBlock, 674_834_720),
        ("XL/2", AdaLNBlock, 600_452_384),
        ("XL/2", InContextBlock, 449_162_528),
        ("XL/2", CrossAttentionBlock, 597_991_712),  # the paper says 598 M
    ],
)
def test_published_sizes(size, conditioning, parameters):
    assert count(published(size, conditioning)) == parameters


def test_cross_attention_size_by_hand():
    d = 1152
    norm, mlp, attention = 2 * d, 8 * d * d + 5 * d, 4 * d * d + 4 * d
    cross = (d * d + d) + (2 * d * d + 2 * d) + (d * d + d)  # q, kv, proj
    ends = (16 * d + d) + (256 * d + d) + (d * d + d) + 1001 * d + norm + (32 * d + 32)
    assert ends + 28 * (attention + cross + mlp + 3 * norm) == 597_991_712


@pytest.mark.parametrize(("size", "giga"), [("S/2", 6.06), ("XL/2", 118.64), ("B/4", 5.56), ("L/8", 5.01)])
def test_published_arithmetic(size, giga):
    net = published(size, AdaLNZeroBlock)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        net(torch.zeros(1, 4, 32, 32, device="meta"), torch.zeros(1, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=0.005)


def test_every_published_size_has_a_name():
    assert set(DIT_SIZES) == {f"{name}/{patch}" for name in ("S", "B", "L", "XL") for patch in (2, 4, 8)}
    assert DIT_SIZES["L/4"] == {"patch_size": 4, "depth": 24, "hidden_dim": 1024, "num_heads": 16}


def test_positions_are_not_saved():
    net = DiT((8, 12), 1, 4, 1, 16, 2)
    assert net.positions.shape == (6, 16)
    assert "positions" not in net.state_dict()
    assert "positions" not in dict(net.named_parameters())


def test_fresh_adaln_zero_blocks_are_the_identity():
    block = AdaLNZeroBlock(16, 2)
    z, e = torch.randn(2, 5, 16), torch.randn(2, 16)
    assert torch.equal(block(z, e), z)


@pytest.mark.parametrize("conditioning", BLOCKS)
def test_a_fresh_network_is_exactly_zero(conditioning):
    net = DiT((8, 12), 3, 2, 3, 16, 2, num_classes=4, out_channels=6, conditioning=conditioning)
    out = net(torch.randn(2, 3, 8, 12), torch.rand(2), y=torch.tensor([0, 4]))
    assert out.shape == (2, 6, 8, 12)
    assert not out.any()


@pytest.mark.parametrize("conditioning", BLOCKS)
def test_layers_start_as_published(conditioning):
    torch.manual_seed(0)
    net = DiT(8, 4, 2, 1, 128, 2, num_classes=200, conditioning=conditioning)
    block = net.blocks[0]
    zeros = {name for name, parameter in net.named_parameters() if not parameter.any() and not name.endswith("bias")}
    modulations = {f"{at}.modulation.weight" for at in ("blocks.0", "final") if "AdaLN" in conditioning.__name__}
    assert zeros == {"final.out.weight", *modulations}
    assert not any(parameter.any() for name, parameter in net.named_parameters() if name.endswith("bias"))
    cross = [block.cross.q, block.cross.kv, block.cross.proj] if conditioning is CrossAttentionBlock else []
    for layer in (net.embed, block.attention.qkv, block.attention.proj, block.mlp[0], block.mlp[3], *cross):
        variance = 2 / (layer.in_features + layer.out_features)
        torch.testing.assert_close(layer.weight.var(), torch.tensor(variance), rtol=0.07, atol=0)
        assert layer.weight.abs().max() <= (3 * variance) ** 0.5
    for weight in (net.time.mlp[0].weight, net.time.mlp[2].weight, net.classes.weight):
        torch.testing.assert_close(weight.std(), torch.tensor(0.02), rtol=0.05, atol=0)
    norms = [module for module in net.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == {InContextBlock: 3, CrossAttentionBlock: 4}.get(conditioning, 0)
    assert all(norm.eps == 1e-6 for norm in norms)


def norm(z: Tensor, layer: nn.LayerNorm | None = None) -> Tensor:
    """A layer norm by its formula."""
    centred = z - z.mean(-1, keepdim=True)
    z = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return z if layer is None else z * layer.weight + layer.bias


def mlp(block: DiTBlock, z: Tensor) -> Tensor:
    """The perceptron by its formula, with the tanh form of GELU."""
    h = block.mlp[0](z)
    h = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
    out: Tensor = block.mlp[3](h)
    return out


def follow(net: DiT, z: Tensor, e_t: Tensor, e_y: Tensor) -> Tensor:
    """The blocks and the final layer, written plainly for each conditioning."""
    both, patches = torch.stack([e_t, e_y], 1), z.shape[1]
    s = F.silu(e_t + e_y)[:, None]
    if net.conditioning is InContextBlock:
        z = torch.cat([z, both], 1)
    for block in net.blocks:
        if net.conditioning is InContextBlock:
            z = z + block.attention(norm(z, block.norm1))
            z = z + mlp(block, norm(z, block.norm2))
        elif net.conditioning is CrossAttentionBlock:
            z = z + block.attention(norm(z, block.norm1))
            z = z + block.cross(norm(z, block.norm2), both)
            z = z + mlp(block, norm(z, block.norm3))
        elif net.conditioning is AdaLNBlock:
            a, b, c, d = block.modulation(s).chunk(4, -1)
            z = z + block.attention(norm(z) * (1 + b) + a)
            z = z + mlp(block, norm(z) * (1 + d) + c)
        else:
            a, b, g, c, d, h = block.modulation(s).chunk(6, -1)
            z = z + g * block.attention(norm(z) * (1 + b) + a)
            z = z + h * mlp(block, norm(z) * (1 + d) + c)
    z = z[:, :patches]
    if "AdaLN" in net.conditioning.__name__:
        shift, scale = net.final.modulation(s).chunk(2, -1)
        return net.final.out(norm(z) * (1 + scale) + shift)
    return net.final.out(norm(z, net.final.norm))


@pytest.mark.parametrize("conditioning", BLOCKS)
def test_the_network_is_its_formula(conditioning):
    net = perturbed(DiT((4, 6), 3, 2, 2, 16, 2, num_classes=4, conditioning=conditioning)).double()
    x, c, y = torch.randn(2, 3, 4, 6).double(), torch.rand(2).double(), torch.tensor([1, 4])
    patches = F.unfold(x, 2, stride=2).mT.unflatten(-1, (3, 4)).mT.flatten(2)  # (B, N, p p C), channels last
    z = net.embed(patches) + net.positions
    z = follow(net, z, net.time(c), net.classes(y))
    expected = F.fold(z.unflatten(-1, (4, 3)).mT.flatten(2).mT, (4, 6), 2, stride=2)
    torch.testing.assert_close(net(x, c, y=y), expected)


@pytest.mark.parametrize("conditioning", BLOCKS)
def test_time_and_class_reach_the_output(conditioning):
    net = perturbed(DiT(8, 1, 4, 2, 16, 2, num_classes=3, conditioning=conditioning))
    plain = perturbed(DiT(8, 1, 4, 2, 16, 2, conditioning=conditioning))
    x, c, y = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.7]), torch.tensor([0, 2])
    assert not torch.allclose(net(x, c, y=y), net(x, c + 0.1, y=y))
    assert not torch.allclose(net(x, c, y=y), net(x, c, y=torch.tensor([1, 2]))[:1])
    assert torch.equal(net(x, c), net(x, c, y=torch.tensor([3, 3])))
    assert not torch.allclose(plain(x, c), plain(x, c + 0.1))


@pytest.mark.parametrize("conditioning", BLOCKS)
def test_without_positions_patches_may_be_permuted(conditioning):
    net = perturbed(DiT(8, 1, 2, 2, 16, 2, num_classes=3, conditioning=conditioning))
    net.positions.zero_()
    x, c, y = torch.randn(1, 1, 8, 8), torch.rand(1), torch.tensor([1])
    rolled = x.roll((2, 4), (2, 3))  # by whole patches
    torch.testing.assert_close(net(rolled, c, y=y), net(x, c, y=y).roll((2, 4), (2, 3)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("conditioning", BLOCKS)
def test_one_graph_without_a_break(conditioning):
    net = perturbed(DiT(8, 1, 4, 1, 16, 2, num_classes=3, conditioning=conditioning))
    x, c, y = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 3])
    torch.testing.assert_close(compiled(net)(x, c, y=y), net(x, c, y=y))


@pytest.mark.parametrize("conditioning", BLOCKS)
def test_norms_and_the_sum_of_the_branches_stay_float32_under_autocast(conditioning):
    net = perturbed(DiT(8, 1, 4, 2, 16, 2, num_classes=3, conditioning=conditioning))
    seen = []
    for module in net.modules():
        if isinstance(module, (nn.LayerNorm, DiTBlock)):
            module.register_forward_hook(lambda _, args, out: seen.append((args[0].dtype, out.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.randn(2, 1, 8, 8), torch.rand(2, dtype=torch.float64))
    assert set(seen) == {(torch.float32, torch.float32)}


@pytest.mark.parametrize("conditioning", BLOCKS)
def test_dropout_acts_in_training_only(conditioning):
    x, c = torch.randn(2, 1, 8, 8), torch.rand(2)
    for settings in ({"dropout_attention": 0.5}, {"dropout": 0.5}):
        net = perturbed(DiT(8, 1, 4, 1, 16, 2, conditioning=conditioning, **settings))
        assert not torch.equal(net.train()(x, c), net(x, c))
        assert torch.equal(net.eval()(x, c), net(x, c))


@pytest.mark.parametrize("conditioning", BLOCKS)
def test_checkpointing_changes_no_gradient(conditioning):
    net = perturbed(DiT(8, 1, 4, 2, 16, 2, num_classes=3, conditioning=conditioning))
    x, c, y = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 3])
    gradients = []
    for net.use_checkpoint in (False, True):
        gradients.append(torch.autograd.grad(net(x, c, y=y).square().sum(), list(net.parameters())))
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 3}, r"patch_size = 3 does not divide the image \(28 x 28\)"),
        ({"img_size": (28, 30), "patch_size": 4}, r"patch_size = 4 does not divide the image \(28 x 30\)"),
        ({"depth": -1}, r"depth = -1, expected an integer of at least 0"),
        ({"num_heads": 7}, r"num_heads = 7 does not divide the width 160"),
        ({"hidden_dim": 6, "num_heads": 1}, r"hidden_dim = 6, expected a multiple of 4"),
    ],
)
def test_refuses(settings, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        DiT(**settings)


def test_refuses_another_image_size():
    net = DiT((8, 12), 1, 2, 0, 8, 1)
    with pytest.raises(ValueError, match=r"x has shape \(1, 1, 12, 8\), expected \(B, 1, 8, 12\)"):
        net(torch.zeros(1, 1, 12, 8), torch.zeros(1))
