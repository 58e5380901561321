"""Every backbone, with every head and every input coding, keeps the contract. A new class is tested without an edit here.

What training and sampling ask of it is in `tests/test_backbones_in_engines.py`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from backbones import CrossAttention, ImageAttention, PixelLogits, TokenAttention
from backbones.attention import TimeDependentAttention

from .small_networks import BACKBONES, HEADS, INPUTS, SMALL, build, compiled, perturbed

S = 5
TINY = {
    **{"img_size": 8, "in_channels": 1, "out_channels": 1, "widths": (4,), "blocks": 1, "windows": 0},
    **{"depth": 0, "hidden_dim": 8, "num_heads": 1},
}
"""Without blocks where a network allows it."""
ATTENTIONS = (CrossAttention, ImageAttention, TimeDependentAttention, TokenAttention)


def network(backbone: type, head: type, inputs: type, masked: bool, values: int = S) -> PixelLogits:
    """A small network of the given parts on non-square images, with 3 classes."""
    coding = build(inputs, channels=3, num_states=values + masked, dim=3, masked=masked)
    output_head = build(head, channels=3, num_values=values, components=2)
    channels = {"in_channels": coding.out_channels, "out_channels": output_head.in_channels}
    net = build(backbone, img_size=(20, 12), **channels, num_classes=3, **SMALL)
    model: PixelLogits = perturbed(PixelLogits(net, output_head, coding, values, values + masked))
    return model


def labelled_input(channels: int = 1, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Two images, times and labels, one of them the null class of three classes."""
    return torch.randn(2, channels, size, size), torch.tensor([0.2, 0.7]), torch.tensor([0, 3])


@pytest.mark.parametrize(("values", "masked"), [(2, False), (S, True)], ids=["two values", "masked"])
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_network_keeps_the_contract(backbone, head, inputs, values, masked):
    model = network(backbone, head, inputs, masked, values).double()
    x = torch.randint(values + masked, (2, 3, 20, 12))
    c, y = torch.rand(2, dtype=torch.float64), torch.tensor([0, 2])

    with torch.no_grad():
        logits = model(x, c, y=y)
        assert logits.shape == (2, 3, 20, 12, values)
        torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(2, 3, 20, 12).double(), atol=1e-12, rtol=0)
        distribution = model.distribution(x.to(torch.uint8), c, y=y)
        k = torch.randint(values, (2, 3, 20, 12))
        value = distribution.log_prob(k)
        torch.testing.assert_close(value, logits.gather(-1, k.unsqueeze(-1)).squeeze(-1), atol=1e-10, rtol=1e-10)
        sample = distribution.sample(torch.rand(2, 3, 20, 12))
        assert sample.dtype == torch.int64
        assert int(sample.min()) >= 0
        assert int(sample.max()) < values
        # Examples know nothing of one another. (In single precision the tail of a narrow logistic enlarges rounding errors.)
        torch.testing.assert_close(model(x[:1], c[:1], y=y[:1]), logits[:1], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bad_input_gets_one_clear_error(backbone):
    net = build(backbone, **TINY)
    labelled = build(backbone, **TINY, num_classes=3)
    x, c = torch.zeros(2, 1, 8, 8), torch.zeros(2)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 8, 8\), expected \(B, 1, H, W\)"):
        net(torch.zeros(2, 3, 8, 8), c)
    with pytest.raises(ValueError, match=r"x has shape \(1, 8, 8\)"):
        net(x[0], c)
    with pytest.raises(ValueError, match=r"x has shape \(0, 1, 8, 8\), expected at least one image"):
        net(x[:0], c[:0])
    with pytest.raises(ValueError, match=r"x has dtype torch.uint8, expected a floating dtype"):
        net(x.to(torch.uint8), c)
    with pytest.raises(ValueError, match=r"c has shape \(3,\), expected \(2,\)"):
        net(x, torch.zeros(3))
    with pytest.raises(ValueError, match=r"c has shape \(\), expected \(2,\)"):
        net(x, torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"c has dtype torch.int64"):
        net(x, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="the condition y was given to a network with the conditions: none"):
        net(x, c, y=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="the condition text was given to a network with the conditions: y"):
        labelled(x, c, text=torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"y has the value 4, expected 0 .. 3"):
        labelled(x, c, y=torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=r"y has the value -1"):
        labelled(x, c, y=torch.tensor([0, -1]))
    with pytest.raises(ValueError, match=r"y has shape \(3,\), expected 2 rows"):
        labelled(x, c, y=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"y has shape \(2, 1\), expected \(2,\)"):
        labelled(x, c, y=torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"y has dtype torch.float32"):
        labelled(x, c, y=torch.zeros(2))
    for value in (0.5, None, [0.5, 0.5]):
        with pytest.raises(TypeError, match=rf"c = {re.escape(repr(value))}, expected a tensor"):
            net(x, value)
    for value in (1, None):  # a condition that is absent is omitted
        with pytest.raises(TypeError, match=rf"y is of type {type(value).__name__}, expected a tensor with 2 rows"):
            labelled(x, c, y=value)
    with pytest.raises(TypeError, match=r"x = None, expected a tensor"):
        net(None, c)
    with pytest.raises(ValueError, match=r"in_channels = 0, expected an integer of at least 1"):
        build(backbone, **{**TINY, "in_channels": 0})
    with pytest.raises(ValueError, match=r"num_classes = -1, expected an integer of at least 0"):
        build(backbone, **TINY, num_classes=-1)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_wide_time_is_cast_to_the_network(backbone):
    net = build(backbone, **TINY)
    for dtype in (torch.float32, torch.bfloat16):
        out = net.to(dtype)(torch.zeros(2, 1, 8, 8), torch.rand(2, dtype=torch.float64))
        assert out.dtype == dtype


@pytest.mark.parametrize("backbone", [each for each in BACKBONES if "use_checkpoint" in inspect.signature(each).parameters])
def test_checkpointing_recomputes_the_blocks(backbone):
    net = perturbed(build(backbone, img_size=8, in_channels=1, **SMALL))
    calls: list[Counter[nn.Module]] = []
    with register_module_forward_hook(lambda module, *_: calls[-1].update([module])):
        for net.use_checkpoint in (False, True):
            calls.append(Counter())
            net(*labelled_input()[:2]).square().sum().backward()
    norms = [module for module in net.modules() if isinstance(module, (nn.LayerNorm, nn.GroupNorm))]
    heavy = [module for module in net.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    plain, checkpointed = calls
    assert all(plain[module] == 1 for module in norms + heavy)
    assert sum(checkpointed[module] for module in norms + heavy) > 1.5 * len(norms + heavy)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_graph_without_a_break(backbone):
    """With checkpoints; without them, the networks are compiled with dropout in the tests of compiled losses."""
    net = perturbed(build(backbone, img_size=8, in_channels=1, num_classes=3, use_checkpoint=True, **SMALL))
    x, c, y = labelled_input()
    torch.testing.assert_close(compiled(net)(x, c, y=y), net(x, c, y=y), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_safetensors_keep_every_weight(backbone, tmp_path: Path):
    net, other = (perturbed(build(backbone, img_size=8, in_channels=1, num_classes=3, **SMALL)) for _ in range(2))
    storages = [tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values()]
    assert len(set(storages)) == len(storages)  # no two names for one tensor, which safetensors would refuse
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    x, c, y = labelled_input()
    assert torch.equal(net(x, c, y=y), other(x, c, y=y))


@pytest.mark.parametrize("head", HEADS)
def test_logits_are_float32_in_half_precision(head):
    model = network(BACKBONES[0], head, INPUTS[0], masked=False)
    x, c, y = torch.randint(S, (2, 3, 20, 12)), torch.rand(2), torch.tensor([0, 3])
    exact = model(x, c, y=y)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x, c, y=y)
    assert half.dtype == torch.float32
    assert (half.exp() - exact.exp()).abs().mean() < 0.02
    torch.testing.assert_close(half.logsumexp(-1), torch.zeros(2, 3, 20, 12), atol=1e-5, rtol=0)


class Watch(TorchFunctionMode):
    """Compares every norm and every softmax attention with the same in float32, without autocast."""

    exact = (F.layer_norm, F.group_norm, F.scaled_dot_product_attention)

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in self.exact:
            self.seen[func.__name__] += 1
            if func is F.layer_norm:  # what flows between the blocks of a transformer is not rounded
                assert (args[0].dtype, out.dtype) == (torch.float32, torch.float32)
            wide = [a.float() if isinstance(a, Tensor) else a for a in args]
            with torch.autocast("cpu", enabled=False):
                exact = func(*wide, **(kwargs or {}))
            torch.testing.assert_close(out.float(), exact, rtol=2**-8, atol=1e-5)  # at most the result is rounded
        return out


@pytest.mark.parametrize("backbone", BACKBONES)
def test_norms_and_softmax_are_float32_under_autocast(backbone):
    net = perturbed(build(backbone, img_size=8, in_channels=1, num_classes=3, **SMALL))
    x, c, y = labelled_input()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Watch() as watch:
        net(x, c.double(), y=y)
    norms = [module for module in net.modules() if isinstance(module, (nn.LayerNorm, nn.GroupNorm))]
    attentions = [module for module in net.modules() if isinstance(module, ATTENTIONS)]
    assert watch.seen["scaled_dot_product_attention"] == len(attentions)
    assert watch.seen["layer_norm"] + watch.seen["group_norm"] >= len(norms)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_half_precision_weights_are_close(backbone):
    net = perturbed(build(backbone, img_size=8, in_channels=1, num_classes=3, **SMALL), 0.05)
    x, c, y = labelled_input()
    with torch.no_grad():
        exact, half = net(x, c, y=y), net.bfloat16()(x, c, y=y)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).norm() < 0.05 * exact.norm()


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
    out = net(x, c, y=y)
    assert not torch.allclose(net(x, c.flip(0), y=y), out)
    assert not torch.allclose(net(x, c, y=y.flip(0)), out)
    torch.testing.assert_close(net(x, c)[1], out[1])  # no label is the null class
    assert net.conditions == {"y": 3}


COUNTS = (
    *("blocks", "depth", "expand", "groups", "head_width", "hidden_dim", "in_channels", "kernel_size", "num_classes"),
    *("num_heads", "out_channels", "patch_size", "state_dim", "time_dim", "time_features", "up_blocks", "windows"),
)
MALFORMED: list[tuple[str, Any, str]] = [
    *((name, value, rf"^{name} = {re.escape(repr(value))}") for name in COUNTS for value in (1.5, True, "2")),
    *((name, -4, rf"^{name} = -4") for name in COUNTS),
    *((name, 0, rf"^{name} = 0") for name in COUNTS if name not in ("depth", "num_classes", "windows")),
    *(("img_size", value, r"^img_size = ") for value in ((), (8, 8, 8), 8.0, (8, 8.0), 0, (8, -8), True, "8", None)),
    *(("widths", value, r"^widths = ") for value in ((), 8, (0, 4), (4.0, 8), (True, 8))),
    *(("blocks", value, r"^blocks = ") for value in ((), (1, 1, 1), (1.0, 1), (None, 1))),
    *(("attention_levels", value, r"^attention_levels = ") for value in (1, (0.0,), (True,), (2,))),
    *(("mlp_ratio", value, rf"^mlp_ratio = {value}") for value in (math.nan, math.inf, -1.0)),
    *(("time_features", value, rf"^time_features = {value}, expected an integer of at least 2") for value in (0, 1)),
]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_malformed_settings_are_called_by_their_names(backbone):
    takes = inspect.signature(backbone).parameters
    for name, value, message in MALFORMED:
        if name in takes:
            with torch.device("meta"), pytest.raises(ValueError, match=message):
                build(backbone, **{**SMALL, "img_size": 8, "in_channels": 1, name: value})


@pytest.mark.parametrize("backbone", BACKBONES)
def test_numpy_integers_and_lists_are_settings_too(backbone):
    given = {name: np.int64(value) if isinstance(value, int) else list(value) for name, value in SMALL.items()}
    net = build(backbone, img_size=[np.int64(8), 8], in_channels=np.int64(1), **given)
    assert net(*labelled_input()[:2]).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_settings_that_do_not_fit(backbone):
    takes = inspect.signature(backbone).parameters
    for name, value, message in (
        ("num_heads", 3, r"num_heads = 3 does not divide the width \d+"),
        ("groups", 0, r"groups = 0, expected an integer of at least 1"),
        ("time_dim", 0, r"time_dim = 0, expected an integer of at least 1"),
        ("dropout", -0.5, r"-0\.5"),
        ("dropout_attention", 1.5, r"dropout_attention = 1\.5, expected a number in \[0, 1\)"),
        ("mlp_ratio", 0.0, r"mlp_ratio = 0\.0, expected a number above 0"),
        ("mlp_ratio", 0.01, r"mlp_ratio = 0\.01 gives 0\.\d+ hidden features for width \d+, expected at least 1"),
    ):
        if name in takes:
            with pytest.raises(ValueError, match=message):
                build(backbone, **{**SMALL, "img_size": 8, "in_channels": 1, name: value})
    net = build(backbone, **SMALL, img_size=8, in_channels=1)
    if net.multiple == 1 and "patch_size" in takes:  # a network that does not pad
        with pytest.raises(ValueError, match=r"patch_size = 3 does not divide the image \(8 x 8\)"):
            build(backbone, **{**SMALL, "img_size": 8, "in_channels": 1, "patch_size": 3})
        with pytest.raises(ValueError, match=r"x has shape \(2, 1, 8, 10\), expected \(B, 1, 8, 8\)"):
            net(torch.zeros(2, 1, 8, 10), torch.zeros(2))
