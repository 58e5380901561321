"""The U-Net's settings: published counts, the functions of the published networks and of the compact one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import NearestConv, ResidualDown, ResidualUp, ShuffledConv, StridedConv
from backbones.image_attention import ImageAttention
from backbones.resblocks import ResBlock, fan_averaged
from backbones.unet import UNET_SIZES, UNet

SMALL: dict[str, Any] = {"widths": (8, 16, 16), "groups": 4, "time_features": 8, "time_dim": 32, "attention_levels": (1,)}
COMPACT: dict[str, Any] = {"widths": (4, 8), "groups": 4, "num_heads": 2, "time_features": 6, "time_dim": 8}
# Of each family a network small enough for a test.
NETWORKS: dict[str, dict[str, Any]] = {
    "compact": {"blocks": 2, "patch_size": 1, "num_heads": 2, **SMALL},
    "ddpm_cifar10": {**UNET_SIZES["ddpm_cifar10"], **SMALL, "dropout": 0.0},
    "iddpm_cifar10": {**UNET_SIZES["iddpm_cifar10"], **SMALL, "dropout": 0.0, "attention_levels": (1, 2)},
    "adm_imagenet64": {**UNET_SIZES["adm_imagenet64"], **SMALL, "dropout": 0.0, "head_width": 8},
}


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def filled(net: UNet) -> UNet:
    """The network in float64 with weights that need no random numbers."""
    with torch.no_grad():
        for i, parameter in enumerate(net.double().parameters()):
            k = torch.arange(parameter.numel(), dtype=torch.float64)
            wave = 0.3 * torch.sin(1.7 * k.pow(1.5) + i) + (0.5 if parameter.ndim == 1 else 0)
            parameter.copy_(wave.view_as(parameter))
    return net.eval()


def randomised(net: UNet) -> UNet:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def images(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).sin().view(shape)


def test_published_sizes_have_the_published_counts():
    with torch.device("meta"):
        assert count(UNet(3, **UNET_SIZES["ddpm_cifar10"])) == 35_746_307
        assert count(UNet(3, 6, **UNET_SIZES["iddpm_cifar10"])) == 52_546_438
        adm = UNET_SIZES["adm_imagenet64"]
        assert count(UNet(3, 6, num_classes=1000, **adm)) == 295_904_454
        with_null = UNet(3, 6, num_classes=1000, **{**adm, "learned_null": True})
        assert count(with_null) == 295_904_454 + 768  # one more vector


@pytest.mark.parametrize(("num_classes", "number"), [(0, 1_484_040), (10, 1_485_448)])
def test_the_compact_network_keeps_its_count(num_classes, number):
    with torch.device("meta"):
        net = UNet(1, 2, num_classes=num_classes)
    assert count(net) == number


def test_the_compact_network_keeps_its_function():
    """Numbers of the network before it learned the published wirings."""
    settings = {**COMPACT, "blocks": (2, 3), "up_blocks": (1, 1), "patch_size": 2, "attention_levels": (0, -1)}
    net = filled(UNet(2, 2, num_classes=3, **settings))
    with torch.no_grad():
        out = net(images(2, 2, 6, 5), torch.tensor([0.1, 0.8]).double(), y=torch.tensor([1, 3]))[:, :, ::3, ::2]
    expected = [
        [[-0.3085492014, -0.8930542334, -0.9409477289], [0.4732892281, 0.4442083228, 0.2373837925]],
        [[0.9915950266, 1.6001092321, 1.3147836927], [0.0565292733, -0.3151940618, 0.2427666995]],
        [[-0.4431489541, -0.5230855274, -0.6669399764], [0.8581624632, 0.5812621316, 0.0530838268]],
        [[0.9020547487, 1.0402890202, 1.2035425606], [-0.0917786076, -0.2986744526, -0.0136105726]],
    ]
    torch.testing.assert_close(out, torch.tensor(expected).double().view(2, 2, 2, 3), atol=1e-6, rtol=1e-6)


def test_the_compact_network_keeps_its_names():
    net = UNet(2, **COMPACT, blocks=(1, 2), num_classes=3)
    block = [f"{layer}.{part}" for layer in ("norm1", "conv1", "time", "norm2", "conv2") for part in ("weight", "bias")]
    skip = ["skip.weight", "skip.bias"]
    attention = [f"{layer}.{part}" for layer in ("norm", "qkv", "proj") for part in ("weight", "bias")]
    expected = [f"time.mlp.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")]
    expected += ["classes.weight", "stem.weight", "stem.bias"]
    expected += [f"down.0.blocks.0.{name}" for name in block] + ["downsample.0.weight", "downsample.0.bias"]
    expected += [f"middle.blocks.{i}.{name}" for i in (0, 1) for name in block]
    expected += [f"middle.attention.0.{name}" for name in attention] + ["upsample.0.weight", "upsample.0.bias"]
    expected += [f"up.0.blocks.0.{name}" for name in block + skip]
    expected += [f"{layer}.{part}" for layer in ("out_norm", "out") for part in ("weight", "bias")]
    assert list(net.state_dict()) == expected


def test_the_ddpm_setting_is_the_published_function():
    """Numbers of diffusers 0.42.1's UNet2DModel with the same weights (attention in the second level, padding 1)."""
    net = filled(UNet(2, **NETWORKS["ddpm_cifar10"]))
    with torch.no_grad():
        out = net(images(2, 2, 8, 8), torch.tensor([0.1, 0.8], dtype=torch.float64))[:, :, ::4, ::3]
    expected = [
        [[0.7146111798, 0.4226713533, 1.5941407377], [0.9708056726, -0.1925832853, 0.5820303951]],
        [[1.2681771513, 0.8563465072, -0.1642043811], [0.3419662551, 0.9166627790, 0.4590924870]],
        [[0.1438190473, 0.4869495774, 1.5373279970], [0.3416735217, 0.1853561373, 0.4343009582]],
        [[1.1599098155, 0.2848195977, 0.0023731700], [0.4031717537, 0.3493623848, 0.6377651889]],
    ]
    torch.testing.assert_close(out, torch.tensor(expected).double().view(2, 2, 2, 3), atol=1e-5, rtol=1e-5)


def test_the_adm_setting_is_the_published_function():
    """Numbers of diffusers 0.42.1's UNet2DModel with residual resampling, scale and shift, 3 classes, heads of width 8."""
    net = filled(UNet(2, 4, num_classes=3, **NETWORKS["adm_imagenet64"]))
    c = torch.tensor([0.1, 0.8], dtype=torch.float64)
    with torch.no_grad():
        out = net(images(2, 2, 8, 8), c, y=torch.tensor([2, 0]))[:, :, ::4, ::6]
    expected = [
        [[0.8950200673, 1.2136729735], [0.7045759671, 0.8379854180]],
        [[0.3605909595, 0.3186771739], [0.7087250930, -0.1719318697]],
        [[0.5255272204, 0.9812630346], [1.2104250705, 1.1511348696]],
        [[0.8788344988, 0.4695280384], [0.9109207373, 0.2806495077]],
        [[0.7537303496, 0.7628151743], [1.1834288253, 0.0460575007]],
        [[0.6548464071, 0.1201022994], [0.6900164420, 0.4690753376]],
        [[0.4652411699, 0.7727306927], [1.2430462230, 1.7015563734]],
        [[0.4944945979, -0.0850700292], [0.6492419793, 0.5346426676]],
    ]
    torch.testing.assert_close(out, torch.tensor(expected).double().view(2, 4, 2, 2), atol=1e-5, rtol=1e-5)


def test_without_a_learned_null_no_label_adds_nothing():
    net = filled(UNet(2, num_classes=3, **NETWORKS["adm_imagenet64"]))
    unconditional = UNet(2, **NETWORKS["adm_imagenet64"]).double()
    unconditional.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("classes")})
    x, c = images(2, 2, 8, 8), torch.tensor([0.1, 0.8], dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(net(x, c), unconditional(x, c))
        assert torch.equal(net(x, c, y=torch.tensor([3, 3])), unconditional(x, c))
        mixed = net(x, c, y=torch.tensor([3, 1]))
    torch.testing.assert_close(mixed[0], unconditional(x, c)[0])
    assert not torch.allclose(mixed[1], unconditional(x, c)[1])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 20, 12), (1, 7, 9)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_a_fresh_start_at_zero(name, shape):
    net = UNet(shape[0], 2 * shape[0], num_classes=2, **NETWORKS[name])
    x, c = torch.randn(2, *shape), torch.rand(2)
    with torch.no_grad():
        out = net(x, c)
        assert out.shape == (2, 2 * shape[0], *shape[1:])
        assert not out.any()
        out = randomised(net)(x, c, y=torch.tensor([0, 2]))
    assert out.isfinite().all()
    assert out.std() > 0.01


def test_the_output_has_the_channels_of_the_input_unless_told():
    assert UNet(3, **COMPACT).out_channels == 3
    assert UNet(3, 4, **COMPACT).out_channels == 4


@pytest.mark.parametrize("name", NETWORKS)
def test_checkpointing_changes_no_gradient(name):
    gradients, calls = [], []
    for use_checkpoint in (False, True):
        torch.manual_seed(0)
        settings = {**NETWORKS[name], "use_checkpoint": use_checkpoint, "dropout": 0.3, "blocks": 1}
        net = randomised(UNet(1, num_classes=2, **settings))
        counted = [m for m in net.modules() if isinstance(m, ResBlock | ImageAttention)]
        calls.append(0)
        for module in counted:
            module.register_forward_pre_hook(lambda *_: calls.__setitem__(-1, calls[-1] + 1))
        torch.manual_seed(1)
        net(torch.ones(2, 1, 8, 8), torch.tensor([0.2, 0.7]), y=torch.tensor([1, 2])).square().sum().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    assert calls == [len(counted), 2 * len(counted)]  # each block and each attention is recomputed
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.isfinite().all()
        assert plain.any()
        assert torch.equal(plain, checkpointed)


@pytest.mark.parametrize(
    ("name", "attention_levels", "expected"),
    [
        ("ddpm_cifar10", (1,), {16: 2 + 3, 8: 1}),
        ("ddpm_cifar10", (), {8: 1}),  # the middle's
        ("ddpm_cifar10", (0, -1), {32: 2 + 3, 8: 2 + 1 + 3}),
        ("iddpm_cifar10", (1, 2), {16: 3 + 4, 8: 3 + 1 + 4}),
        ("adm_imagenet64", (2,), {8: 3 + 1 + 4}),
        ("compact", (-1,), {8: 1}),
        ("compact", (1,), {16: 2 + 2}),
        ("compact", (), {}),
    ],
)
def test_attention_at_the_requested_levels_only(name, attention_levels, expected):
    net, found = UNet(1, **{**NETWORKS[name], "attention_levels": attention_levels}), {}

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        found[args[0].shape[-1]] = found.get(args[0].shape[-1], 0) + 1

    for module in net.modules():
        if isinstance(module, ImageAttention):
            module.register_forward_pre_hook(hook)
    net(torch.zeros(1, 1, 32, 32), torch.zeros(1))
    assert found == expected


def test_ddpm_attends_six_times_at_the_published_size():
    with torch.device("meta"):
        net = UNet(3, **UNET_SIZES["ddpm_cifar10"])
    found = [module for module in net.modules() if isinstance(module, ImageAttention)]
    assert len(found) == 6
    assert all(module.num_heads == 1 for module in found)


def test_head_width_replaces_the_number_of_heads():
    with torch.device("meta"):
        net = UNet(3, 6, **UNET_SIZES["adm_imagenet64"])
    heads = {m.qkv.in_channels: m.num_heads for m in net.modules() if isinstance(m, ImageAttention)}
    assert heads == {384: 6, 576: 9, 768: 12}


def test_residual_scale_multiplies_every_residual_sum():
    gamma, time_dim = 0.5**0.5, 6
    for in_channels, resample in ((4, None), (8, None), (4, nn.AvgPool2d(2))):
        plain = ResBlock(in_channels, 8, time_dim, resample=resample)
        scaled = ResBlock(in_channels, 8, time_dim, residual_scale=gamma, resample=resample)
        nn.init.normal_(plain.conv2.weight)
        scaled.load_state_dict(plain.state_dict())
        x, e = torch.randn(2, in_channels, 4, 4), torch.randn(2, time_dim)
        torch.testing.assert_close(scaled(x, e), gamma * plain(x, e))
    net = UNet(1, **{**NETWORKS["adm_imagenet64"], "residual_scale": gamma})
    sums = [m for m in net.modules() if isinstance(m, ResBlock | ImageAttention)]
    assert {module.residual_scale for module in sums} == {gamma}
    x = torch.randn(2, 16, 4, 4)
    attention = next(m for m in sums if isinstance(m, ImageAttention))
    torch.testing.assert_close(attention(x), gamma * x)  # fresh


def test_resampling_by_hand():
    block = partial(ResBlock, time_dim=6, groups=2)
    x, e = torch.randn(2, 4, 6, 8), torch.randn(2, 6)
    for cls, shape in ((StridedConv, (3, 4)), (ResidualDown, (3, 4)), *((up, (12, 16)) for up in (ShuffledConv, NearestConv))):
        assert cls(4, 6, block)(x, e).shape == (2, 6, *shape)
    assert ResidualUp(4, 6, block)(x, e).shape == (2, 6, 12, 16)
    assert torch.equal(ResidualUp(4, 4, block)(x, e), x.repeat_interleave(2, 2).repeat_interleave(2, 3))  # fresh: the skip
    pooled = x.view(2, 4, 3, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(ResidualDown(4, 4, block)(x, e), pooled)
    down = ResidualDown(4, 4, block)
    nn.init.normal_(down.block.conv2.weight)
    inner = F.silu(down.block.norm1(x)).view(2, 4, 3, 2, 4, 2).mean((3, 5))  # pooled after the activation
    scale, shift = down.block.time(e)[..., None, None].chunk(2, 1)
    h = down.block.norm2(down.block.conv1(inner)) * (1 + scale) + shift
    torch.testing.assert_close(down(x, e), pooled + down.block.conv2(F.silu(h)))
    near = NearestConv(4, 4, block)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(near(x, e), F.conv2d(repeated, near.weight, near.bias, padding=1))


def test_the_published_starts():
    torch.manual_seed(0)
    ddpm, adm = UNet(3, **{**UNET_SIZES["ddpm_cifar10"], "widths": (64, 64)}), UNet(3, **NETWORKS["adm_imagenet64"])
    attention = ddpm.middle.attention[2]
    for weight, fans in (
        (ddpm.stem.weight, 9 * (3 + 64)),
        (ddpm.time.mlp[0].weight, 128 + 512),
        (ddpm.up[0].blocks[0].skip.weight, 128 + 64),
        *((part, 64 + 64) for part in attention.qkv.weight.chunk(3)),
    ):
        bound = (6 / fans) ** 0.5
        assert 0.95 * bound < weight.abs().max() <= bound
        assert float(weight.detach().var()) == pytest.approx(2 / fans, rel=0.1)
    assert not any(p.any() for name, p in ddpm.named_parameters() if name.endswith("bias"))
    conv = adm.middle.blocks[0].conv1  # torch's default
    assert 0.95 * (9 * 16) ** -0.5 < conv.weight.abs().max() <= (9 * 16) ** -0.5
    assert conv.bias.any()
    for net in (ddpm, adm):
        blocks = [m for m in net.modules() if isinstance(m, ResBlock)]
        last = [m.conv2 for m in blocks] + [m.proj for m in net.modules() if isinstance(m, ImageAttention)] + [net.out]
        assert not any(parameter.any() for layer in last for parameter in layer.parameters())
        assert all(m.conv1.weight.any() for m in blocks)
    bare = nn.Conv2d(2, 2, 1, bias=False)
    fan_averaged(bare)
    assert bare.weight.abs().max() <= 1.5**0.5


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_stays_close_and_norms_are_formed_in_float32(name):
    torch.manual_seed(0)
    net = randomised(UNet(2, **NETWORKS[name]))
    seen = 0

    def hook(norm: nn.GroupNorm, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal seen
        seen += 1
        with torch.autocast("cpu", enabled=False):
            exact = F.group_norm(args[0].float(), norm.num_groups, norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(out.float(), exact, rtol=2**-8, atol=1e-5)  # one rounding of the result

    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_hook(hook)
    x, c = torch.randn(4, 2, 16, 16), torch.rand(4)
    with torch.no_grad():
        full = net(x, c)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x, c)
    assert seen > 10
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).square().mean().sqrt() < 0.03 * full.std()


def test_no_graph_breaks():
    settings = {**NETWORKS["adm_imagenet64"], "widths": (8, 16), "blocks": 1, "use_checkpoint": True}
    net = randomised(UNet(1, num_classes=2, **settings))
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    x, c = torch.randn(2, 1, 9, 8), torch.rand(2)
    out = compiled(x, c, y=torch.tensor([0, 2]))
    torch.testing.assert_close(out, net(x, c, y=torch.tensor([0, 2])))
    out.sum().backward()
    assert net.stem.weight.grad.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (8, -8)}, r"widths = \(8, -8\), expected"),
        ({"attention_levels": (-4,)}, r"attention_levels = \(-4,\), expected levels in -2 .. 1"),
        ({"num_heads": 3, "attention_levels": (0,)}, r"num_heads = 3 does not divide the width 64"),
        ({"head_width": 48}, r"head_width = 48 does not divide the width 128"),
        ({"head_width": 0}, r"head_width = 0, expected an integer of at least 1"),
        ({"groups": 0}, r"groups = 0, expected an integer of at least 1"),
        ({"time_dim": 0}, r"time_dim = 0, expected an integer of at least 1"),
        ({"time_features": 1}, r"features = 1, expected an integer of at least 2"),
        ({"residual_scale": 0.0}, r"residual_scale = 0.0, expected a number above 0"),
        ({"residual_scale": float("nan")}, r"residual_scale = nan, expected a number above 0"),
        ({"dropout": 1.5}, r"1\.5"),
        ({"out_channels": 0}, r"out_channels = 0, expected an integer of at least 1"),
        ({"skip_every_map": True, "up_blocks": 2}, r"up_blocks = 2, expected \(2, 4\) with skip_every_map"),
        ({"skip_every_map": True, "blocks": (1, 2, 1)}, r"blocks = \(1, 2, 1\), expected .* or 2 integers"),
    ],
)
def test_bad_settings_are_refused_with_their_values(settings, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        UNet(**settings)


def test_up_blocks_that_join_every_map_may_be_said():
    net = UNet(1, **{**NETWORKS["ddpm_cifar10"], "blocks": (1, 2, 1), "up_blocks": (2, 3, 2)})
    assert [len(stage.blocks) for stage in net.up] == [3, 2]
    assert len(net.middle.blocks) == 1 + 2 + 2
