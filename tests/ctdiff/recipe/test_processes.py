"""A configuration builds its forward process, and what does not fit together is told with its key."""

from __future__ import annotations

import pytest
import torch

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from ctdiff import config as configuration
from ctdiff import recipe
from ctdiff.config import ConfigError
from ctdiff.recipe.schema import alternatives
from discrete_diffusion import rates, schedules

from ..small import small
from .parts import draw, step


@pytest.mark.parametrize("values", [2, 3, 8])
@pytest.mark.parametrize("name", list(alternatives(rates.RateMatrix, frozenset({"num_states", "data_states"}))))
def test_rates(name, values):
    scale = {"birth_death": {2: 0.6, 3: 1.2, 8: 6.0}[values], "gaussian_target": 0.3}.get(name, 1.5)
    settings = {} if name == "absorbing" else {f"process__rates__{name}__scale": scale}
    reading = "absorbing" if name == "absorbing" else "leave_one_out"
    config = small(
        "mnist", process__rates__name=name, data__num_values=values, model__parameterisation__name=reading, **settings
    )
    process = recipe.build_process(config)
    expected = {
        "gaussian_target": rates.GaussianTargetRates,
        "uniform": rates.UniformRates,
        "absorbing": rates.AbsorbingRates,
        "birth_death": rates.BirthDeathRates,
    }
    assert isinstance(process, discrete.CTMC)
    assert type(process.rates) is expected.get(name, type(process.rates))
    assert process.rates.data_states == values
    assert process.rates.num_states == values + (name == "absorbing")
    assert getattr(process.rates, "scale", scale) == scale
    step(config)
    for sampler in recipe.samplers_of("discrete"):
        if (name, sampler) != ("absorbing", "midpoint_tau_leaping"):  # it refuses a mask
            draw(config, name=sampler)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", schedules.Constant(4.0)),
        ("exponential", schedules.Exponential(3.0, 100.0)),
        ("geometric", schedules.Geometric(0.1, 3.0)),
        ("linear", schedules.LinearSurvival()),
        ("log_linear", schedules.LogLinear(1e-3)),
        ("polynomial", schedules.PolynomialSurvival(2.0)),
        ("cosine", schedules.CosineSurvival()),
        ("cosine_amplitude", schedules.CosineAmplitude()),
        ("cosine_root", schedules.CosineRoot(1.0, 0.999)),
        ("log_square", schedules.LogSquare(1.0)),
    ],
)
def test_discrete_schedules(name, expected):
    config = small("mnist", process__schedule__name=name)
    assert recipe.build_process(config).schedule == expected


def test_settings_of_schedules_arrive():
    settings = {"process__schedule__exponential__a": 2.0, "process__schedule__exponential__b": 50.0}
    config = small("mnist", process__schedule__name="exponential", **settings)
    assert recipe.build_process(config).schedule == schedules.Exponential(2.0, 50.0)
    config = small("mnist_laplace", process__schedule__laplace__mu=-1.0)
    assert recipe.build_process(config).schedule == continuous.LaplaceSchedule(-1.0, 1.5)
    config = small("mnist_ddpm", process__schedule__name="linear", process__T=50)
    assert recipe.build_process(config).schedule == continuous.LinearSchedule(50)


@pytest.mark.parametrize("name", ["sigmoid", "shifted_cosine", "laplace", "cauchy", "linear", "cosine", "quadratic"])
def test_gaussian_schedules_train_on_v_and_sample_on_bounded_log_snrs(name):
    own = {"process__schedule__name": name, "process__T": 50, "sampler__grid__name": "bounded_log_snr"}
    config = small("mnist_ddpm", **own, model__parameterisation__name="v", loss__name="v")
    step(config)
    draw(config)


def test_a_gaussian_process_knows_its_pixels():
    config = small("mnist_ddpm")
    process = recipe.build_process(config)
    assert process.pixels == recipe.build_pixels(config) == continuous.PixelScale(8)
    denoiser = recipe.build_denoiser(config, process, recipe.build_network(config)).eval()
    k = torch.randint(8, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    result = continuous.bits_per_dim(denoiser, process.pixels.encode(k), generator=torch.Generator().manual_seed(0))
    assert result.reconstruction >= 0  # of a probability; a density of 8 bins of width 1/4 would be less
    with pytest.raises(ValueError, match="not the centre of a bin"):
        continuous.bits_per_dim(denoiser, torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("preset", "changes", "expected"),
    [
        (
            "mnist_ddpm",
            {"loss.name": "vlb"},
            r"^config\.loss: StratifiedTimes draws times from 0\.001 to 1\.0, expected 0 to 1\.0: VLB is a sum over the steps",
        ),
        (
            "mnist_iddpm",
            {"model.learned_variance": False},
            r"^config\.loss: HybridLoss trains a variance, but EpsilonDenoiser",
        ),
        (
            "mnist_iddpm",
            {"loss.name": "epsilon"},
            r"^config\.loss: EpsilonLoss does not train a variance, but LearnedVarianceDenoiser",
        ),
        (
            "mnist_iddpm",
            {"process.schedule.name": "cauchy"},
            r"^config\.loss: CauchySchedule has log-SNR .* at the start of a chain",
        ),
        ("mnist_ddpm", {"loss.name": "elbo", "process.t_min": 0.0}, r"^config\.loss: .* t_min = 0\.0, .* expected t_min > 0"),
        ("mnist_iddpm", {"process.t_min": 0.01}, r"^config\.loss: .* draws times from 0\.01 to 1\.0, expected 0 to 1\.0"),
        ("mnist_iddpm", {"process.t_max": 0.9}, r"^config\.loss: .* draws times from 0\.0 to 0\.9, expected 0 to 1\.0"),
        (
            "mnist_ddpm",
            {"sampler.ancestral.variance.name": "learned_range"},
            r"^config\.sampler\.ancestral: LearnedRange needs a denoiser with a learned variance",
        ),
        (
            "mnist_absorbing",
            {"sampler.name": "tau_leaping", "sampler.tau_leaping.leap.name": "ordinal"},
            r"^config\.sampler\.tau_leaping: num_states = 17 and data_states = 16, .*Leap .* mask .*Use CategoricalLeap$",
        ),
        (
            "mnist",
            {"process.t_min": 0.6, "process.t_max": 0.5},
            r"^config\.process: t_min = 0\.6, t_max = 0\.5: expected 0 <= t_min < t_max <= 1$",
        ),
        (
            "mnist",
            {"sampler.t_min": 0.5, "sampler.t_max": 0.5},
            r"^config\.sampler\.grid\.uniform: t_min = 0\.5, t_max = 0\.5: ",
        ),
        ("mnist", {"data.image_size": (9, 9, 9)}, r"^config\.data: image_size = \(9, 9, 9\), expected one number or two$"),
        ("mnist", {"model.unet.num_heads": 3}, r"^config\.model\.unet: num_heads = 3 does not divide the width 112$"),
        (
            "mnist",
            {"model.unet.attention_levels": (7,)},
            r"^config\.model\.unet: attention_levels = \(7,\), expected levels in",
        ),
        (
            "mnist",
            {"model.parameterisation.name": "score"},
            r"^config\.loss: a score model has no p\(x_0 \| x_t\): CrossEntropy",
        ),
        (
            "mnist_uniform",
            {"model.parameterisation.name": "score"},
            r"^config\.sampler\.ancestral: a score model has no p\(x_0 \| x_t\): Ancestral",
        ),
        (
            "mnist",
            {
                "sampler.guidance.name": "interval",
                "sampler.guidance.interval.high": 0.1,
                "sampler.guidance.g": 2.0,
                "model.num_classes": 10,
            },
            r"^config\.sampler\.guidance\.interval: low = 0\.2, high = 0\.1",
        ),
    ],
)
def test_what_does_not_fit_together_is_told_with_its_key(preset, changes, expected):
    with pytest.raises(ConfigError, match=expected):
        configuration.check(configuration.changed(configuration.load(preset), changes))
