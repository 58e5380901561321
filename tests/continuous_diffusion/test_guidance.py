"""Guidance of the Gaussian engine on mixtures: what g = 0 and g = 1 are, and how far the law is from the tilted one."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from benchmarks.guidance import (
    GAUSSIAN,
    STRENGTHS,
    gaussian_guidance_distance,
    gaussian_law,
    line,
    line_mixture,
    total_variation,
)
from continuous_diffusion import (
    DDIM,
    Ancestral,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    CosineSchedule,
    EpsilonDenoiser,
    GaussianProcess,
    LearnedVarianceDenoiser,
    MixtureDenoiser,
)
from diffusion_core import ConstantScale, IntervalScale, PowerCosineScale, UniformGrid

from ..devices import ABSENT, fake_tensors

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "guidance.md"


@pytest.fixture
def denoiser() -> MixtureDenoiser:
    return MixtureDenoiser(GaussianProcess(CosineSchedule()), line_mixture())


X = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
Y = torch.ones(9, dtype=torch.int64)


@pytest.mark.parametrize("t", [torch.tensor(0.4, dtype=torch.float64), torch.linspace(0.1, 0.9, 9, dtype=torch.float64)])
def test_guided_noise_is_the_score_of_the_tilted_marginal(t, denoiser):
    """`-sigma grad( (1 - g) log q_t(x) + g log q_t(x | y) )`, by either way; the mean goes with the noise."""
    alpha, sigma = (value.expand(9)[:, None] for value in denoiser.process.schedule(t))
    for g in (0.0, 0.5, 1.0, 3.0):
        score = (1 - g) * denoiser.score(X, t) + g * denoiser.score(X, t, Y)
        for guided in (
            ClassifierFreeGuidance(denoiser, ConstantScale(g)),
            ClassifierGuidance(denoiser, denoiser.class_log_probs, ConstantScale(g)),
        ):
            posterior = guided(X, t, y=Y)
            torch.testing.assert_close(posterior.epsilon, -sigma * score)
            torch.testing.assert_close(alpha * posterior.mean + sigma * posterior.epsilon, X)


def test_ends_of_the_scale_are_the_plain_models(denoiser):
    t = torch.tensor(0.4, dtype=torch.float64)
    for g, given in ((0.0, {}), (1.0, {"y": Y})):
        posterior, expected = ClassifierFreeGuidance(denoiser, ConstantScale(g))(X, t, y=Y), denoiser(X, t, **given)
        # Sums over components are rounded in another way for a batch of 2 B.
        torch.testing.assert_close(posterior.mean, expected.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(posterior.epsilon, expected.epsilon, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(posterior.var, denoiser(X, t, y=Y).var, rtol=1e-12, atol=1e-12)
    mixed = ClassifierFreeGuidance(denoiser, ConstantScale(2.0))(X, t, y=1 - Y)
    torch.testing.assert_close(mixed.var, denoiser(X, t, y=1 - Y).var, rtol=1e-12, atol=1e-12)


def test_strength_follows_time(denoiser):
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    for scale in (IntervalScale(3.0, 0.3, 0.6), PowerCosineScale(3.0)):
        together = ClassifierFreeGuidance(denoiser, scale)(X, t, y=Y)
        for i, g in enumerate(scale(t).tolist()):
            alone = ClassifierFreeGuidance(denoiser, ConstantScale(g))(X[i : i + 1], t[i], y=Y[:1])
            torch.testing.assert_close(together.epsilon[i], alone.epsilon[0])


@pytest.mark.parametrize("g", [0.0, 1.0])
@pytest.mark.parametrize("method", GAUSSIAN)
def test_ends_of_the_scale_are_reached_at_first_order(method, g, denoiser):
    """Judged at t = 0.1, where the steps are still long: the last step's own error does not shrink with them."""
    x, t_min = line(501), torch.tensor(0.1, dtype=torch.float64)
    mixture = line_mixture().of_class(1) if g == 1 else line_mixture()
    target = mixture.noised(*denoiser.process.schedule(t_min)).log_prob(x[:, None]).exp() * (x[1] - x[0])
    errors = []
    for steps in (16, 32, 64):
        sampler = GAUSSIAN[method](ClassifierFreeGuidance(denoiser, ConstantScale(g)), UniformGrid(steps, t_min=0.1))
        errors.append(total_variation(gaussian_law(sampler, x, 1, finish=False), target))
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert all(slope > 0.8 for slope in slopes), (errors, slopes)


@pytest.mark.parametrize("method", GAUSSIAN)
def test_documented_distances_are_those_of_the_benchmark(method):
    text = DOCUMENTATION.read_text("utf-8").split("| Gaussian, 128 steps |")[1]
    cells = next(entry for entry in text.splitlines() if entry.startswith(f"| {method}")).split("|")[2:]
    stated = float(cells[STRENGTHS.index(2.0)])
    # A coarser run of the same integral, for speed.
    assert gaussian_guidance_distance(method, 2.0, 64, 801) == pytest.approx(stated, abs=0.01)
    assert stated > 0.1


def test_seeds_labels_and_calls(denoiser):
    for guided, each in (
        (ClassifierFreeGuidance(denoiser, ConstantScale(2.0)), 2),
        (ClassifierGuidance(denoiser, denoiser.class_log_probs, ConstantScale(2.0)), 1),
    ):
        y = torch.arange(20) % 2
        for sampler in (DDIM(guided, UniformGrid(4), eta=0.5), Ancestral(guided, UniformGrid(4))):
            together = sampler.sample(20, seeds=range(20), y=y)
            uneven = torch.cat([sampler.sample(7, seeds=range(7), y=y[:7]), sampler.sample(13, seeds=range(7, 20), y=y[7:])])
            assert torch.equal(together, uneven)
            states = list(sampler.trajectory(2, seeds=[0, 1], y=y[:2]))
            assert [state.nfe for state in states] == [each * i for i in range(6)]
            assert not states[-1].x.requires_grad
        with pytest.raises(ValueError, match=r"y is missing: a .* needs the (labels|condition) to guide towards"):
            sampler.sample(2)
        with pytest.raises(ValueError, match=r"y has dtype torch\.float32"):
            sampler.sample(2, y=torch.zeros(2))


class TwoHalves(nn.Module):
    """Predicts a mean and a variance, both of which know the label."""

    conditions: ClassVar[dict[str, int]] = {"y": 2}

    def forward(self, x, c, y=None):
        label = torch.full((len(x),), 2) if y is None else y
        shift = label[:, None, None, None].to(x.dtype) / 10
        return torch.cat([torch.tanh(x) + shift, 0 * x + shift], 1)


def test_what_was_learned_of_the_variance_is_kept():
    denoiser = LearnedVarianceDenoiser(EpsilonDenoiser(GaussianProcess(CosineSchedule()), TwoHalves(), (1, 2, 2)))
    x, y, t = torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 0]), torch.tensor(0.5)
    free = ClassifierFreeGuidance(denoiser, ConstantScale(3.0))
    assert free.null == {"y": 2}
    assert torch.equal(free(x, t, y=y).interpolation, denoiser(x, t, y=y).interpolation)
    by_classifier = ClassifierGuidance(denoiser, lambda x, c: x.flatten(1), ConstantScale(3.0))
    assert torch.equal(by_classifier(x, t, y=y).interpolation, denoiser(x, t).interpolation)
    assert free.learns_variance
    assert by_classifier.learns_variance
    plain = EpsilonDenoiser(GaussianProcess(CosineSchedule()), lambda x, c, **cond: x, (1, 2, 2))
    guided = ClassifierFreeGuidance(plain, ConstantScale(1.0), {"y": 2})
    assert not guided.learns_variance
    assert guided(x, t, y=y).interpolation is None


def test_unconditional_networks_are_refused():
    class Unconditional(nn.Module):
        conditions: ClassVar[dict[str, int]] = {}

    denoiser = EpsilonDenoiser(GaussianProcess(CosineSchedule()), Unconditional(), (1, 2, 2))
    with pytest.raises(ValueError, match="the network has the conditions: none; expected y among them"):
        ClassifierFreeGuidance(denoiser, ConstantScale(2.0))


def test_on_an_absent_accelerator(toy_network):
    with fake_tensors(), torch.device(ABSENT):
        denoiser = EpsilonDenoiser(GaussianProcess(CosineSchedule()), type(toy_network())(), (1, 6, 6))
        classifier = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
        scale, y = IntervalScale(2.0, 0.1, 0.9), torch.zeros(3, dtype=torch.int64)
        for guided in (
            ClassifierFreeGuidance(denoiser, scale, {"y": 3}),
            ClassifierGuidance(denoiser, lambda x, c: classifier(x), scale),
        ):
            for sampler in (DDIM(guided, UniformGrid(2)), Ancestral(guided, UniformGrid(2))):
                x = sampler.sample(3, y=y)
                assert (x.shape, x.device.type, x.dtype) == ((3, 1, 6, 6), ABSENT, torch.float32)
