"""A configuration builds its time grid and its sampler, with guidance and a corrector."""

from __future__ import annotations

import pytest

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from ctdiff import config as configuration
from ctdiff import recipe
from ctdiff.recipe.schema import alternatives
from diffusion_core import (
    ConstantScale,
    CosineGrid,
    IntervalScale,
    PowerCosineScale,
    QuadraticGrid,
    RespacedGrid,
    UniformGrid,
)
from discrete_diffusion import samplers

from ..small import small
from .parts import denoiser_of, draw

GRIDS = {"uniform": UniformGrid, "quadratic": QuadraticGrid, "cosine": CosineGrid}


def test_grids():
    for name, grid in GRIDS.items():
        config = small("mnist", sampler__grid__name=name, process__t_max=0.9)
        assert recipe.build_grid(config) == grid(3, 5e-4, 0.9)
        assert recipe.build_grid(config, steps=7) == grid(7, 5e-4, 0.9)
        own = small("mnist", sampler__grid__name=name, sampler__t_min=0.1, sampler__t_max=0.7)
        assert recipe.build_grid(own) == grid(3, 0.1, 0.7)
        assert recipe.build_grid(configuration.changed(own, {"sampler.name": "euler"})) == grid(3, 0.1, 0.7)
    respaced = small("mnist_ddpm", sampler__grid__name="respaced", process__T=50)
    assert recipe.build_grid(respaced, steps=7) == RespacedGrid(7, 50)
    ends = {"sampler__grid__bounded_log_snr__log_snr_max": 6.0, "sampler__grid__bounded_log_snr__log_snr_min": -7.0}
    bounded = small("mnist_ddpm", sampler__grid__name="bounded_log_snr", **ends)
    schedule = recipe.build_process(bounded).schedule
    assert recipe.build_grid(bounded) == continuous.BoundedLogSNRGrid(3, schedule, 6.0, -7.0)


@pytest.mark.parametrize(
    ("preset", "settings", "expected"),
    [
        ("mnist", {}, 0.999),
        ("mnist_uniform", {}, 0.999),
        ("mnist", {"process__t_max": 0.9}, 0.9),
        ("mnist", {"process__t_max": 0.99999999}, 0.999),  # a rate above 1e6
        ("mnist", {"process__schedule__name": "exponential"}, 1.0),
        ("mnist", {"process__schedule__name": "log_linear", "process__schedule__log_linear__eps": 0.0}, 0.999),
        ("mnist_absorbing", {}, 1.0),  # an infinite rate, whose reverse rates are finite
        ("mnist", {"sampler__t_max": 1.0}, 1.0),  # who asks for it, gets it
    ],
)
def test_samplers_that_step_by_rates_begin_where_they_are_finite(preset, settings, expected):
    config = small(preset, **settings)
    found = alternatives(samplers.Sampler, frozenset({"denoiser", "grid"}))
    assert {name for name, cls in found.items() if cls.steps_by_rates} >= {"euler", "tau_leaping"}
    for name, cls in found.items():
        if (preset, name) == ("mnist_absorbing", "midpoint_tau_leaping"):  # it refuses a mask
            continue
        changed = configuration.changed(config, {"sampler.name": name})
        end = expected if cls.steps_by_rates else config.sampler.t_max or config.process.t_max
        assert recipe.build_grid(changed).t_max == recipe.build_sampler(changed, denoiser_of(config)).grid.t_max == end


def test_the_chain_of_a_bound_ends_at_its_last_step():
    for grid in ("uniform", "quadratic", "respaced"):
        assert recipe.build_grid(small("mnist_iddpm", sampler__grid__name=grid)).t_min == 1 / 4000
    assert recipe.build_grid(small("mnist_iddpm", sampler__grid__name="uniform", sampler__t_min=0.01)).t_min == 0.01


@pytest.mark.parametrize("name", ["ancestral", "euler", "tau_leaping"])
@pytest.mark.parametrize("leap", ["none", "bernoulli", "categorical", "ordinal"])
def test_discrete_samplers(name, leap):
    own = {"sampler__tau_leaping__leap__name": leap} if name == "tau_leaping" else {}
    draw(small("mnist_uniform", sampler__name=name, **own), 2)
    correction = {"sampler__corrector__name": "forward_backward", "sampler__corrector__forward_backward__leap__name": leap}
    draw(small("mnist_uniform", sampler__name=name, **own, **correction))


def test_settings_of_samplers_arrive():
    corrector = {"name": "forward_backward", "corrector_steps": 2, "step_multiplier": 0.5, "entry_time": 0.3}
    config = small(
        "mnist",
        sampler__name="tau_leaping",
        sampler__argmax=True,
        sampler__sub_batch=5,
        **{f"sampler__corrector__{key}": value for key, value in corrector.items()},
    )
    sampler = recipe.build_sampler(config, denoiser_of(config))
    assert type(sampler) is samplers.PredictorCorrector
    assert (sampler.corrector_steps, sampler.step_multiplier, sampler.entry_time) == (2, 0.5, 0.3)
    assert type(sampler.predictor) is samplers.TauLeaping
    assert (sampler.argmax, sampler.sub_batch) == (True, 5)
    assert type(sampler.corrector) is samplers.ForwardBackward
    assert type(sampler.corrector.leap) is samplers.OrdinalLeap
    assert sampler.corrector.denoiser is sampler.predictor.denoiser
    uncorrected = configuration.changed(config, {"sampler.corrector.name": "none"})
    assert type(recipe.build_sampler(uncorrected, denoiser_of(config))) is samplers.TauLeaping


def test_correctors_begin_with_short_leaps():
    config = small("mnist", sampler__corrector__name="forward_backward")
    assert config.sampler.corrector.step_multiplier == 0.25


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.4])
def test_samples_are_drawn_with_the_evidence_floor(floor):
    config = small("mnist", sampler__evidence_floor=floor)
    denoiser = denoiser_of(config)
    sampled = recipe.build_sampler(config, denoiser).denoiser
    assert (sampled.evidence_floor, type(sampled)) == (floor, discrete.X0Denoiser)
    assert sampled.network is denoiser.network
    plain = discrete.X0Denoiser(denoiser.process, denoiser.network, denoiser.event_shape)
    assert denoiser.evidence_floor == plain.evidence_floor  # what is trained has none of it


@pytest.mark.parametrize(
    ("name", "floor"), [("gaussian_target", 0.1), ("birth_death", 0.1), ("uniform", 0.0), ("absorbing", 0.0)]
)
def test_only_rates_with_short_jumps_have_an_evidence_floor_by_default(name, floor):
    config = small("mnist", process__rates__name=name, process__schedule__name="exponential")
    assert config.sampler.evidence_floor is None
    denoiser = denoiser_of(config)
    assert recipe.engine_of(config).scored(config, denoiser).evidence_floor == floor
    expected = {("ancestral", "none"): 0, ("tau_leaping", "none"): floor, ("ancestral", "forward_backward"): floor}
    for (sampler, corrector), value in expected.items():
        config = configuration.changed(config, {"sampler.name": sampler, "sampler.corrector.name": corrector})
        assert recipe.build_sampler(config, denoiser).denoiser.evidence_floor == value
    config = configuration.changed(config, {"sampler.corrector.corrector_steps": 0})  # the corrector never moves
    assert recipe.build_sampler(config, denoiser).denoiser.evidence_floor == 0


VARIANCES = {
    "fixed_small": continuous.FixedSmall,
    "fixed_large": continuous.FixedLarge,
    "learned_range": continuous.LearnedRange,
}


@pytest.mark.parametrize("variance", VARIANCES)
def test_gaussian_samplers(variance):
    preset = "mnist_iddpm" if variance == "learned_range" else "mnist_ddpm"
    own = {"sampler__ddim__variance__name": variance, "sampler__ddim__eta": 0.5}
    config = small(preset, sampler__name="ddim", sampler__clip="none", **own)
    draw(config)
    sampler = recipe.build_sampler(config, denoiser_of(config))
    assert type(sampler) is continuous.DDIM
    assert (sampler.eta, sampler.clip, type(sampler.variance)) == (0.5, None, VARIANCES[variance])
    ancestral = small(preset, sampler__ancestral__variance__name=variance)
    assert type(recipe.build_sampler(ancestral, denoiser_of(ancestral)).variance) is VARIANCES[variance]
    assert recipe.build_sampler(ancestral, denoiser_of(ancestral)).clip == 1.0
    draw(ancestral)
    draw(ancestral, name="heun")


SCALES = {
    "constant": ConstantScale(1.5),
    "interval": IntervalScale(1.5, 0.2, 0.8),
    "power_cosine": PowerCosineScale(1.5, 4.0),
}
FORMS = {"posterior": discrete.PosteriorGuidance, "rate": discrete.RateGuidance}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("preset", "form"), [("mnist_guided", None), *(("mnist_guided_discrete", form) for form in FORMS)])
def test_guidance(preset, form, scale):
    own = {} if form is None else {"sampler__guidance_form__name": form}
    config = small(preset, sampler__guidance__g=1.5, sampler__guidance__name=scale, **own)
    denoiser = denoiser_of(config).eval()
    guided = recipe.build_sampler(config, denoiser).denoiser
    assert type(guided) is FORMS.get(form, continuous.ClassifierFreeGuidance)
    assert guided.denoiser.network is denoiser.network
    assert guided.null == {"y": 10}
    assert guided.scale == SCALES[scale]
    draw(config)
    if form is not None:
        draw(config, name="tau_leaping")
    plain = small(preset, sampler__guidance__g=1.0)
    assert type(recipe.build_sampler(plain, denoiser).denoiser) is type(denoiser)


@pytest.mark.parametrize(("name", "begins"), [("score", 0.999), ("leave_one_out", 0.999), ("x0", 0.999), ("absorbing", 1.0)])
def test_with_a_mask_samplers_by_rates_begin_where_rates_are_finite(name, begins):
    config = small("mnist_absorbing", model__parameterisation__name=name, loss__name="elbo", sampler__name="euler")
    assert recipe.build_grid(config).t_max == begins
    draw(config)
