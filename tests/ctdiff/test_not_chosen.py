"""Settings of what is not chosen: refused where they are typed, checked and dropped in a preset."""

from __future__ import annotations

import pytest

from ctdiff import config as configuration
from ctdiff.config import ConfigError


def test_a_corrector_can_be_taken_away():
    config = configuration.load("mnist", ["--config.sampler.corrector.name=forward_backward"])
    configuration.override(config, ["--config.sampler.corrector.name=none"])
    assert config.sampler.corrector.to_dict() == {"name": "none"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"corrector": {"entry_time": 7}}, r"config.sampler.corrector.entry_time = 7, expected a number in \[0, 1\]"),
        ({"grid": {"uniform": {"x": 1}}}, "config.sampler.grid.uniform.x is not a key: uniform has no settings"),
        ({"grid": {"name": "quadratic", "uniform": {"x": 1}}}, "uniform.x is not a key: uniform has no settings"),
    ],
)
def test_a_preset_is_checked_where_nothing_is_chosen(given, message):
    with pytest.raises(ConfigError, match=message):
        configuration.complete({"sampler": given})


@pytest.mark.parametrize("given", [{"corrector": {"entry_time": 0.5}}, {"grid": {"uniform": {}}}, {"grid": {"quadratic": {}}}])
def test_a_preset_may_say_what_is_not_chosen(given):
    assert configuration.complete({"sampler": given}) == configuration.complete({})


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("corrector.entry_time=0.5", "cannot act: config.sampler.corrector.name = 'none', expected 'forward_backward'"),
        ("grid.uniform.x=1", "config.sampler.grid.uniform.x is not a key: uniform has no settings"),
        (
            "tau_leaping.leep=3",
            r"config.sampler.tau_leaping.leep is not a key, expected one of leap, initial\. Did you",
        ),
        ("guidance.g=2", "config.sampler.guidance.g = 2, expected 1.0: config.model.num_classes = 0"),
    ],
)
def test_what_is_typed_has_to_act(typed, message):
    with pytest.raises(ConfigError, match=message):
        configuration.load("mnist", [f"--config.sampler.{typed}"])


def test_an_argument_that_has_to_be_given_is_missing_only_where_it_is_chosen():
    given = {"data": {"array": {"test_fraction": 0.3}}}
    assert configuration.complete(given) == configuration.complete({})
    with pytest.raises(ConfigError, match=r"config\.data\.array\.path is missing"):
        configuration.complete({"data": {"name": "array", **given["data"]}})
    with pytest.raises(ConfigError, match=r"test_fraction = 0\.3 cannot act: config\.data\.name = 'embedded_mnist'"):
        configuration.load("mnist", ["--config.data.array.test_fraction=0.3"])


def test_one_change_of_several_configurations():
    both = [configuration.load("mnist"), configuration.load("mnist_ddpm")]
    own = [["--config.sampler.name=euler"], ["--config.sampler.name=ddim"]]
    configuration.override_each(both, ["--config.sampler.ddim.eta=0.5", "--config.sampler.steps=7"], own)
    assert [(config.sampler.name, config.sampler.steps) for config in both] == [("euler", 7), ("ddim", 7)]
    assert both[1].sampler.ddim.eta == 0.5
    for arguments, mine, message in (
        (["--config.sampler.heun.x=1"], own, "config.sampler.heun.x is not a key: heun has no settings"),
        (["--config.sampler.name=ddim"], [[], []], "config.sampler.name = 'ddim', expected one of ancestral, euler"),
        ([], [["--config.sampler.ddim.eta=1"], []], "config.sampler.ddim.eta is not a key"),
    ):
        with pytest.raises(ConfigError, match=message):
            configuration.override_each(both, arguments, mine)
