"""The rule of guidance, its scales, and what guided denoisers of both engines share."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from diffusion_core import ConstantScale, Denoiser, GuidanceScale, IntervalScale, PowerCosineScale
from diffusion_core.guidance import class_log_prob, doubled, guided, guided_logs, null_values, taken_labels

SCALES = [ConstantScale(2.5), IntervalScale(2.5, 0.25, 0.75), PowerCosineScale(2.5, 2.0)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_have_the_shape_of_time(scale, dtype):
    for t in (torch.tensor(0.5, dtype=dtype), torch.linspace(0, 1, 5, dtype=dtype)):
        g = scale(t)
        assert (g.shape, g.dtype) == (t.shape, dtype)
        assert (g >= 1).all()
        assert (g <= 2.5).all()
    with pytest.raises(dataclasses.FrozenInstanceError):
        scale.g = 1.0


def test_every_scale_is_tested():
    ours = {cls for cls in GuidanceScale.__subclasses__() if cls.__module__.startswith("diffusion_core.")}  # not of other tests
    assert {type(scale) for scale in SCALES} == ours


def test_scales_are_the_published_ones():
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    assert ConstantScale(3)(t).tolist() == [3.0] * 5
    assert IntervalScale(3.0, 0.25, 0.5)(t).tolist() == [1.0, 3.0, 3.0, 1.0, 1.0]
    power = PowerCosineScale(3.8, 4.0)(t)
    for value, time in zip(power.tolist(), t.tolist(), strict=True):
        share = (1 - math.cos((1 - time) ** 4 * math.pi)) / 2
        assert value == pytest.approx((3.8 - 1) * share + 1)
    assert (power.diff() < 0).all()
    assert (power[0], power[-1]) == (3.8, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantScale(-1.0), r"g = -1\.0, expected a number of at least 0"),
        (lambda: ConstantScale(math.nan), "g = nan"),
        (lambda: IntervalScale(math.inf, 0.1, 0.9), "g = inf"),
        (lambda: IntervalScale(2.0, 0.9, 0.1), r"low = 0\.9, high = 0\.1"),
        (lambda: IntervalScale(2.0, -0.1, 0.1), r"low = -0\.1"),
        (lambda: PowerCosineScale(2.0, 0.0), r"power = 0\.0, expected a number above 0"),
    ],
)
def test_scales_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_rule():
    cond, uncond = torch.randn(2, 4, 3, dtype=torch.float64)
    g = torch.tensor([0.0, 1.0, 2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(guided(cond, uncond, g), uncond + g[:, None] * (cond - uncond))
    torch.testing.assert_close(guided_logs(cond, uncond, g), uncond + g[:, None] * (cond - uncond))
    for end, expected in ((0.0, uncond), (1.0, cond)):
        assert torch.equal(guided(cond, uncond, torch.tensor(end)), expected)
        assert torch.equal(guided_logs(cond, uncond, torch.tensor(end)), expected)


def test_logarithms_of_zero():
    """What one excludes is excluded, also where a negative power would make it infinite; not at the ends."""
    zero = -math.inf
    cond, uncond = torch.tensor([[zero, -1.0, zero]]), torch.tensor([[-1.0, zero, zero]])
    assert guided_logs(cond, uncond, torch.tensor(0.0)).tolist() == [[-1.0, zero, zero]]
    assert guided_logs(cond, uncond, torch.tensor(1.0)).tolist() == [[zero, -1.0, zero]]
    for g in (0.5, 3.0):
        assert guided_logs(cond, uncond, torch.tensor(g)).tolist() == [[zero] * 3]


class Labelled(nn.Module):
    """A network that says what conditions it has."""

    def __init__(self, **conditions: object) -> None:
        super().__init__()
        self.conditions = conditions


class Reading(Denoiser):
    """A denoiser that is never asked."""

    def __init__(self, network: object) -> None:
        super().__init__(nn.Identity(), (2,))
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return x_t


def test_null_values():
    both = Reading(Labelled(y=10, context=torch.zeros(3, 2)))
    assert null_values(both) == null_values(Reading(len), {"y": 10}) == {"y": 10}
    assert set(null_values(both, {"context": 0.0, "y": 3})) == {"context", "y"}
    assert Reading(len).nfe == 1
    for network, null, message in (
        (Labelled(), None, "the network has the conditions: none; expected y among them, or null for another condition"),
        (Labelled(context=0.0), None, "the network has the conditions: context; expected y among them"),
        (len, None, r"builtin_function_or_method lists no conditions: give null, such as {'y': the null class}"),
        (Labelled(y=10), {"text": 0}, "the condition text was given to a network with the conditions: y"),
        (Labelled(y=10), {}, "null = {}, expected the null value of at least one condition"),
        (len, {"y": -2}, "null = {'y': -2}, expected a label of at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            null_values(Reading(network), null)


def test_one_batch_for_both():
    x, t, y, context = torch.randn(3, 2), torch.tensor(0.5), torch.tensor([0, 1, 2]), torch.randn(3, 4, 5, dtype=torch.float64)
    empty = torch.full((4, 5), 7.0)
    both, time, given = doubled(x, t, {"y": y, "context": context}, {"y": 7})
    assert torch.equal(both, torch.cat([x, x]))
    assert time.shape == ()
    assert given["y"].tolist() == [0, 1, 2, 7, 7, 7]
    assert torch.equal(given["context"], torch.cat([context, context]))  # what has no null value stays
    given = doubled(x, torch.tensor([0.1, 0.2, 0.3]), {"y": y, "context": context}, {"context": empty})
    assert given[1].shape == (6,)
    assert torch.equal(given[2]["y"], torch.cat([y, y]))
    assert torch.equal(given[2]["context"], torch.cat([context, empty.double().expand(3, 4, 5)]))
    assert doubled(x, t, {"y": y.byte()}, {"y": 256})[2]["y"].tolist() == [0, 1, 2, 256, 256, 256]
    for wrong, null, message in (
        ({}, {"y": 7}, "y is missing: a guided denoiser needs the condition to guide towards"),
        ({"y": y[:2]}, {"y": 7}, r"y has shape \(2,\), expected 3 rows"),
        ({"y": y.float()}, {"y": 7}, "y has dtype torch.float32"),
        ({"y": y, "context": context[:2]}, {"y": 7}, r"context has shape \(2, 4, 5\), expected 3 rows"),
        ({"context": context}, {"context": 7.0}, r"null value of context has shape \(\), expected \(4, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            doubled(x, t, wrong, null)


class Classifier(nn.Module):
    """Logits that depend on the time, in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        self.seen.append(c.dtype)
        return torch.stack([x.sum(1), c.to(x.dtype)], 1)


def test_reading_a_classifier():
    classifier, x, t = Classifier(), torch.randn(3, 2), torch.tensor(0.5, dtype=torch.float64)
    y = torch.tensor([0, 1, 0])
    logits = torch.stack([x.sum(1), torch.full((3,), 0.5)], 1)
    torch.testing.assert_close(class_log_prob(classifier, x, t, y), logits.log_softmax(1)[torch.arange(3), y])
    assert classifier.seen == [torch.bfloat16]
    with pytest.raises(ValueError, match=r"y has the value 2, expected 0 \.\. 1"):
        class_log_prob(classifier, x, t, y + 1)
    with pytest.raises(ValueError, match=r"logits have shape \(3,\), expected \(3, K\)"):
        class_log_prob(lambda x, c: x[:, 0], x, t, y)
    cond = {"y": y, "context": x}
    assert torch.equal(taken_labels(cond, 3), y)
    assert set(cond) == {"context"}
    with pytest.raises(ValueError, match="y is missing: a classifier needs the labels"):
        taken_labels(cond, 3)
    with pytest.raises(ValueError, match=r"y has shape \(2,\), expected 3 rows"):
        taken_labels({"y": y[:2]}, 3)
