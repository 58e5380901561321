"""What is infinite or not a number is refused where it arises, in both engines, and the error says where that was."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from continuous_diffusion import samplers as continuous_samplers
from diffusion_core import ConstantScale, Inpainting, NotFiniteError, Objective, Sampler, UniformGrid, UniformTimes
from diffusion_core.distributions import Categorical, Mixture, TruncatedLogistic
from discrete_diffusion import rates, schedules
from discrete_diffusion import samplers as discrete_samplers

from .losses import losses_of

VALUES = 4
SHAPE = (2, 3)
GRID = UniformGrid(4, 0.2)  # the times 1, 0.8, 0.6, 0.4, 0.2
NETWORK = r"^the network's output at t = 0\.6 is not finite$"


class Spoiled(nn.Module):
    """A network that answers 0, but from t = 0.6 on `value` in one place of the last example."""

    conditions: ClassVar[dict[str, int]] = {"y": 2}

    def __init__(self, *width: int, value: float = math.nan, channels: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.shape, self.value = (channels, SHAPE[1], *width), value

    def forward(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        out = torch.zeros(len(x), *self.shape) + self.weight * 0
        spoiled = out.detach().clone()
        spoiled[-1, 0, 0] = torch.tensor([self.value, *[0.0] * (VALUES - 1)] if len(self.shape) > 2 else self.value)
        return torch.where(c.reshape(-1, *[1] * len(self.shape)) < 0.6 + 1e-6, out + spoiled, out)


def gaussian(learned: bool = False, **settings: Any) -> Any:
    process = continuous.GaussianProcess(continuous.CosineSchedule(), continuous.PixelScale(VALUES))
    denoiser = continuous.EpsilonDenoiser(process, Spoiled(channels=4 if learned else 2, **settings), SHAPE)
    return continuous.LearnedVarianceDenoiser(denoiser) if learned else denoiser


def chain(parameterisation: Callable[..., Any] = discrete.LeaveOneOutDenoiser, **settings: Any) -> Any:
    mask = parameterisation is discrete.AbsorbingDenoiser
    matrix: rates.RateMatrix = rates.AbsorbingRates(VALUES) if mask else rates.UniformRates(VALUES)
    process = discrete.CTMC(matrix, schedules.LinearSurvival() if mask else schedules.Constant(3.0))
    return parameterisation(process, Spoiled(VALUES, **settings), SHAPE)


def samplers(module: Any, denoiser: Any) -> dict[str, Sampler]:
    """Every sampler that a package exports, around a denoiser."""
    classes = [cls for cls in (getattr(module, name) for name in module.__all__) if inspect.isclass(cls)]
    chosen = [cls for cls in classes if issubclass(cls, Sampler) and not inspect.isabstract(cls)]
    given = {"denoiser": denoiser, "grid": GRID, "predictor": module.Ancestral(denoiser, GRID)}
    if module is discrete_samplers:
        given["corrector"] = module.ForwardBackward(denoiser)
    if isinstance(denoiser, discrete.AbsorbingDenoiser):
        chosen.remove(discrete_samplers.MidpointTauLeaping)  # it refuses a mask
    takes = {cls: given.keys() & inspect.signature(cls).parameters.keys() for cls in chosen}
    return {cls.__name__: cls(**{name: given[name] for name in takes[cls]}) for cls in chosen}


GAUSSIAN, DISCRETE = [*samplers(continuous_samplers, gaussian())], [*samplers(discrete_samplers, chain())]


def test_every_sampler_is_among_those_tested():
    assert set(GAUSSIAN) >= {"Ancestral", "DDIM", "Heun"}
    assert set(DISCRETE) >= {"Ancestral", "Euler", "MidpointTauLeaping", "PredictorCorrector", "TauLeaping"}


PARAMETERISATIONS = [discrete.LeaveOneOutDenoiser, discrete.X0Denoiser, discrete.AbsorbingDenoiser]
PAIRS = [(cls, name) for cls in PARAMETERISATIONS for name in samplers(discrete_samplers, chain(cls))]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussian_samplers_name_the_network_and_the_time(name, value, learned):
    for given in ({}, {"seeds": range(5)}):
        with pytest.raises(NotFiniteError, match=NETWORK):
            samplers(continuous_samplers, gaussian(learned, value=value))[name].sample(5, **given)
        assert samplers(continuous_samplers, gaussian(learned, value=9.0))[name].sample(5, **given).isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("parameterisation", "name"), PAIRS)
def test_discrete_samplers_name_the_network_and_not_the_grid(name, parameterisation, value):
    with pytest.raises(NotFiniteError, match=NETWORK):
        samplers(discrete_samplers, chain(parameterisation, value=value))[name].sample(5, seeds=range(5))
    excluded = samplers(discrete_samplers, chain(parameterisation, value=-math.inf))[name].sample(5, seeds=range(5))
    assert excluded.max() < VALUES, "a value may have probability 0"


def test_an_encoding_an_inpainting_and_a_given_batch_are_looked_at():
    with pytest.raises(NotFiniteError, match=r"the network's output at t = 0\.2 "):  # upwards, the first time
        continuous.DDIM(gaussian(), GRID).encode(torch.zeros(2, *SHAPE))
    known = torch.tensor([True, False, False]).expand(SHAPE)
    for engine, denoiser, x_0 in (
        (continuous_samplers, gaussian(), torch.zeros(SHAPE)),
        (discrete_samplers, chain(), torch.zeros(SHAPE, dtype=torch.int64)),
    ):
        with pytest.raises(NotFiniteError, match=NETWORK):
            Inpainting(engine.Ancestral(denoiser, GRID), x_0, known, resample=2).sample(3)
    x = torch.zeros(2, *SHAPE)
    x[1, 0, 0] = math.inf

    def through(x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        return x

    denoiser = continuous.EpsilonDenoiser(gaussian().process, through, SHAPE)
    with pytest.raises(NotFiniteError, match=r"^x_t at t = 1 is not finite$"):
        continuous.Heun(denoiser, GRID).sample(x)


@pytest.mark.parametrize("guided", [continuous.ClassifierFreeGuidance, discrete.PosteriorGuidance, discrete.RateGuidance])
def test_guidance_without_a_classifier_names_the_network(guided):
    engine, denoiser = (continuous_samplers, gaussian()) if guided.__module__.startswith("c") else (discrete_samplers, chain())
    for walker in samplers(engine, guided(denoiser, ConstantScale(2.0))).values():
        with pytest.raises(NotFiniteError, match=NETWORK):
            walker.sample(3, y=torch.tensor([0, 1, 1]))


def classifier(x: Tensor, c: Tensor, answer: float) -> Tensor:
    """Two classes; from t = 0.6 on the first has a logit of its own."""
    late = (c < 0.6 + 1e-6)[:, None]
    logits = torch.zeros(len(x), 2) + 0 * x.flatten(1).sum(1, keepdim=True)
    spoiled = torch.cat([answer + x.flatten(1).sum(1, keepdim=True), torch.zeros(len(x), 1)], 1)
    return torch.where(late, spoiled, logits)


CLASSIFIED = [continuous.ClassifierGuidance, discrete.ClassifierGuidance, discrete.TaylorClassifierGuidance]


@pytest.mark.parametrize("guided", CLASSIFIED)
@pytest.mark.parametrize("answer", [math.nan, math.inf])
def test_a_classifier_is_named_rather_than_the_network(guided, answer):
    engine, denoiser = (
        (continuous_samplers, gaussian(value=0.0))
        if guided.__module__.startswith("c")
        else (discrete_samplers, chain(value=0.0))
    )
    walker = engine.Ancestral(guided(denoiser, partial(classifier, answer=answer), ConstantScale(2.0)), GRID)
    with pytest.raises(NotFiniteError, match=r"^the classifier's output at t = 0\.6 is not finite$"):
        walker.sample(3, y=torch.tensor([0, 1, 1]))
    fine = guided(denoiser, partial(classifier, answer=0.0), ConstantScale(2.0))
    assert engine.Ancestral(fine, GRID).sample(3, y=torch.tensor([0, 1, 1])).isfinite().all()


@pytest.mark.parametrize("guided", [continuous.ClassifierGuidance, discrete.TaylorClassifierGuidance])
def test_a_slope_that_is_not_finite_is_the_classifier_s(guided):
    engine, denoiser = (
        (continuous_samplers, gaussian(value=0.0))
        if guided.__module__.startswith("c")
        else (discrete_samplers, chain(value=0.0))
    )

    def root(x: Tensor, c: Tensor) -> Tensor:
        """A finite logit whose slope is infinite."""
        return torch.stack([(x.flatten(1).sum(1) * 0).abs().sqrt(), torch.zeros(len(x))], 1)

    with pytest.raises(NotFiniteError, match=r"^the slope of the classifier's log p\(y \| x, t\) at t = 1 is not finite$"):
        engine.Ancestral(guided(denoiser, root, ConstantScale(2.0)), GRID).sample(3, y=torch.tensor([0, 1, 1]))


@pytest.mark.parametrize("engine", [continuous, discrete])
def test_a_likelihood_is_refused_and_a_training_step_is_not(engine):
    """A gradient that is not finite is for the training loop to skip: nothing is looked at on its way."""
    denoiser = gaussian() if engine is continuous else chain()
    x_0 = torch.zeros(8, *SHAPE, dtype=torch.int64)
    x_0 = denoiser.process.pixels.encode(x_0) if engine is continuous else x_0
    with pytest.raises(NotFiniteError, match="the network's output at t = "):
        engine.bits_per_dim(denoiser, x_0, draws=4)
    objective = Objective(denoiser, engine.ELBO(), UniformTimes(0.1, 0.5))
    loss = losses_of(objective, x_0)
    assert loss.requires_grad
    assert loss[-1].isnan()
    with torch.no_grad(), pytest.raises(NotFiniteError, match="the network's output at t = "):
        losses_of(objective, x_0)


def test_decoding_refuses_nan_and_gives_infinities_to_the_end_bins():
    scale = continuous.PixelScale(16)
    assert scale.decode(torch.tensor([-math.inf, -1e30, -1.0, 0.0, 0.999, 1.0, 1e30, math.inf])).tolist() == [
        0,
        0,
        0,
        8,
        15,
        15,
        15,
        15,
    ]
    with pytest.raises(ValueError, match=r"^x contains nan, expected numbers that are not NaN$"):
        scale.decode(torch.tensor([math.nan, 0.0, math.nan]))


def test_a_distribution_knows_which_examples_are_undefined():
    odd = torch.tensor([0.0, math.nan, math.inf, -math.inf])
    logits = torch.zeros(4, 3, VALUES)
    logits[:, 1, 2] = odd
    assert Categorical(logits).defined().tolist() == [True, False, False, True]
    assert Categorical(torch.full((1, 3, VALUES), -math.inf)).defined().tolist() == [False]
    place = torch.zeros(4, 3)
    place[:, 1] = odd
    logistic = partial(TruncatedLogistic, num_values=VALUES)
    assert logistic(place, torch.zeros(4, 3)).defined().tolist() == [True, False, False, False]
    parts = [logistic(torch.zeros(4, 3), torch.zeros(4, 3)), logistic(torch.zeros(4, 3), torch.zeros(4, 3))]
    assert Mixture(torch.stack([place, torch.zeros(4, 3)]), parts).defined().tolist() == [True, False, False, True]
    assert Mixture(torch.zeros(2, 4, 3), [parts[0], logistic(place, torch.zeros(4, 3))]).defined().tolist() == [
        True,
        *[False] * 3,
    ]
    assert Categorical(torch.zeros(0, 3, VALUES)).defined().shape == (0,)
    for read in ("sample", "mode"):
        arguments = [torch.full((4, 3), 0.5)] if read == "sample" else []
        with pytest.raises(ValueError, match="a location or a scale is NaN"):
            getattr(logistic(place, torch.zeros(4, 3)), read)(*arguments)
    assert logistic(odd[[0, 2, 3], None], torch.zeros(3, 1)).mode().flatten().tolist() == [2, VALUES - 1, 0]


def test_where_values_cannot_be_read_nothing_is():
    with FakeTensorMode():
        assert continuous.Ancestral(gaussian(), GRID).sample(2).shape == (2, *SHAPE)
        assert continuous.PixelScale(16).decode(torch.zeros(3)).dtype == torch.int64
