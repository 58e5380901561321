"""A configuration builds its training objective: losses and training times."""

from __future__ import annotations

import math

import pytest
import torch

import continuous_diffusion as continuous
from ctdiff import recipe
from diffusion_core import (
    GridTimes,
    StratifiedTimes,
    UniformGrid,
    UniformTimes,
)

from ...losses import losses_of
from ..small import small
from .parts import denoiser_of, images_of, step
from .places import CHOICES

SCALES = {"gaussian_target": 0.192, "birth_death": 6.57}
"""Scales with which the slowest mode over 8 values decays at rate 1, as the linear schedule expects."""


@pytest.mark.parametrize(
    ("preset", "process"),
    [
        ("mnist_uniform", "uniform"),
        ("mnist_uniform", "gaussian_target"),
        ("mnist_uniform", "birth_death"),
        ("mnist_absorbing", "absorbing"),
    ],
)
def test_discrete_losses(preset, process):
    losses = {}
    for name in CHOICES["discrete"]["loss"].split():
        weight = {"loss__elbo_and_cross_entropy__cross_entropy_weight": 0.5} if name == "elbo_and_cross_entropy" else {}
        if process in SCALES:
            weight[f"process__rates__{process}__scale"] = SCALES[process]
        weight["process__t_max"] = 0.99  # linear survival: ct_elbo needs a finite tau, and all losses the same times
        config = small(preset, process__rates__name=process, loss__name=name, loss__times__name="uniform", **weight)
        losses[name] = step(config)
    expected = losses["elbo"] + 0.5 * losses["cross_entropy"]
    torch.testing.assert_close(losses["elbo_and_cross_entropy"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "changes", "refused"),
    [
        ("mnist", {"loss__name": "cross_entropy"}, None),
        ("mnist", {"loss__name": "elbo"}, "ELBO"),
        ("mnist", {"loss__name": "elbo_and_cross_entropy"}, "ELBO"),
        ("mnist", {"loss__name": "ct_elbo"}, "CTELBO"),
        ("mnist_ddpm", {"loss__name": "epsilon"}, None),
        ("mnist_ddpm", {"loss__name": "elbo"}, "ELBO"),
        ("mnist_ddpm", {"loss__name": "vlb"}, "VLB"),
        ("mnist_iddpm", {"loss__name": "hybrid"}, "VLB"),
    ],
)
def test_bounds_need_times_with_weights(preset, changes, refused):
    times = {"loss__times__name": "piecewise", "loss__times__piecewise__edges": (0.001, 0.5, 1.0)}
    settings = {**changes, **times, "loss__times__piecewise__masses": (1.0, 3.0), "loss__times__piecewise__weighted": False}
    if refused is None:
        assert step(small(preset, **settings)).isfinite().all()
        return
    with pytest.raises(ValueError, match=rf"PiecewiseTimes has weighted = False, expected True: {refused} is an integral"):
        step(small(preset, **settings))


def test_a_bound_is_in_nats_a_dimension():
    config = small("mnist_ddpm", loss__name="vlb", loss__times__name="uniform", process__t_min=0.0)
    assert step(config).mean() < 1e3


DISTANCES = {
    "l2": continuous.SquaredError(),
    "l1": continuous.AbsoluteError(),
    "smooth_l1": continuous.SmoothAbsoluteError(0.5),
}
WEIGHTS = {"unweighted": continuous.Unweighted(), "min_snr": continuous.MinSNR(3.0)}
REGRESSIONS = {"epsilon": continuous.EpsilonLoss, "x0": continuous.X0Loss, "v": continuous.VelocityLoss}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_gaussian_regressions(distance, weight):
    own = {"distance__name": distance, "weight__name": weight}
    own |= {"distance__smooth_l1__beta": 0.5} if distance == "smooth_l1" else {}
    own |= {"weight__min_snr__gamma": 3.0} if weight == "min_snr" else {}
    for name, kind in REGRESSIONS.items():
        config = small("mnist_ddpm", loss__name=name, **{f"loss__{name}__{key}": value for key, value in own.items()})
        loss = recipe.part(config, "loss", **recipe.engine_of(config).wires(config))
        assert loss == kind(DISTANCES[distance], WEIGHTS[weight])
    simple = {f"loss__hybrid__simple__{key}": value for key, value in own.items()}
    config = small("mnist_iddpm", **simple, loss__hybrid__weight=0.1)
    hybrid = recipe.part(config, "loss", **recipe.engine_of(config).wires(config))
    assert hybrid.simple == continuous.EpsilonLoss(DISTANCES[distance], WEIGHTS[weight])
    assert (hybrid.weight, hybrid.bound.grid) == (0.1, UniformGrid(3999, 1 / 4000))
    step(config)


def test_losses_are_sums_over_dimensions():
    # A fresh network is near log S = 2.08 nats a pixel, whatever the size of the image; the weight of a time is 0.1.
    late = {"loss__name": "cross_entropy", "process__t_min": 0.9, "process__rates__uniform__scale": 1.0}
    config, wide = small("mnist_uniform", **late), small("mnist_uniform", **late, data__image_size=(16, 16))
    for candidate in (config, wide):
        pixels = math.prod(recipe.event_shape(candidate))
        assert step(candidate).mean().item() / pixels == pytest.approx(0.208, abs=0.04)


def _times(config):
    return recipe.build_objective(config, denoiser_of(config)).times


def test_times_of_training():
    for name, kind in (("uniform", UniformTimes), ("stratified", StratifiedTimes)):
        assert _times(small("mnist", loss__times__name=name, process__t_min=0.1)) == kind(0.1, 1.0)
    for preset in ("mnist", "mnist_ddpm"):
        config = small(preset, loss__times__name="importance", loss__times__importance__bins=7, process__t_min=0.1)
        times = _times(config)
        assert (times.t_min, times.t_max, len(times.probabilities())) == (0.1, 1.0, 7)
        step(config)
    config = small("mnist_ddpm", loss__times__name="log_snr", loss__times__log_snr__density__laplace__b=3.0)
    assert _times(config).density == continuous.LaplaceSchedule(0.0, 3.0)
    step(config)


def test_times_of_the_bound_are_those_of_the_chain():
    config = small("mnist", process__t_min=0.1)
    assert recipe.engine_of(config).bound_times(config) == StratifiedTimes(0.1, 1.0)
    config = small("mnist_ddpm", process__T=50)
    times = recipe.engine_of(config).bound_times(config)
    assert (type(times), times.grid) == (GridTimes, UniformGrid(49, 1 / 50))
    config = small("mnist_laplace", process__T=50)
    grid = continuous.BoundedLogSNRGrid(49, recipe.build_process(config).schedule, 9.0, -9.0)
    assert recipe.engine_of(config).bound_times(config).grid == grid


@pytest.mark.parametrize("preset", ["mnist", "mnist_ddpm"])
def test_labels(preset):
    config = small(preset, model__num_classes=10, loss__label_dropout=0.5)
    objective = recipe.build_objective(config, denoiser_of(config))
    assert (objective.label_dropout, objective.null) == (0.5, {"y": 10})
    x_0, cond = recipe.build_batches(config, images_of(config))[0]
    assert set(cond) == {"y"}
    assert losses_of(objective, x_0, **cond).shape == (4,)
    assert recipe.build_batches(small(preset), images_of(config))[0][1] == {}
    with pytest.raises(ValueError, match=r"10 classes, config\.model\.num_classes = 9"):
        recipe.build_data(small(preset, model__num_classes=9))
