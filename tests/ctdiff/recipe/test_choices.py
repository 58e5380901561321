"""Every choice of a configuration builds its object, in every combination that trains."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

import continuous_diffusion as continuous
from ctdiff import config as configuration
from ctdiff import recipe
from ctdiff.recipe.engine import tree
from diffusion_core import (
    UniformGrid,
)

from ..small import small
from .parts import denoiser_of, draw, step
from .places import CHOICES, choices

ROOT = Path(__file__).resolve().parents[3]

LEARNED = {"process.t_min": 0.0, "loss.name": "hybrid", "model.learned_variance": True}
BOUNDED = {"sampler.grid.name": "bounded_log_snr"}
GIVEN = {
    "data.array": {"data.array.path": "images.npy"},
    "data.folder": {"data.folder.path": "images"},
    "data.idx": {"data.idx.path": "images"},
    "model.diffit": {"model.diffit.windows": (2, 0)},
    "loss.times.piecewise": {"loss.times.piecewise.edges": (0.001, 0.5, 1.0)},
    "process.rates.birth_death": {"process.rates.birth_death.scale": 6.57},  # the slowest mode decays at rate 1
    "process.rates.gaussian_target": {"process.rates.gaussian_target.scale": 0.192},
    "model.parameterisation.score": {"sampler.name": "euler"},
    "sampler.guidance.interval": {"model.num_classes": 10, "sampler.guidance.g": 2.0},
    "sampler.guidance.power_cosine": {"model.num_classes": 10, "sampler.guidance.g": 2.0},
    "sampler.grid.custom": {"sampler.grid.custom.points": (0.999, 0.4, 0.001)},
    "process.schedule.laplace": BOUNDED,
    "process.schedule.cauchy": BOUNDED,
    "process.schedule.rectified": {"model.parameterisation.name": "flow", "loss.name": "flow_matching"},
    "loss.vlb": {"process.t_min": 0.0},
    "loss.ct_elbo": {"process.t_max": 0.99},  # linear survival: tau(1) is infinite
    "loss.hybrid": LEARNED,
    "sampler.ancestral.variance.learned_range": LEARNED,
    "sampler.ddim.variance.learned_range": LEARNED,
}
"""What a choice needs beside itself."""

LEFT_OUT = "expected a density that covers -19.84 to 10.09, the log-SNR of the schedule"
REFUSED = {
    "model.parameterisation.absorbing": "process.rates is a UniformRates, expected AbsorbingRates",
    **{f"loss.times.log_snr.density.{name}": LEFT_OUT for name in ("linear", "quadratic", "shifted_cosine", "sigmoid")},
}
"""Choices that the rest of the small configurations does not allow, and why."""

SMALL = {engine: small({"discrete": "mnist_uniform", "gaussian": "mnist_ddpm"}[engine]) for engine in recipe.engines()}
EVERY_CHOICE = [
    pytest.param(engine, key, name, given, id=f"{engine} {key} {name}")
    for engine in SMALL
    for key, name, given in choices(tree(engine))
]


def _is_of_the_library(error):
    """Whether a refusal is a constructor's, not the recipe's; or a value is missing that has no default."""
    last = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1].filename
    return ROOT / "ctdiff" / "recipe" not in Path(last).parents or " is missing: " in str(error)


@pytest.mark.parametrize(("engine", "key", "name", "given"), EVERY_CHOICE)
def test_every_choice_trains_and_samples_or_says_why_not(engine, key, name, given):
    changes = {**given}
    for each, chosen in given.items():
        changes |= GIVEN.get(f"{each.removesuffix('.name')}.{chosen}", {})
    told = None
    try:
        config = configuration.changed(SMALL[engine], changes)
        configuration.check(config)
        if not key.startswith("data"):
            denoiser = denoiser_of(config)
            step(config, denoiser)
            draw(config, 2, denoiser)
    except ValueError as error:
        told = error
    reason = REFUSED.get(f"{key}.{name}")
    if told is None:
        assert reason is None
    else:  # of a class that is new, either will do
        assert _is_of_the_library(told), told
        assert reason in str(told) if reason else name not in CHOICES[engine].get(key, "").split(), told


def test_what_cannot_be_chosen_there_is():
    assert set(REFUSED) <= {f"{each.values[1]}.{each.values[2]}" for each in EVERY_CHOICE}


def test_what_is_made_of_defaults_equals_what_python_makes():
    T, schedule, grid = 40, continuous.CosineSchedule(40), UniformGrid(39, 1 / 40)
    config = small("mnist_ddpm", process__T=T)
    wires = recipe.engine_of(config).wires(config)
    assert wires == {"T": T, "schedule": schedule, "grid": grid}
    for key, expected in {
        "loss": {
            "epsilon": continuous.EpsilonLoss(),
            "x0": continuous.X0Loss(),
            "v": continuous.VelocityLoss(),
            "flow_matching": continuous.FlowMatchingLoss(),
            "elbo": continuous.ELBO(),
            "reconstruction": continuous.Reconstruction(),
            "vlb": continuous.VLB(grid),
            "hybrid": continuous.HybridLoss(bound=continuous.VLB(grid)),
        },
        "process.schedule": {
            "linear": continuous.LinearSchedule(T),
            "cosine": schedule,
            "quadratic": continuous.QuadraticSchedule(T),
            "sigmoid": continuous.SigmoidSchedule(10.0, -10.0),
            "shifted_cosine": continuous.ShiftedCosineSchedule(64.0),
            "laplace": continuous.LaplaceSchedule(0.0, 0.5),
            "cauchy": continuous.CauchySchedule(0.0, 1.0),
        },
    }.items():
        for name, each in expected.items():
            changed = configuration.changed(config, {f"{key}.name": name})
            assert recipe.part(changed, key, **wires) == each, name
