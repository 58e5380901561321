"""A network of two conditions, labels and a context (B, M, d), through everything that takes conditions by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from backbones import Backbone, CategoricalHead, OrdinalInput, PixelLogits, UNet
from ctdiff.comparison import count_nfe
from ctdiff.training import fit
from ctdiff.training.precision import HalfPrecision
from diffusion_core import ConstantScale, Denoiser, Objective, PerSampleRandomness, Sampler, UniformGrid, UniformTimes
from diffusion_core.conditions import Null
from diffusion_core.guidance import class_log_prob
from discrete_diffusion.rates import UniformRates
from discrete_diffusion.schedules import LinearSurvival

from .losses import losses_of

M, D, VALUES, EVENT = 3, 2, 4, (1, 4, 4)


class TwoConditions(Backbone):
    """A product of pixels with a number that the label and the context have given rise to, together."""

    def __init__(self, out_channels: int) -> None:
        super().__init__(1, out_channels, num_classes=3)
        self.empty = nn.Parameter(torch.randn(M, D))
        self.classes = nn.Embedding(4, out_channels)
        self.context = nn.Linear(D, out_channels)
        self.pixels = nn.Conv2d(1, out_channels, 3, padding=1)

    @property
    def conditions(self) -> Mapping[str, Null]:
        return {**super().conditions, "context": self.empty}

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        told = self.classes(cond["y"]) + self.context(cond["context"].view(len(x), M, D)).tanh().sum(1)
        return self.pixels(x) * (told + c[:, None]).to(x.dtype)[:, :, None, None]


def gaussian(network: Backbone | None = None) -> Denoiser:
    process = continuous.GaussianProcess(continuous.CosineSchedule())
    return continuous.EpsilonDenoiser(process, TwoConditions(1) if network is None else network, EVENT)


def integers() -> Denoiser:
    network = PixelLogits(TwoConditions(VALUES), CategoricalHead(1, VALUES), OrdinalInput(1), VALUES)
    return discrete.LeaveOneOutDenoiser(discrete.CTMC(UniformRates(VALUES), LinearSurvival()), network, EVENT)


def parts(denoiser: Denoiser) -> tuple[Any, Any, type[Any], type[Sampler], Any]:
    """The engine's loss, guidance, sampler and bound, and what the null values of the network are."""
    if isinstance(denoiser, continuous.Denoiser):
        guidance, sampler = continuous.ClassifierFreeGuidance, continuous.Ancestral
        return continuous, continuous.EpsilonLoss(), guidance, sampler, denoiser.network.conditions
    return (
        discrete,
        discrete.CrossEntropy(),
        discrete.PosteriorGuidance,
        discrete.samplers.Ancestral,
        denoiser.network.conditions,
    )


def conditions(n: int) -> dict[str, Tensor]:
    return {"y": torch.arange(n) % 3, "context": torch.randn(n, M, D)}


def data(denoiser: Denoiser, n: int) -> Tensor:
    k = torch.randint(VALUES, (n, *EVENT))
    return k if isinstance(denoiser, discrete.Denoiser) else k / 2 - 0.75


def answer(denoiser: Denoiser, x: Tensor, **cond: Tensor) -> Tensor:
    """What the posterior is made of: the noise, or the logits."""
    posterior = denoiser(x, torch.tensor(0.4), **cond)
    return posterior.epsilon if isinstance(posterior, continuous.Posterior) else posterior.distribution.scores


every_engine = pytest.mark.parametrize("make", [gaussian, integers])


@every_engine
def test_an_omitted_condition_is_its_null_value(make):
    denoiser = make()
    x, cond, null = data(denoiser, 5), conditions(5), parts(denoiser)[-1]
    empty = {"y": torch.full((5,), 3), "context": null["context"].expand(5, M, D).contiguous()}
    for given in ([], ["y"], ["context"]):
        some = {name: cond[name] for name in given}
        assert torch.equal(answer(denoiser, x, **some), answer(denoiser, x, **{**empty, **some}))
        assert not torch.allclose(answer(denoiser, x, **some), answer(denoiser, x, **cond))
    with pytest.raises(ValueError, match="the condition text was given to a network with the conditions: y, context"):
        answer(denoiser, x, text=cond["y"])


def test_half_precision_has_the_conditions_of_its_network():
    network = TwoConditions(1)
    half = HalfPrecision(network)
    x, c, cond = torch.randn(5, *EVENT), torch.rand(5), conditions(5)
    assert half.conditions is not None
    assert set(half.conditions) == {"y", "context"}
    torch.testing.assert_close(half(x, c, **cond), network(x, c, **cond), rtol=0.02, atol=0.02)
    continuous.ClassifierFreeGuidance(gaussian(half), ConstantScale(2.0), {"context": network.empty})


@every_engine
@pytest.mark.parametrize("towards", [["y"], ["context"], ["y", "context"]], ids=" and ".join)
def test_guidance_over_either_or_both(make, towards):
    """`uncond + g (cond - uncond)` from two calls, where "uncond" keeps the conditions that are not guided towards."""
    denoiser = make()
    _, _, guidance, _, null = parts(denoiser)
    x, cond = data(denoiser, 5), conditions(5)
    guided = guidance(denoiser, ConstantScale(2.5), {name: null[name] for name in towards})
    with_, without = (answer(denoiser, x, **{k: v for k, v in cond.items() if all or k not in towards}) for all in (1, 0))
    expected = without + 2.5 * (with_ - without)
    found = answer(guided, x, **cond)
    if make is integers:
        found, expected = found.log_softmax(-1), expected.log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=f"{towards[-1]} is missing: a guided denoiser needs the condition"):
        guided(x, torch.tensor(0.4), **{name: value for name, value in cond.items() if name != towards[-1]})


@every_engine
def test_samples_in_sub_batches_have_their_own_conditions(make):
    denoiser = make()
    _, _, guidance, sampler, null = parts(denoiser)
    cond = conditions(7)
    for each in (denoiser, guidance(denoiser, ConstantScale(2.0), null)):
        walker = sampler(each, UniformGrid(3), sub_batch=3)
        together = walker.sample(7, seeds=range(7), **cond)
        for i in range(7):
            own = {name: value[i : i + 1] for name, value in cond.items()}
            assert torch.equal(walker.sample(1, seeds=[i], **own), together[i : i + 1])
        assert not torch.equal(walker.sample(7, seeds=range(7), **{**cond, "context": cond["context"].flip(0)}), together)
        assert count_nfe(walker, **own) == 4 * each.nfe


@every_engine
def test_dropout_drops_what_has_a_null_value(make):
    denoiser = make()
    _, loss, _, _, null = parts(denoiser)
    x_0, cond, seen = data(denoiser, 400), conditions(400), []
    hook = denoiser.register_forward_hook(lambda *inputs: seen.append(inputs[2]), with_kwargs=True)
    for some in ({"y": 3}, {"context": null["context"]}, null):
        losses_of(Objective(denoiser, loss, UniformTimes(0.1, 0.9), 0.25, some), x_0, PerSampleRandomness(range(400)), **cond)
        dropped = []
        for name, value in cond.items():
            same = (seen[-1][name] == value).flatten(1 if value.ndim > 1 else 0).reshape(400, -1).all(1)
            none = (seen[-1][name] == null[name]).reshape(400, -1).all(1)
            assert bool((same ^ none).all()) if name in some else bool(same.all())
            dropped += [none] if name in some else []
        assert dropped[0].float().mean().item() == pytest.approx(0.25, abs=0.07)
        assert all(torch.equal(each, dropped[0]) for each in dropped)  # an example loses all of them, or none
    hook.remove()


@every_engine
def test_a_batch_in_parts_has_the_same_gradient(make):
    steps = []
    for accumulation in (1, 3):
        torch.manual_seed(1)
        denoiser = make()
        _, loss, _, _, null = parts(denoiser)
        objective = Objective(denoiser, loss, UniformTimes(0.1, 0.9), 0.5, null)
        batches = [(data(denoiser, 8), conditions(8))]
        optimizer = torch.optim.SGD(denoiser.parameters(), lr=0.1)
        steps += list(fit(objective, batches, optimizer, steps=1, accumulation=accumulation))
    assert steps[1].loss == pytest.approx(steps[0].loss, rel=1e-5)
    assert steps[1].grad_norm == pytest.approx(steps[0].grad_norm, rel=1e-4)


@every_engine
@pytest.mark.parametrize("rows", [4, 9])
def test_a_wrong_number_of_rows_is_refused_before_the_network_is_asked(make, rows, monkeypatch):
    denoiser = make()
    engine, loss, guidance, sampler, null = parts(denoiser)
    x_0, cond = data(denoiser, 8), {**conditions(8), "context": torch.randn(rows, M, D)}
    monkeypatch.setattr(TwoConditions, "predict", pytest.fail)
    objective = Objective(denoiser, loss, UniformTimes(0.1, 0.9), 0.5, null)
    optimizer = torch.optim.SGD(denoiser.parameters(), lr=0.1)
    for work in (
        lambda: sampler(denoiser, UniformGrid(3), sub_batch=3).sample(8, seeds=range(8), **cond),
        lambda: guidance(denoiser, ConstantScale(2.0), {"y": 3})(x_0, torch.tensor(0.4), **cond),
        lambda: objective.draw(x_0, **cond),
        lambda: next(fit(objective, [(x_0, cond)], optimizer, steps=1, accumulation=2)),
        lambda: engine.bits_per_dim(denoiser, x_0, draws=4, **cond),
        lambda: engine.learn_times(denoiser, x_0, draws=4, **cond),
    ):
        with pytest.raises(ValueError, match=rf"context has shape \({rows}, 3, 2\), expected 8 rows"):
            work()


def test_labels_of_few_bits_are_compared_as_integers():
    """256 classes and uint8 labels: every byte is a class, and a classifier's label is compared with 256 without wrapping."""
    y = torch.tensor([0, 255], dtype=torch.uint8)
    small = {"widths": (4,), "blocks": 1, "patch_size": 1, "attention_levels": (), "groups": 1}
    network = UNet(1, 1, **small, num_classes=256, time_features=4, time_dim=4)
    assert network(torch.zeros(2, 1, 4, 4), torch.zeros(2), y=y).shape == (2, 1, 4, 4)
    logits = torch.randn(2, 256, dtype=torch.float64)
    chosen = class_log_prob(lambda x, c: logits, torch.zeros(2, 1), torch.zeros(2), y)
    torch.testing.assert_close(chosen, logits.log_softmax(1)[torch.arange(2), [0, 255]])
    with pytest.raises(ValueError, match=r"y has the value 255, expected 0 \.\. 10"):
        UNet(1, 1, **small, num_classes=10)(torch.zeros(2, 1, 4, 4), torch.zeros(2), y=y)
