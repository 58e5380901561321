"""Values that can be built but cannot be meant: rates that the schedule does not fit, and settings of no effect."""

from __future__ import annotations

import math
import re

import pytest
import torch
from ml_collections import ConfigDict

from ctdiff import config as configuration
from ctdiff import recipe
from ctdiff.config import ConfigError


def _said(config):
    """What is said about a configuration after the value, by key."""
    return dict(recipe.engine_of(config).advice(config))


def _advice(preset, **changes):
    """What is said about a preset with changes."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return _said(configuration.changed(configuration.load(preset), changes))


@pytest.mark.parametrize("preset", configuration.preset_names())
def test_there_is_nothing_to_say_about_a_preset(preset):
    assert _said(configuration.load(preset)) == {}


# Rates and their schedule


@pytest.mark.parametrize("values", [2, 16, 64, 100])
def test_another_number_of_values_needs_another_scale_and_is_told_which(values):
    key, setting = "process.rates.gaussian_target.scale", f"--config.data.num_values={values}"
    with pytest.raises(ConfigError, match=rf"^config\.{re.escape(key)} = 47\.8, expected about ") as told:
        configuration.load("mnist", [setting])
    scale = re.search(r"expected about ([\d.e+-]+):", str(told.value)).group(1)
    config = configuration.load("mnist", [setting, f"--config.{key}={scale}"])
    # What the slowest mode keeps at t, the second eigenvalue of P_tau, is what the schedule says.
    process = recipe.build_process(config)
    for t in (0.2, 0.5, 0.8):
        _, tau = process.schedule(torch.tensor(t, dtype=torch.float64))
        kept = torch.linalg.eigvals(process.rates.transition(tau)).real.sort().values[-2].item()
        assert kept == pytest.approx(1 - t, rel=0.01)


def test_the_preset_fits_its_own_number_of_values():
    config = configuration.load("mnist")
    assert (config.data.num_values, config.process.rates.gaussian_target.scale) == (256, 47.8)
    key = "process.rates.gaussian_target.scale"
    said = _said(configuration.changed(config, {key: 1000.0}))
    assert said == {
        key: ", expected about 47.8: the slowest mode of gaussian_target over config.data.num_values = "
        "256 would decay at 20.9 times the rate that config.process.schedule.name = 'linear' is made for, and most "
        "noise levels would hardly be trained on"
    }


@pytest.mark.parametrize("values", [2, 3, 8])
@pytest.mark.parametrize("name", ["gaussian_target", "uniform", "birth_death"])
def test_every_rate_matrix_that_is_scaled_is_looked_at(name, values):
    # Of two values, a Gaussian's are a pair that exchanges at rate 1 in both directions.
    gaussian = {2: 2.0, 3: 2.945, 8: 5.21}[values]
    slowest = {"gaussian_target": gaussian, "uniform": 1.0, "birth_death": 2 - 2 * math.cos(math.pi / values)}[name]
    key = f"process.rates.{name}.scale"
    for factor, fits in ((0.2, False), (0.3, True), (1.0, True), (3.9, True), (4.1, False)):
        changes = {"data__num_values": values, "process__rates__name": name, key.replace(".", "__"): factor / slowest}
        for schedule in ("linear", "cosine", "cosine_amplitude"):
            assert (_advice("mnist", **changes, process__schedule__name=schedule) == {}) == fits, (factor, schedule)
        assert _advice("mnist", **changes, process__schedule__name="exponential") == {}


def test_rates_without_a_scale_have_none_that_could_fit():
    assert _advice("mnist_absorbing", process__schedule__name="cosine_amplitude") == {}


# What cannot act


@pytest.mark.parametrize(
    ("preset", "changes", "said"),
    [
        (
            "mnist_unet",
            {"sampler.evidence_floor": 0.2},
            "config.sampler.evidence_floor = 0.2 cannot act, expected none: "
            "config.model.parameterisation.name = 'leave_one_out'",
        ),
        (
            "mnist_iddpm",
            {"sampler.t_min": 0.01},
            "config.sampler.t_min = 0.01 cannot act, expected none: config.sampler.grid.name = 'respaced' has ends of its own",
        ),
        (
            "mnist_laplace",
            {"sampler.t_max": 0.9},
            "config.sampler.t_max = 0.9 cannot act, expected none: "
            "config.sampler.grid.name = 'bounded_log_snr' has ends of its own",
        ),
        *(
            (
                preset,
                {"sampler.guidance.g": 1.5},
                "config.sampler.guidance.g = 1.5, expected 1.0: config.model.num_classes = 0, and guidance needs a network "
                "that was trained with labels",
            )
            for preset in ("mnist", "mnist_ddpm")
        ),
    ],
)
def test_settings_that_cannot_act_are_refused(preset, changes, said):
    config = configuration.load(preset)
    with pytest.raises(ConfigError) as told:
        configuration.check(configuration.changed(config, changes))
    assert str(told.value) == said
    assert [*_said(configuration.changed(config, changes))] == [*changes]


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("mnist_unet", {"sampler.evidence_floor": None}),
        ("mnist", {"sampler.evidence_floor": 0.2}),
        ("mnist_laplace", {"sampler.grid.name": "uniform", "sampler.t_max": 0.99}),
        ("mnist_guided_discrete", {"sampler.guidance.g": 1.0, "sampler.guidance_form.name": "rate"}),
        ("mnist_guided", {"sampler.guidance.g": 0.0}),
        ("mnist", {"sampler.guidance.g": 1.0}),
        ("mnist_ddpm", {"sampler.t_min": 0.01}),
        ("mnist_iddpm", {"loss.name": "vlb"}),  # which teaches a variance, but needs none
        ("mnist_ddpm", {"loss.name": "vlb", "process.t_min": 0.0}),
    ],
)
def test_settings_that_may_act_are_not(preset, changes):
    config = configuration.changed(configuration.load(preset), changes)
    assert _said(config) == {}
    configuration.check(config)


def test_advice_is_given_on_what_was_asked_for():
    config = configuration.changed(configuration.load("mnist"), {"sampler.guidance.g": 1.5, "data.num_values": 64})
    for asked, key in ((None, "sampler.guidance.g|process.rates"), (["sampler.guidance.g"], "sampler.guidance.g")):
        with pytest.raises(ConfigError, match=rf"^config\.({key})"):
            configuration.check(config, asked)
    harmless = configuration.changed(configuration.load("mnist"), {"data.num_values": 64})
    configuration.check(harmless, ["sampler.steps"])
    assert isinstance(harmless, ConfigDict)
