"""What a network costs: against counts by hand, formulas and what autograd really keeps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from backbones import Backbone, DiT, LogisticMixtureHead, OrdinalInput, PixelLogits, UNet
from ctdiff import cost, recipe, summary
from ctdiff.training.precision import HalfPrecision

from .small import small


class Known(Backbone):
    """Two convolutions with a product between them: everything about it is known."""

    def __init__(self) -> None:
        super().__init__(3, 5)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1)

    def predict(self, x, c, **cond):
        h = self.first(x)
        return self.second(h * h)


def test_every_number_is_the_known_one():
    counted = summary(Known(), (3, 6, 10))
    assert counted.parameters == (3 * 9 + 1) * 4 + (4 + 1) * 5
    assert counted.multiply_accumulates == 60 * (3 * 9 * 4 + 4 * 5)
    assert counted.activation_bytes == 60 * 4 * (3 + 4 + 4)  # the input, h and its square
    assert counted.forward_seconds > 0
    assert counted.backward_seconds > 0
    for word in ("parameters            137", "7,680 an image", "MiB an image", "forward", "backward", "ms an image"):
        assert word in str(counted)


def test_on_the_meta_device_nothing_is_measured():
    with torch.device("meta"):
        network = Known()
    counted = summary(network, (3, 6, 10))
    assert (counted.forward_seconds, counted.backward_seconds) == (None, None)
    assert counted == summary(Known(), (3, 6, 10), runs=0)
    assert "forward" not in str(counted)


def test_the_network_stays_as_it_was():
    network = DiT(8, 1, patch_size=4, depth=1, hidden_dim=16, num_heads=2, dropout=0.5).eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    counted = summary(network, (1, 8, 8))
    assert counted.backward_seconds is None, "nothing of it is learned"
    assert counted.activation_bytes > 0
    assert not network.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(tensor.device.type == "cpu" for tensor in (*network.parameters(), *network.buffers()))
    learning = Known()
    summary(learning, (3, 4, 4))
    assert all(p.grad is None for p in learning.parameters())


def test_integers_shared_parameters_and_half_precision():
    backbone = UNet(1, 6, widths=(8,), blocks=1, patch_size=1)
    network = PixelLogits(backbone, LogisticMixtureHead(1, 8, 2), OrdinalInput(1), 8)
    assert backbone.out_channels == network.head.in_channels
    whole, part = summary(network, (1, 8, 8), runs=1, batch_size=2), summary(backbone, (1, 8, 8), runs=0)
    assert (whole.parameters, whole.multiply_accumulates) == (part.parameters, part.multiply_accumulates)
    assert whole.activation_bytes >= part.activation_bytes
    assert summary(HalfPrecision(backbone), (1, 8, 8), runs=1).parameters == part.parameters
    tied = Known()
    tied.third = tied.first
    assert summary(tied, (3, 4, 4), runs=0).parameters == 137


def test_a_slow_network_is_not_measured_for_long(monkeypatch):
    calls = []
    network = Known()
    network.first.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(cost, "_ENOUGH", 0.0)
    summary(network, (3, 4, 4), runs=1000)
    assert len(calls) < 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Linear(2, 2), (1, 8, 8)), "backbone is a Linear, expected a Backbone or PixelLogits"),
        ((Known(), (8, 8)), r"shape = \(8, 8\), expected the shape of one image, \(C, H, W\)"),
        ((Known(), (3, 0, 8)), r"shape = \(3, 0, 8\), expected"),
        ((Known(), (1, 8, 8)), r"shape = \(1, 8, 8\), expected \(3, H, W\)"),
        ((Known(), (3, 8, 8), -1), "runs = -1"),
        ((Known(), (3, 8, 8), 1, 0), "batch_size = 0"),
    ],
)
def test_what_cannot_be_summarised(arguments, message):
    with pytest.raises(ValueError, match=message):
        summary(*arguments)


def test_estimates_follow_the_batch():
    config = small("mnist", optimizer__name="adamw")
    estimate = cost.estimate(config)
    assert estimate.parameters == sum(p.numel() for p in recipe.build_network(config).parameters())
    half = small("mnist", optimizer__name="adamw", training__batch_size=2)
    divided = small("mnist", optimizer__name="adamw", training__accumulation=2)
    fixed = 20 * estimate.parameters
    assert cost.estimate(half).training_bytes - fixed == pytest.approx((estimate.training_bytes - fixed) / 2)
    assert cost.estimate(divided) == cost.estimate(half)
    assert (
        cost.estimate(small("mnist", optimizer__name="adamw", model__use_checkpoint=True)).training_bytes
        < estimate.training_bytes
    )
    in_half = cost.estimate(small("mnist", optimizer__name="adamw", training__precision="bfloat16"), runs=1)
    assert in_half.network.forward_seconds is not None
    assert in_half.training_bytes == pytest.approx(estimate.training_bytes, rel=0.01)


def test_another_device_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch, "elsewhere", SimpleNamespace(synchronize=lambda: waited.append(1)), raising=False)
    cost._now(SimpleNamespace(type="elsewhere"))
    assert waited == [1]
