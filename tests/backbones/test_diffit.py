"""DiffiT: its attention against the plain formula, its windows, its published size, its errors."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from backbones.attention import TimeDependentAttention, relative_bias
from backbones.diffit import DIFFIT_SIZES, DiffiT, DiffiTBlock, DiffiTResBlock, LatentDiffiT
from backbones.embeddings import from_windows, to_windows

from ..devices import ABSENT, fake_tensors


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def perturbed(net: nn.Module, std: float = 0.2) -> nn.Module:
    """The same network with every parameter moved, so that no branch is still 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return net


def attention_map(layer: TimeDependentAttention, x: Tensor, e: Tensor) -> Tensor:
    """The weights of every query in x (B, G, N, dim): (B * G, heads, N, N)."""
    q, k, _ = layer.heads(x, e)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
    return (scores + layer.bias()).softmax(-1)


def test_the_latent_model_has_the_published_size():
    with torch.device("meta"):
        net = LatentDiffiT(32, 4, **DIFFIT_SIZES["XL/2"], num_classes=1000, out_channels=8)
    assert count(net) == 561_035_232
    d = 1152
    block = 15 * d**2 + 12 * d + 31**2 * 16  # q, k, v of token and time, projection, perceptron; biases and norms; table
    time, classes = (256 + 1) * d + (d + 1) * d, 1001 * d
    assert count(net) == 28 * block + time + classes + (16 + 1) * d + (d + 1) * 32
    assert count(net.blocks[0]) == block
    assert net.blocks[0].attention.table.shape == (16, 31**2)


def image_space_size(widths: tuple[int, ...], n: int, window: int, e: int, features: int, heads: int) -> int:
    """The size of `DiffiT` with n blocks a stage and one window, from its description."""

    def res(w: int) -> int:
        table = (2 * window - 1) ** 2 * heads
        return 2 * w + (9 * w + 1) * w + 4 * w + (w + 1) * 3 * w + 3 * w * e + table + w * w + 8 * w * w + 5 * w

    stages = 2 * sum(res(w) for w in widths[:-1]) + res(widths[-1])
    pairs = list(pairwise(widths))
    resample = sum((9 * a + 1) * b + (b + 1) * 4 * a + (2 * a + 1) * a for a, b in pairs)
    ends = (9 * 3 + 1) * widths[0] + 2 * widths[0] + (9 * widths[0] + 1) * 3
    return (features + 1) * e + (e + 1) * e + n * stages + resample + ends


@pytest.mark.parametrize(("name", "side", "size"), [("ffhq64", 64, 42_596_979), ("cifar10", 32, 42_577_267)])
def test_the_image_space_models_build(name, side, size):
    with torch.device("meta"):
        net = DiffiT(side, 3, **DIFFIT_SIZES[name])
        out = net(torch.zeros(1, 3, side, side), torch.zeros(1))
    assert out.shape == (1, 3, side, side)
    settings = DIFFIT_SIZES[name]
    assert count(net) == size == image_space_size(settings["widths"], 4, settings["windows"], 512, 128, 4)
    windows = {module.window for module in net.modules() if isinstance(module, DiffiTResBlock)}
    assert windows == {(settings["windows"],) * 2}


@pytest.mark.parametrize("window", [(1, 1), (3, 3), (2, 5), (4, 1)])
def test_relative_bias_by_a_double_loop(window):
    h, w = window
    places = [(y, x) for y in range(h) for x in range(w)]
    expected = [[(y - v + h - 1) * (2 * w - 1) + (x - u + w - 1) for v, u in places] for y, x in places]
    displacements = (2 * h - 1) * (2 * w - 1)
    table = torch.arange(2.0 * displacements).view(2, displacements).requires_grad_()
    bias = relative_bias(table, window)
    assert bias[0].tolist() == expected
    assert torch.equal(bias[1], bias[0] + displacements)
    bias.sum().backward()
    counts = [sum(row.count(number) for row in expected) for number in range(displacements)]
    assert table.grad.tolist() == [counts, counts]


def test_the_tables_of_biases_need_no_memory_beside_themselves():
    """An index a block, N^2 numbers that the window alone decides, would be half a gigabyte at 64 px."""
    with torch.device("meta"):
        for net in (LatentDiffiT(32, 4, **DIFFIT_SIZES["XL/2"]), DiffiT(64, 3, (8, 16), 2, windows=0, patch_size=1)):
            assert not list(net.buffers())
            held = {name for module in net.modules() for name, value in vars(module).items() if isinstance(value, Tensor)}
            assert not held


def test_copies_have_their_own_tables_and_any_device_will_do():
    net = perturbed(LatentDiffiT(8, 1, 2, 2, 16, 2))
    x, c = torch.randn(2, 1, 8, 8), torch.rand(2)
    copy = deepcopy(net)
    assert torch.equal(copy(x, c), net(x, c))
    nn.init.zeros_(copy.blocks[0].attention.table)
    assert not torch.equal(copy(x, c), net(x, c))
    with fake_tensors():
        assert relative_bias(torch.randn(2, 25, device=ABSENT), (3, 3)).device.type == ABSENT


@pytest.mark.parametrize("window", [(2, 3), (4, 4)])
def test_attention_against_the_plain_formula(window):
    torch.manual_seed(0)
    heads, d, e_dim, n = 3, 4, 5, window[0] * window[1]
    layer = perturbed(TimeDependentAttention(heads * d, e_dim, heads, window)).double()
    x, e = torch.randn(2, 6, n, heads * d, dtype=torch.float64), torch.randn(2, e_dim, dtype=torch.float64)
    parts = zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), layer.time.weight.chunk(3), strict=True)
    q, k, v = (
        (torch.einsum("bgni,oi->bgno", x, token) + bias + torch.einsum("bi,oi->bo", e, time)[:, None, None]).unflatten(
            -1, (heads, d)
        )
        for token, bias, time in parts
    )
    scores = torch.einsum("bgihd,bgjhd->bghij", q, k) / math.sqrt(d)
    for i in range(n):
        for j in range(n):
            (y, u), (s, r) = divmod(i, window[1]), divmod(j, window[1])
            scores[..., i, j] += layer.table[:, (y - s + window[0] - 1) * (2 * window[1] - 1) + u - r + window[1] - 1]
    out = torch.einsum("bghij,bgjhd->bgihd", scores.softmax(-1), v).flatten(-2)
    torch.testing.assert_close(layer(x, e), out @ layer.proj.weight.T, atol=1e-12, rtol=1e-10)


def test_the_attention_map_changes_with_time_and_sums_to_one():
    torch.manual_seed(0)
    layer = TimeDependentAttention(8, 6, 2, (3, 3))
    x = torch.randn(1, 1, 9, 8)
    early, late = (attention_map(layer, x, torch.randn(1, 6)) for _ in range(2))
    torch.testing.assert_close(early.sum(-1), torch.ones(1, 2, 9))
    assert (early - late).abs().max() > 1e-2


def test_the_attention_map_of_a_network_changes_with_its_time_and_label():
    torch.manual_seed(0)
    net = perturbed(LatentDiffiT(8, 1, 2, 2, 16, 2, num_classes=3))
    maps = []

    def keep(layer: TimeDependentAttention, args: tuple[Tensor, Tensor]) -> None:
        maps.append(attention_map(layer, torch.ones_like(args[0]).cumsum(2), args[1]))  # the same tokens each time

    net.blocks[1].attention.register_forward_pre_hook(keep)
    for c, y in ((0.2, 0), (0.7, 0), (0.2, 1)):
        net(torch.ones(1, 1, 8, 8), torch.tensor([c]), y=torch.tensor([y]))
    assert not torch.allclose(maps[0], maps[1], atol=1e-4)
    assert not torch.allclose(maps[0], maps[2], atol=1e-4)


def test_time_turns_queries_and_shifts_the_output_and_cannot_move_the_keys():
    """As in the module docstring: the softmax removes the time part of the keys and keeps the time part of the values."""
    torch.manual_seed(0)
    layer = perturbed(TimeDependentAttention(8, 6, 2, (2, 3))).double()
    x, e = torch.randn(2, 1, 6, 8, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    full, weights = layer(x, e), attention_map(layer, x, e)
    with torch.no_grad():
        layer.time.weight[8:16] = 0
    torch.testing.assert_close(attention_map(layer, x, e), weights)
    torch.testing.assert_close(layer(x, e), full)
    shift = layer.time(e)[:, 16:] @ layer.proj.weight.T
    with torch.no_grad():
        layer.time.weight[16:] = 0
    torch.testing.assert_close(layer(x, e) + shift[:, None, None], full)


def test_without_a_table_tokens_may_be_permuted():
    torch.manual_seed(0)
    block = perturbed(DiffiTBlock(8, 6, 2, (3, 4)))
    x, e, order = torch.randn(2, 1, 12, 8), torch.randn(2, 6), torch.randperm(12)
    assert not torch.allclose(block(x[:, :, order], e), block(x, e)[:, :, order], atol=1e-3)
    nn.init.zeros_(block.attention.table)
    torch.testing.assert_close(block(x[:, :, order], e), block(x, e)[:, :, order], atol=1e-5, rtol=1e-5)


def test_the_table_of_one_head_moves_that_head_alone():
    torch.manual_seed(0)
    layer = TimeDependentAttention(8, 6, 2, (3, 3))
    x, e = torch.randn(1, 1, 9, 8), torch.randn(1, 6)
    before = attention_map(layer, x, e)
    with torch.no_grad():
        layer.table[1, 12] += 2.0  # row 2, column 2 of a 5 x 5 table: no displacement
    after = attention_map(layer, x, e)
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert (after[0, 1].diagonal() > before[0, 1].diagonal()).all()


def test_windows_by_hand_and_back():
    x = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    tokens = to_windows(x, (2, 3))
    assert tokens.shape == (2, 4, 6, 3)
    assert torch.equal(tokens[1, 2], x[1, :, 2:4, 0:3].permute(1, 2, 0).flatten(0, 1))
    assert torch.equal(from_windows(tokens, (2, 3), (4, 6)), x)


def test_attention_never_looks_outside_its_window():
    torch.manual_seed(0)
    block = perturbed(DiffiTBlock(8, 6, 2, (4, 4)))
    x, e = torch.randn(1, 8, 8, 12, requires_grad=True), torch.randn(1, 6)
    out = from_windows(block(to_windows(x, (4, 4)), e), (4, 4), (8, 12))
    (gradient,) = torch.autograd.grad(out[:, :, 5, 6].square().sum(), x)
    inside = torch.zeros(8, 12, dtype=torch.bool)
    inside[4:8, 4:8] = True
    assert torch.equal(gradient[0].abs().sum(0) > 0, inside)

    moved = x.detach().clone()
    moved[:, :, 0, 0] += torch.randn(8)
    again = from_windows(block(to_windows(moved, (4, 4)), e), (4, 4), (8, 12))
    changed = (again != out)[0].any(0)
    assert not changed[4:].any()
    assert not changed[:, 4:].any()
    assert changed[:4, :4].all()


def test_a_res_block_sees_one_pixel_beyond_its_window():
    """Through its 3x3 convolution; the group norm, which sees everything, is taken out."""
    torch.manual_seed(0)
    block = perturbed(DiffiTResBlock(8, 6, 2, (4, 4), groups=4))
    block.norm = nn.Identity()
    x = torch.randn(1, 8, 12, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x, torch.randn(1, 6))[:, :, 5, 6].square().sum(), x)
    seen = torch.zeros(12, 12, dtype=torch.bool)
    seen[3:9, 3:9] = True
    assert torch.equal(gradient[0].abs().sum(0) > 0, seen)


def test_a_res_block_follows_its_formula():
    torch.manual_seed(0)
    block = perturbed(DiffiTResBlock(8, 6, 2, (2, 2), groups=4)).double()
    x, e = torch.randn(2, 8, 4, 4, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    h = block.conv(nn.functional.silu(block.norm(x)))
    expected = x.clone()
    for i in (0, 2):
        for j in (0, 2):
            z = h[:, :, i : i + 2, j : j + 2].flatten(2).mT[:, None]
            z = z + block.block.attention(block.block.norm1(z), e)
            z = z + block.block.mlp(block.block.norm2(z))
            expected[:, :, i : i + 2, j : j + 2] += z[:, 0].mT.reshape(2, 8, 2, 2)
    torch.testing.assert_close(block(x, e), expected)


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32), (3, 20, 12), (1, 9, 14)], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"widths": (8,)},
        {"widths": (8, 12), "blocks": (1, 2), "num_heads": (2, 3), "patch_size": 2},
        {"widths": (4, 8, 8), "patch_size": 2, "mlp_ratio": 2.0},
        {"widths": (4, 4, 4, 8), "windows": (0, 0, 1, 0)},
    ],
    ids=["one", "two", "three", "four"],
)
def test_fresh_image_networks_are_zero_at_any_size(settings, image):
    settings = {"blocks": 1, "windows": 0, "patch_size": 1, "num_heads": 2, "time_dim": 8, "groups": 4, **settings}
    net = DiffiT(image[1:], image[0], out_channels=2, **settings)
    x, c = torch.randn(2, *image), torch.rand(2)
    with torch.no_grad():
        assert net(x, c).shape == (2, 2, *image[1:])
        assert not net(x, c).any()
        assert perturbed(net)(x, c).isfinite().all()
        assert not torch.allclose(net(x, c), net(x, 1 - c))


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32), (3, 20, 12)], ids=str)
def test_fresh_latent_networks_are_zero(image):
    net = LatentDiffiT(image[1:], image[0], 4, 2, 16, 2, num_classes=3, out_channels=5)
    x, c, y = torch.randn(2, *image), torch.rand(2), torch.tensor([0, 2])
    assert net(x, c, y=y).shape == (2, 5, *image[1:])
    assert not net(x, c, y=y).any()
    perturbed(net)
    assert not torch.allclose(net(x, c, y=y), net(x, 1 - c, y=y))
    assert not torch.allclose(net(x, c, y=y), net(x, c, y=y - y + 1))
    assert torch.equal(net(x, c), net(x, c, y=torch.tensor([3, 3])))


def test_padding_repeats_the_border():
    torch.manual_seed(0)
    settings = {"num_heads": 1, "patch_size": 1, "time_dim": 8}
    short, full = (perturbed(DiffiT((side, 6), 1, (4, 4), 1, 0, **settings)) for side in (7, 8))
    full.load_state_dict(short.state_dict())
    x, c = torch.randn(1, 1, 7, 6), torch.rand(1)
    padded = torch.cat([x, x[:, :, -1:]], dim=2)
    torch.testing.assert_close(short(x, c), full(padded, c)[:, :, :7])


def test_every_level_has_a_skip():
    """The way up depends on what each level of the way down keeps, even where the lower levels say nothing."""
    net = perturbed(DiffiT(16, 1, (4, 6, 8), 1, 0, 2, patch_size=1, time_dim=8)).eval()
    for upsample in net.upsample:
        nn.init.zeros_(upsample.weight)
        nn.init.zeros_(upsample.bias)
    kept = []
    for stage in net.down:
        stage[-1].register_forward_hook(lambda *args: kept.append(args[-1].shape))
    received = []
    for join in net.join:
        join.register_forward_pre_hook(lambda _, args: received.append(args[0]))
    x = torch.randn(1, 1, 16, 16)
    net(x, torch.rand(1))
    assert kept == [(1, 4, 16, 16), (1, 6, 8, 8)]
    assert [tuple(r.shape) for r in received] == [(1, 12, 8, 8), (1, 8, 16, 16)]
    assert all(not r[:, : r.shape[1] // 2].any() and r[:, r.shape[1] // 2 :].any() for r in received)


NETWORKS = {
    "image": lambda **settings: DiffiT(8, 2, (4, 8), 1, (2, 0), 2, patch_size=1, time_dim=8, num_classes=2, **settings),
    "latent": lambda **settings: LatentDiffiT(8, 2, 2, 2, 16, 2, num_classes=2, **settings),
}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_dropout_acts_in_training_only(build):
    x, c = torch.randn(2, 2, 8, 8), torch.rand(2)
    for settings in ({"dropout_attention": 0.5}, {"dropout": 0.5}):
        net = perturbed(build(**settings))
        assert not torch.equal(net.train()(x, c), net(x, c))
        assert torch.equal(net.eval()(x, c), net(x, c))


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_state_has_parameters_alone(build):
    net = build()
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows": 8}, r"a window of 8 x 8 does not divide the grid of level 0 \(28 x 28\)"),
        ({"windows": (7, 4)}, r"a window of 4 x 4 does not divide the grid of level 1 \(14 x 14\)"),
        ({"img_size": (20, 12), "windows": (5, 0)}, r"a window of 5 x 5 does not divide the grid of level 0 \(20 x 12\)"),
        ({"img_size": 27, "windows": (9, 0)}, r"a window of 9 x 9 does not divide the grid of level 0 \(28 x 28\)"),
        ({"windows": (7, 7, 7)}, r"windows = \(7, 7, 7\), expected one integer or 2 integers"),
        ({"windows": -1}, r"windows = -1"),
        ({"widths": ()}, r"widths = \(\), expected"),
        ({"blocks": 0}, r"blocks = 0, expected an integer of at least 1"),
        ({"blocks": (1, 2, 3)}, r"blocks = \(1, 2, 3\), expected .* or 2 integers"),
        ({"num_heads": 3}, r"num_heads = 3 does not divide the width 64"),
        ({"num_heads": (4, 3)}, r"num_heads = 3 does not divide the width 128"),
        ({"patch_size": 0}, r"patch_size = 0, expected an integer of at least 1"),
        ({"img_size": 0}, r"img_size = 0, expected an integer of at least 1"),
    ],
)
def test_image_networks_refuse(settings, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        DiffiT(**{"blocks": 2, "windows": 0, "patch_size": 1, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 3}, r"patch_size = 3 does not divide the image \(28 x 28\)"),
        ({"img_size": (28, 30), "patch_size": 4}, r"patch_size = 4 does not divide the image \(28 x 30\)"),
        ({"depth": -1}, r"depth = -1, expected an integer of at least 0"),
        ({"num_heads": 7}, r"num_heads = 7 does not divide the width 176"),
    ],
)
def test_latent_networks_refuse(settings, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        LatentDiffiT(**settings)


def test_networks_refuse_another_image_size():
    for net in (DiffiT((7, 12), 1, (4, 4), 1, windows=0, num_heads=1), LatentDiffiT((7, 12), 1, 1, 1, 8, 1)):
        with pytest.raises(ValueError, match=r"x has shape \(1, 1, 8, 12\), expected \(B, 1, 7, 12\)"):
            net(torch.zeros(1, 1, 8, 12), torch.zeros(1))
