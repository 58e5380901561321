"""Every backbone, with every head and every input coding, keeps the contract. A new class is tested without an edit here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import backbones
from backbones import Backbone, Head, OrdinalInput, PixelInput, PixelLogits

for module in pkgutil.walk_packages(backbones.__path__, "backbones."):
    importlib.import_module(module.name)


def concrete(base: type) -> list[type]:
    """Every shipped subclass that can be instantiated."""
    found = []
    for cls in base.__subclasses__():
        found += concrete(cls)
        if not inspect.isabstract(cls) and cls.__module__.startswith("backbones."):
            found.append(cls)
    return found


BACKBONES, HEADS, INPUTS = concrete(Backbone), concrete(Head), concrete(PixelInput)
S = 5
SMALL = {
    "widths": (4, 8),
    "blocks": 1,
    "groups": 4,
    "patch_size": 2,
    "depth": 2,
    "hidden_dim": 16,
    "num_heads": 2,
    "time_dim": 8,
}
"""What makes any backbone small; each takes the settings it knows."""


def build(cls: type, **settings: Any) -> Any:
    """Call a constructor with those of the settings that it names."""
    names = inspect.signature(cls).parameters
    return cls(**{name: value for name, value in settings.items() if name in names})


def network(
    backbone: type, head: type, inputs: type, image: tuple[int, int, int], num_classes: int, masked: bool
) -> PixelLogits:
    """A small network of the given parts."""
    channels, height, width = image
    coding = build(inputs, channels=channels, num_states=S + masked, dim=3, masked=masked)
    reading = build(head, channels=channels, num_values=S, components=2)
    net = build(
        backbone,
        img_size=(height, width),
        in_channels=coding.out_channels,
        out_channels=reading.in_channels,
        num_classes=num_classes,
        **SMALL,
    )
    return perturbed(PixelLogits(net, reading, coding, S, S + masked))


def perturbed(model: Any) -> Any:
    """The same model with every parameter moved away from its start, where branches are 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def labelled_input(channels: int = 1, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Two images, times and labels, one of them the null class of three classes."""
    return torch.randn(2, channels, size, size), torch.tensor([0.2, 0.7]), torch.tensor([0, 3])


def test_the_walk_finds_the_classes():
    assert len(BACKBONES) >= 3
    assert len(HEADS) >= 3
    assert len(INPUTS) >= 3


@pytest.mark.parametrize("masked", [False, True], ids=["values", "masked"])
@pytest.mark.parametrize("num_classes", [0, 3], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("image", [(1, 28, 28), (3, 20, 12)], ids=str)
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_network_keeps_the_contract(backbone, head, inputs, image, num_classes, masked):
    torch.manual_seed(0)
    model = network(backbone, head, inputs, image, num_classes, masked)
    x = torch.randint(S + masked, (2, *image))
    c = torch.rand(2, dtype=torch.float64)
    y = torch.tensor([0, 2]) if num_classes else None

    logits = model(x, c, y)
    assert logits.shape == (2, *image, S)
    torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(2, *image), atol=1e-5, rtol=0)
    distribution = model.distribution(x.to(torch.uint8), c, y)
    k = torch.randint(S, (2, *image))
    value = distribution.log_prob(k)
    torch.testing.assert_close(value, logits.gather(-1, k.unsqueeze(-1)).squeeze(-1), atol=1e-5, rtol=1e-5)
    sample = distribution.sample(torch.rand(2, *image))
    assert sample.dtype == torch.int64
    assert int(sample.min()) >= 0
    assert int(sample.max()) < S

    value.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name

    with torch.no_grad():
        assert not torch.allclose(model(x, c + 0.3, y), logits)
        alone = model(x[:1], c[:1], None if y is None else y[:1])
        torch.testing.assert_close(alone, logits[:1], atol=1e-3, rtol=1e-3)
        if y is not None:
            assert not torch.allclose(model(x, c, y - y + 1), logits)
            torch.testing.assert_close(model(x, c), model(x, c, torch.full_like(y, num_classes)))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bad_input_gets_one_clear_error(backbone):
    settings = {"img_size": 8, "in_channels": 1, "out_channels": 1, "widths": (4,), "depth": 0, "hidden_dim": 8, "num_heads": 1}
    net = build(backbone, **settings)
    labelled = build(backbone, **settings, num_classes=3)
    x, c = torch.zeros(2, 1, 8, 8), torch.zeros(2)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 8, 8\), expected \(B, 1, H, W\)"):
        net(torch.zeros(2, 3, 8, 8), c)
    with pytest.raises(ValueError, match=r"x has shape \(1, 8, 8\)"):
        net(x[0], c)
    with pytest.raises(ValueError, match=r"x has dtype torch.uint8, expected a floating dtype"):
        net(x.to(torch.uint8), c)
    with pytest.raises(ValueError, match=r"c has shape \(3,\), expected \(2,\)"):
        net(x, torch.zeros(3))
    with pytest.raises(ValueError, match=r"c has shape \(\), expected \(2,\)"):
        net(x, torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"c has dtype torch.int64"):
        net(x, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels of shape \(2,\) were given to a network with num_classes = 0"):
        net(x, c, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"y has the value 4, expected 0 .. 3"):
        labelled(x, c, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=r"y has the value -1"):
        labelled(x, c, torch.tensor([0, -1]))
    with pytest.raises(ValueError, match=r"y has shape \(3,\), expected \(2,\)"):
        labelled(x, c, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"y has dtype torch.float32"):
        labelled(x, c, torch.zeros(2))
    with pytest.raises(ValueError, match=r"in_channels = 0, expected at least 1"):
        build(backbone, **{**settings, "in_channels": 0})
    with pytest.raises(ValueError, match=r"num_classes = -1, expected at least 0"):
        build(backbone, **settings, num_classes=-1)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_wide_time_is_cast_to_the_network(backbone):
    settings = {"img_size": 8, "in_channels": 1, "out_channels": 1, "widths": (4,), "depth": 0, "hidden_dim": 8, "num_heads": 1}
    net = build(backbone, **settings)
    for dtype in (torch.float32, torch.bfloat16):
        out = net.to(dtype)(torch.zeros(2, 1, 8, 8), torch.rand(2, dtype=torch.float64))
        assert out.dtype == dtype


@pytest.mark.parametrize("backbone", BACKBONES)
def test_checkpointing_changes_no_gradient(backbone):
    settings = {
        "img_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "widths": (4, 4),
        "depth": 2,
        "hidden_dim": 8,
        "num_heads": 1,
    }
    gradients = []
    for use_checkpoint in (False, True):
        torch.manual_seed(0)
        net = build(backbone, **settings, use_checkpoint=use_checkpoint)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.3)
        net(torch.ones(2, 1, 8, 8), torch.tensor([0.2, 0.7])).square().sum().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("use_checkpoint", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_graph_without_a_break(backbone, use_checkpoint):
    torch._dynamo.reset()
    settings = {**SMALL, "depth": 0 if not use_checkpoint else 2, "use_checkpoint": use_checkpoint}
    net = perturbed(build(backbone, img_size=8, in_channels=1, num_classes=3, **settings))
    x, c, y = labelled_input()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, c, y), net(x, c, y), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_safetensors_keep_every_weight(backbone, tmp_path: Path):
    net, other = (perturbed(build(backbone, img_size=8, in_channels=1, num_classes=3, **SMALL)) for _ in range(2))
    storages = [tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values()]
    assert len(set(storages)) == len(storages)  # no two names for one tensor, which safetensors would refuse
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    inputs = labelled_input()
    assert torch.equal(net(*inputs), other(*inputs))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_half_precision_is_close_and_gives_float32_logits(backbone, head):
    torch.manual_seed(0)
    model = network(backbone, head, OrdinalInput, (1, 8, 8), 3, masked=False)
    x, (_, c, y) = torch.randint(S, (2, 1, 8, 8)), labelled_input()
    exact = model(x, c, y)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x, c, y)
    assert half.dtype == torch.float32
    assert (half.exp() - exact.exp()).abs().mean() < 0.02
    torch.testing.assert_close(half.logsumexp(-1), torch.zeros(2, 1, 8, 8), atol=1e-5, rtol=0)
    half.gather(-1, x.unsqueeze(-1)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_more_channels_out_than_in(backbone):
    net = perturbed(build(backbone, img_size=8, in_channels=3, out_channels=6, **SMALL))
    assert net(*labelled_input(3)[:2]).shape == (2, 6, 8, 8)
    same = build(backbone, img_size=8, in_channels=3, **SMALL)
    assert same.out_channels == 3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_output_depends_on_time_and_class(backbone):
    net = perturbed(build(backbone, img_size=8, in_channels=1, num_classes=3, **SMALL)).eval()
    x, c, y = labelled_input()
    out = net(x, c, y)
    assert not torch.allclose(net(x, c.flip(0), y), out)
    assert not torch.allclose(net(x, c, y.flip(0)), out)
    torch.testing.assert_close(net(x, c)[1], out[1])  # no label is the null class


@pytest.mark.parametrize("backbone", BACKBONES)
def test_settings_that_do_not_fit(backbone):
    with pytest.raises(ValueError, match=r"num_heads = 3 does not divide the width \d+"):
        build(backbone, **{**SMALL, "img_size": 8, "in_channels": 1, "num_heads": 3})
    net = build(backbone, **SMALL, img_size=8, in_channels=1)
    if net.multiple == 1:  # a network that does not pad
        with pytest.raises(ValueError, match=r"patch_size = 3 does not divide the image \(8 x 8\)"):
            build(backbone, **{**SMALL, "img_size": 8, "in_channels": 1, "patch_size": 3})
        with pytest.raises(ValueError, match=r"x has shape \(2, 1, 8, 10\), expected \(B, 1, 8, 8\)"):
            net(torch.zeros(2, 1, 8, 10), torch.zeros(2))
