"""Every backbone trains and samples in both engines: each head, each coding of the input, with and without labels.

A network is found by walking the subclasses, so that a new one is tested without an edit here. In the Gaussian engine
the network's output is the noise, or the noise and a variance, and what is diffused are the coded images themselves:
one number a pixel, or S of them. (An embedding there would be data that move while they are learned.)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from backbones import Backbone, EmbeddedInput, PixelLogits
from ctdiff.training.precision import HalfPrecision
from diffusion_core import Objective, QuadraticGrid, Sampler, UniformGrid, UniformTimes
from discrete_diffusion.rates import AbsorbingRates, GaussianTargetRates, UniformRates
from discrete_diffusion.samplers import Ancestral, Euler, OrdinalLeap, TauLeaping
from discrete_diffusion.schedules import CosineSurvival, Exponential, LinearSurvival

from .backbones.small_networks import BACKBONES, HEADS, INPUTS, SMALL, build, perturbed
from .losses import losses_of

S, CLASSES = 8, 3
GRID = QuadraticGrid(2, 0.05, 0.95)
Engine = Callable[[Backbone], tuple[Objective, Sampler]]
"""From a backbone to what is trained and what draws samples."""

Parts = tuple[Any, Any, Sampler]
"""A denoiser, a loss and a sampler."""


def leave_one_out(net: nn.Module, event: tuple[int, ...]) -> Parts:
    process = discrete.CTMC(GaussianTargetRates(S, 2.0, 8.0), Exponential(0.3, 20.0))
    denoiser = discrete.LeaveOneOutDenoiser(process, net, event)
    return denoiser, discrete.ELBO(), TauLeaping(denoiser, GRID, leap=OrdinalLeap())


def x_0(net: nn.Module, event: tuple[int, ...]) -> Parts:
    denoiser = discrete.X0Denoiser(discrete.CTMC(UniformRates(S), CosineSurvival()), net, event)
    return denoiser, discrete.CrossEntropy(), Euler(denoiser, GRID)


def absorbing(net: nn.Module, event: tuple[int, ...]) -> Parts:
    denoiser = discrete.AbsorbingDenoiser(discrete.CTMC(AbsorbingRates(S), LinearSurvival()), net, event)
    return denoiser, discrete.ELBO(), Ancestral(denoiser, GRID)


PARAMETERISATIONS = [leave_one_out, x_0, absorbing]
IMAGES = {"28x28x1": (1, 28, 28), "32x32x3": (3, 32, 32)}
LABELS = {"unconditional": 0, "conditional": CLASSES}
CODINGS = [inputs for inputs in INPUTS if inputs is not EmbeddedInput]


def discrete_cases() -> list[tuple[type, str, str, type, type]]:
    """Each backbone, head and input, each time with one of the four pairs of an image and a conditioning; the pairs rotate."""
    found = []
    for (b, backbone), (h, head), (i, inputs) in product(enumerate(BACKBONES), enumerate(HEADS), enumerate(INPUTS)):
        image, labels = list(product(IMAGES, LABELS))[(b + h + i) % 4]
        found.append((backbone, image, labels, head, inputs))
    return found


def gaussian_cases() -> list[tuple[type, str, str, bool, type]]:
    """Each backbone, image, coding and kind of variance, each time with or without labels, in turn."""
    found = []
    for (b, backbone), (m, image), learned, (i, inputs) in product(
        enumerate(BACKBONES), enumerate(IMAGES), (False, True), enumerate(CODINGS)
    ):
        found.append((backbone, image, list(LABELS)[(b + m + learned + i) % 2], learned, inputs))
    return found


DISCRETE, GAUSSIAN = discrete_cases(), gaussian_cases()


def objective_of(denoiser: Any, loss: Any, num_classes: int) -> Objective:
    # A sum over the steps of a chain is drawn at all times.
    times = UniformTimes(0.0, 1.0) if isinstance(loss, continuous.HybridLoss) else UniformTimes(0.1, 0.95)
    return Objective(denoiser, loss, times, 0.25 if num_classes else 0.0)


def steps_and_samples(backbone: Backbone, engine: Engine, images: Tensor, **cond: Tensor) -> Tensor:
    """Two training steps and four samples; what is measured on the way is asserted."""
    objective, sampler = engine(backbone)
    parameters = dict(objective.named_parameters())
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3)

    def gradients() -> tuple[Tensor, dict[str, Tensor]]:
        optimizer.zero_grad()
        loss = losses_of(objective, images, torch.Generator().manual_seed(1), **cond)
        assert loss.shape == (len(images),)
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        loss.sum().backward()
        for name, parameter in parameters.items():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        return loss.detach(), {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}

    gradients()  # of the fresh network, whose branches may begin as 0
    optimizer.step()
    perturbed(objective, 0.05)  # what stands behind two zeros would need a third step
    loss, plain = gradients()
    for name, gradient in plain.items():
        assert gradient.any(), name
    plain = {name: gradient.clone() for name, gradient in plain.items()}

    backbone.use_checkpoint = True
    again, checkpointed = gradients()
    assert torch.equal(again, loss)
    for name, gradient in plain.items():
        assert torch.equal(checkpointed[name], gradient), name
    with torch.no_grad():
        half = losses_of(engine(HalfPrecision(backbone))[0], images, torch.Generator().manual_seed(1), **cond)
    torch.testing.assert_close(half, loss, rtol=0.03, atol=0)
    assert not torch.equal(half, loss)  # bfloat16 was in it

    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in parameters.values())
    wanted = {"y": torch.tensor([0, 1, 2, CLASSES])} if cond else {}
    return sampler.sample(4, generator=torch.Generator().manual_seed(2), **wanted)


def data(image: tuple[int, int, int], num_classes: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Two integer images, and labels of which one is the null class."""
    return torch.randint(S, (2, *image)), {"y": torch.tensor([1, num_classes])} if num_classes else {}


every_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def small(backbone: type[Backbone], image: tuple[int, int, int], channels: tuple[int, int], num_classes: int) -> Any:
    settings = {**SMALL, "patch_size": 4, "in_channels": channels[0], "out_channels": channels[1], "num_classes": num_classes}
    return build(backbone, img_size=image[1:], **settings)


def test_the_walk_finds_the_classes():
    assert len(BACKBONES) >= 6
    assert len(HEADS) >= 3
    assert len(INPUTS) >= 3
    assert len(CODINGS) >= 2


def test_the_cases_cover_the_choices():
    """Each backbone has each pair of the other choices, and each combination of the others has a backbone."""
    for backbone in BACKBONES:
        for cases, kinds in ((DISCRETE, (IMAGES, LABELS, HEADS, INPUTS)), (GAUSSIAN, (IMAGES, LABELS, (False, True), CODINGS))):
            own = [case[1:] for case in cases if case[0] is backbone]
            for a, b in combinations(range(4), 2):
                assert {(case[a], case[b]) for case in own} == set(product(kinds[a], kinds[b]))
    assert {case[1:] for case in DISCRETE} == set(product(IMAGES, LABELS, HEADS, INPUTS))
    assert {case[1:] for case in GAUSSIAN} == set(product(IMAGES, LABELS, (False, True), CODINGS))


@pytest.mark.parametrize(("backbone", "image", "labels", "head", "inputs"), DISCRETE)
def test_discrete_engine(backbone, image, labels, head, inputs):
    image, num_classes = IMAGES[image], LABELS[labels]
    # The parameterisations rotate, so that each is tested with each head, each input, and both kinds of network.
    parameterisation = PARAMETERISATIONS[
        (HEADS.index(head) + INPUTS.index(inputs) + (num_classes > 0)) % len(PARAMETERISATIONS)
    ]
    masked = parameterisation is absorbing
    states = S + masked
    coding = build(inputs, channels=image[0], num_states=states, dim=3, masked=masked)
    distribution = build(head, channels=image[0], num_values=S, components=2)
    net = small(backbone, image, (coding.out_channels, distribution.in_channels), num_classes)

    def engine(backbone: Backbone) -> tuple[Objective, Sampler]:
        model = PixelLogits(backbone, distribution, coding, S, states)
        denoiser, loss, sampler = parameterisation(model, image)
        return objective_of(denoiser, loss, num_classes), sampler

    pixels, cond = data(image, num_classes)
    x = steps_and_samples(net, engine, pixels, **cond)
    assert x.shape == (4, *image)
    assert not x.is_floating_point()
    assert int(x.min()) >= 0
    assert int(x.max()) < S


@pytest.mark.parametrize(("backbone", "image", "labels", "learned", "inputs"), GAUSSIAN)
def test_gaussian_engine(backbone, image, labels, learned, inputs):
    image, num_classes = IMAGES[image], LABELS[labels]
    coding = build(inputs, channels=image[0], num_states=S)
    event = (coding.out_channels, *image[1:])
    net = small(backbone, image, (event[0], (2 if learned else 1) * event[0]), num_classes)
    process = continuous.GaussianProcess(continuous.CosineSchedule(1000))

    def engine(backbone: Backbone) -> tuple[Objective, Sampler]:
        denoiser: Any = continuous.EpsilonDenoiser(process, backbone, event)
        if not learned:
            return objective_of(denoiser, continuous.EpsilonLoss(), num_classes), continuous.DDIM(denoiser, GRID)
        denoiser = continuous.LearnedVarianceDenoiser(denoiser)
        loss = continuous.HybridLoss(bound=continuous.VLB(UniformGrid(9, 0.1)), weight=1.0)
        sampler = continuous.Ancestral(denoiser, GRID, variance=continuous.LearnedRange(), clip=1.0)
        return objective_of(denoiser, loss, num_classes), sampler

    pixels, cond = data(image, num_classes)
    x = steps_and_samples(net, engine, coding(pixels, S), **cond)
    assert x.shape == (4, *event)
    assert x.isfinite().all()


@every_backbone
def test_half_precision_keeps_the_checks_and_the_padding(backbone):
    net = small(backbone, (1, 28, 28), (1, 1), CLASSES)
    half, c = HalfPrecision(net), torch.zeros(2)
    assert half(torch.zeros(2, 1, 28, 28), c, y=torch.tensor([0, CLASSES])).dtype == torch.float32
    with pytest.raises(ValueError, match=r"y has the value 4, expected 0 .. 3"):
        half(torch.zeros(2, 1, 28, 28), c, y=torch.tensor([0, 4]))
    if net.img_size is None:
        assert half(torch.zeros(2, 1, 27, 30), c).shape == (2, 1, 27, 30)
    else:
        with pytest.raises(ValueError, match=r"x has shape \(2, 1, 32, 32\), expected \(B, 1, 28, 28\)"):
            half(torch.zeros(2, 1, 32, 32), c)
