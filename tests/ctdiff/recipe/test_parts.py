"""Every choice of a configuration builds its object, in every combination that trains."""

from __future__ import annotations

import math
import traceback
from pathlib import Path
from typing import get_args, get_origin

import pytest
import torch

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from backbones import (
    SSM,
    CategoricalHead,
    DiT,
    EmbeddedInput,
    LogisticMixtureHead,
    OneHotInput,
    OrdinalInput,
    PixelLogits,
    TruncatedLogisticHead,
    UNet,
    UViT,
)
from backbones.diffit import DiffiT, LatentDiffiT
from ctdiff import config as configuration
from ctdiff import cost, recipe
from ctdiff.config import ConfigError
from ctdiff.data import ImageData
from ctdiff.recipe.engine import tree
from ctdiff.recipe.schema import Setting, alternatives
from ctdiff.training import precision
from ctdiff.training.precision import HalfPrecision
from diffusion_core import (
    ConstantScale,
    CosineGrid,
    GridTimes,
    IntervalScale,
    PerSampleRandomness,
    PowerCosineScale,
    QuadraticGrid,
    RespacedGrid,
    StratifiedTimes,
    UniformGrid,
    UniformTimes,
)
from discrete_diffusion import rates, samplers, schedules

from ...losses import losses_of
from ..small import LARGE, small
from .places import CHOICES, TREES, choices

ROOT = Path(__file__).resolve().parents[3]
PRESETS = configuration.preset_names()
PUBLISHED = {"cifar10_unet": 35_746_307, "cifar10_ddpm": 35_746_307, "cifar10_uvit": 44_255_328}


def _images(config):
    """Random images of the configuration's kind."""
    generator = torch.Generator().manual_seed(0)
    shape = (12, *recipe.event_shape(config))
    images = torch.randint(config.data.num_values, shape, generator=generator, dtype=torch.uint8)
    return ImageData(images, torch.arange(12) % 10, config.data.num_values)


def _denoiser(config):
    return recipe.build_denoiser(config, recipe.build_process(config), recipe.build_network(config))


def _step(config):
    """One evaluation of the objective with its gradient; returns the losses."""
    torch.manual_seed(0)
    network = recipe.build_network(config)
    objective = recipe.build_objective(config, recipe.build_denoiser(config, recipe.build_process(config), network))
    x_0, cond = recipe.build_batches(config, _images(config))[0]
    loss = losses_of(objective, x_0, PerSampleRandomness.keyed(0, 0, 0, len(x_0)), **cond)
    loss.mean().backward()
    assert loss.shape == (config.training.batch_size,)
    assert loss.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    return loss.detach()


def _draw(config, steps=None, **changes):
    """Three images of a configuration, or of one with another sampler."""
    config = configuration.changed(config, {f"sampler.{key.replace('__', '.')}": value for key, value in changes.items()})
    denoiser = _denoiser(config).eval()
    cond = {"y": torch.tensor([0, 4, 2])} if config.model.num_classes else {}
    x = recipe.build_sampler(config, denoiser, steps).sample(3, seeds=[1, 2, 3], **cond)
    images = recipe.build_pixels(config).decode(x)
    assert images.shape == (3, *recipe.event_shape(config))
    assert not images.is_floating_point()
    assert images.min() >= 0
    assert images.max() < config.data.num_values
    return images


# Presets


@pytest.mark.parametrize("preset", PRESETS)
def test_full_size_presets_build_and_have_a_cost(preset):
    estimate = cost.estimate(configuration.load(preset))
    assert estimate.parameters == PUBLISHED.get(preset, estimate.parameters)
    lower, upper = (3e7, 6e7) if preset in LARGE else (1.4e6, 2.1e6)
    assert lower < estimate.parameters < upper
    assert 5e7 < estimate.multiply_accumulates < (2e10 if preset in LARGE else 2e8)
    assert estimate.training_bytes > 20 * estimate.parameters
    assert f"{estimate.parameters:,}" in str(estimate)


def test_the_families_are_of_equal_size():
    networks = ("unet", "uvit", "dit", "diffit", "ssm", "convnext")
    for name in (*(f"mnist_{network}" for network in networks), "fashion_unet", "fashion_dit"):
        assert cost.estimate(configuration.load(name)).parameters == pytest.approx(2e6, rel=0.02)


@pytest.mark.parametrize("preset", sorted({*LARGE} - {"cifar10_ddpm"}))  # which differs from cifar10_unet in its sampler
def test_large_presets_take_a_step_on_generated_images(preset):
    config = configuration.load(preset)
    config.training.batch_size = 1
    network = recipe.build_network(config)
    denoiser = recipe.build_denoiser(config, recipe.build_process(config), network)
    images = ImageData(_images(config).images[:1], None, config.data.num_values)
    x_0, cond = recipe.build_batches(config, images)[0]
    loss = losses_of(recipe.build_objective(config, denoiser), x_0, **cond).mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    sampler = recipe.build_sampler(config, denoiser.eval())
    assert sampler.grid.steps == (100 if config.process.engine == "gaussian" else 1000)
    t, s = torch.tensor(sampler.grid.times()[:2], dtype=torch.float64)
    with torch.no_grad():
        assert sampler.step(sampler.start(1, seeds=[0]), t, s).x.shape == x_0.shape


EVERY_SAMPLER = [(preset, name) for preset in PRESETS for name in recipe.samplers_of(configuration.load(preset).process.engine)]
EVERY_SAMPLER.remove(("mnist_absorbing", "midpoint_tau_leaping"))


def test_a_sampler_that_adds_displacements_refuses_a_mask():
    with pytest.raises(
        ConfigError, match=r"config\.sampler\.midpoint_tau_leaping: num_states = \d+ and data_states = \d+, expected"
    ):
        small("mnist_absorbing", sampler__name="midpoint_tau_leaping")


@pytest.mark.parametrize(("preset", "name"), EVERY_SAMPLER)
def test_every_preset_samples_with_every_sampler_it_may_choose(preset, name):
    config = small(preset, sampler__name=name)
    _draw(config)
    if config.process.engine == "discrete":
        _draw(config, corrector__name="forward_backward")


# Every choice

LEARNED = {"process.t_min": 0.0, "loss.name": "hybrid", "model.learned_variance": True}
BOUNDED = {"sampler.grid.name": "bounded_log_snr"}
GIVEN = {
    "data.array": {"data.array.path": "images.npy"},
    "data.folder": {"data.folder.path": "images"},
    "data.idx": {"data.idx.path": "images"},
    "model.diffit": {"model.diffit.windows": (2, 0)},
    "loss.times.piecewise": {"loss.times.piecewise.edges": (0.001, 0.5, 1.0)},
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

LEFT_OUT = "which leaves out some of -19.84 to 10.09, expected a density that covers it"
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
            _step(config)
            _draw(config, 2)
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


# Processes


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
    _step(config)
    for sampler in recipe.samplers_of("discrete"):
        if (name, sampler) != ("absorbing", "midpoint_tau_leaping"):  # it refuses a mask
            _draw(config, name=sampler)


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
    _step(config)
    _draw(config)


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
            r"^config\.process: t_min = 0\.6, t_max = 0\.5: expected t_min < t_max$",
        ),
        (
            "mnist",
            {"sampler.t_min": 0.5, "sampler.t_max": 0.5},
            r"^config\.sampler\.grid\.uniform: t_min = 0\.5, t_max = 0\.5: ",
        ),
        ("mnist", {"data.image_size": (9, 9, 9)}, r"^config\.data: image_size = \(9, 9, 9\), expected one number or two$"),
        ("mnist", {"model.unet.num_heads": 3}, r"^config\.model\.unet: num_heads = 3 does not divide the width 128$"),
        (
            "mnist",
            {"model.unet.attention_levels": (7,)},
            r"^config\.model\.unet: attention_levels = \(7,\), expected levels in",
        ),
        ("mnist", {"model.parameterisation.name": "score"}, r"^config\.loss: a score model has no law of x_0 .*: CrossEntropy"),
        (
            "mnist_uniform",
            {"model.parameterisation.name": "score"},
            r"^config\.sampler\.ancestral: a score model has no law of",
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


# Networks


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", ["epsilon", "x0", "v", "karras", "flow"])
def test_gaussian_parameterisations(name, learned):
    settings = {"model__parameterisation__karras__std": 0.4} if name == "karras" else {}
    config = small("mnist_iddpm" if learned else "mnist_ddpm", model__parameterisation__name=name, **settings)
    denoiser = _denoiser(config)
    reading = denoiser.mean_denoiser if learned else denoiser
    assert denoiser.learns_variance == learned
    assert type(reading) is {
        "epsilon": continuous.EpsilonDenoiser,
        "x0": continuous.X0Denoiser,
        "v": continuous.VelocityDenoiser,
        "karras": continuous.KarrasDenoiser,
        "flow": continuous.FlowDenoiser,
    }.get(name)
    assert getattr(reading, "std", 0.4) == 0.4
    _step(config)
    _draw(config)


@pytest.mark.parametrize(
    ("preset", "name", "expected"),
    [
        ("mnist", "x0", discrete.X0Denoiser),
        ("mnist", "leave_one_out", discrete.LeaveOneOutDenoiser),
        ("mnist_absorbing", "absorbing", discrete.AbsorbingDenoiser),
    ],
)
def test_discrete_parameterisations(preset, name, expected):
    config = small(preset, model__parameterisation__name=name)
    assert type(_denoiser(config)) is expected


FAMILIES = {"unet": UNet, "uvit": UViT, "dit": DiT, "diffit": DiffiT, "latent_diffit": LatentDiffiT, "ssm": SSM}
HEADS = {
    "categorical": CategoricalHead,
    "truncated_logistic": TruncatedLogisticHead,
    "logistic_mixture": LogisticMixtureHead,
}
INPUTS = {"ordinal": OrdinalInput, "one_hot": OneHotInput, "embedded": EmbeddedInput}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("inputs", INPUTS)
def test_networks(name, head, inputs):
    config = small("mnist", model__name=name, model__head__name=head, model__inputs__name=inputs)
    network = recipe.build_network(config)
    assert isinstance(network, PixelLogits)
    assert type(network.backbone) is FAMILIES[name]
    assert type(network.head) is HEADS[head]
    assert type(network.inputs) is INPUTS[inputs]
    _step(config)


CLASSES = {
    key: setting
    for key, setting in TREES["discrete"].items()
    if isinstance(setting, Setting) and get_origin(setting.kind) is type
}


@pytest.mark.parametrize("key", CLASSES)
def test_arguments_that_are_classes(key):
    found = alternatives(get_args(CLASSES[key].kind)[0])
    assert len(found) >= {"model.unet.downsample": 2, "model.unet.block": 2}.get(key, 3)
    for value, expected in found.items():
        changes = {key: value, f"{key.rpartition('.')[0].rpartition('.')[0]}.name": key.split(".")[-2], "model.num_classes": 10}
        network = recipe.build_network(small("mnist", **{name.replace(".", "__"): each for name, each in changes.items()}))
        assert any(type(module) is expected for module in network.modules()), value


def test_classes_are_arguments_of_three_places():
    assert set(CLASSES) >= {"model.unet.upsample", "model.unet.downsample", "model.dit.conditioning"}


@pytest.mark.parametrize("inputs", INPUTS)
def test_every_input_knows_the_mask(inputs):
    config = small("mnist_absorbing", model__inputs__name=inputs)
    _step(config)
    _draw(config)


def test_auto_precision_is_what_the_processor_is_good_at(tmp_path, monkeypatch):
    for flags, expected in (("avx512f amx_bf16", "bfloat16"), ("avx512f avx512_bf16", "float32")):
        (tmp_path / "cpuinfo").write_text(flags)
        monkeypatch.setattr(precision, "_CPU", tmp_path / "cpuinfo")
        assert precision.resolved_precision("auto", "cpu") == expected
        network = recipe.build_network(small("mnist", training__precision="auto"))
        assert isinstance(network.backbone, HalfPrecision) == (expected == "bfloat16")
    assert precision.resolved_precision("auto", "cuda") == "float32"
    assert precision.resolved_precision("bfloat16", "cuda") == "bfloat16"


def test_half_precision_stays_in_the_backbone():
    for preset in ("mnist", "mnist_ddpm", "mnist_uvit", "mnist_absorbing"):
        config = small(preset, training__precision="bfloat16")
        network = recipe.build_network(config)
        backbone = network.backbone if isinstance(network, PixelLogits) else network
        assert isinstance(backbone, HalfPrecision)
        assert all(p.dtype == torch.float32 for p in network.parameters())
        x = torch.rand(2, backbone.in_channels, 8, 8)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        half, full = backbone(x, torch.rand(2)), backbone.backbone(x, torch.rand(2))
        assert half.dtype == torch.float32
        assert half.shape == full.shape
        assert torch.equal(half, half.bfloat16().float())
        loss = _step(config)
        torch.testing.assert_close(loss, _step(small(preset)), rtol=0.05, atol=0.05)


# Losses and times


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
        weight["process__t_max"] = 0.99  # linear survival: ct_elbo needs a finite tau, and all losses the same times
        config = small(preset, process__rates__name=process, loss__name=name, loss__times__name="uniform", **weight)
        losses[name] = _step(config)
    expected = losses["elbo"] + 0.5 * losses["cross_entropy"]
    torch.testing.assert_close(losses["elbo_and_cross_entropy"], expected, rtol=1e-4, atol=1e-5)


def test_a_bound_is_in_nats_a_dimension():
    config = small("mnist_ddpm", loss__name="vlb", loss__times__name="uniform", process__t_min=0.0)
    assert _step(config).mean() < 1e3


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
    _step(config)


def test_losses_are_sums_over_dimensions():
    # A fresh network is near log S = 2.08 nats a pixel, whatever the size of the image; the weight of a time is 0.1.
    late = {"loss__name": "cross_entropy", "process__t_min": 0.9, "process__rates__uniform__scale": 1.0}
    config, wide = small("mnist_uniform", **late), small("mnist_uniform", **late, data__image_size=(16, 16))
    for candidate in (config, wide):
        pixels = math.prod(recipe.event_shape(candidate))
        assert _step(candidate).mean().item() / pixels == pytest.approx(0.208, abs=0.04)


def _times(config):
    return recipe.build_objective(config, _denoiser(config)).times


def test_times_of_training():
    for name, kind in (("uniform", UniformTimes), ("stratified", StratifiedTimes)):
        assert _times(small("mnist", loss__times__name=name, process__t_min=0.1)) == kind(0.1, 1.0)
    for preset in ("mnist", "mnist_ddpm"):
        config = small(preset, loss__times__name="importance", loss__times__importance__bins=7, process__t_min=0.1)
        times = _times(config)
        assert (times.t_min, times.t_max, len(times.probabilities())) == (0.1, 1.0, 7)
        _step(config)
    config = small("mnist_ddpm", loss__times__name="log_snr", loss__times__log_snr__density__laplace__b=3.0)
    assert _times(config).density == continuous.LaplaceSchedule(0.0, 3.0)
    _step(config)


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
    objective = recipe.build_objective(config, _denoiser(config))
    assert (objective.label_dropout, objective.null) == (0.5, {"y": 10})
    x_0, cond = recipe.build_batches(config, _images(config))[0]
    assert set(cond) == {"y"}
    assert losses_of(objective, x_0, **cond).shape == (4,)
    assert recipe.build_batches(small(preset), _images(config))[0][1] == {}
    with pytest.raises(ValueError, match=r"10 classes, config\.model\.num_classes = 9"):
        recipe.build_data(small(preset, model__num_classes=9))


# Grids and samplers

GRIDS = {"uniform": UniformGrid, "quadratic": QuadraticGrid, "cosine": CosineGrid}


def test_grids():
    for name, grid in GRIDS.items():
        config = small("mnist", sampler__grid__name=name, process__t_max=0.9)
        assert recipe.build_grid(config) == grid(3, 0.01, 0.9)
        assert recipe.build_grid(config, steps=7) == grid(7, 0.01, 0.9)
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
        assert recipe.build_grid(changed).t_max == recipe.build_sampler(changed, _denoiser(config)).grid.t_max == end


def test_the_chain_of_a_bound_ends_at_its_last_step():
    for grid in ("uniform", "quadratic", "respaced"):
        assert recipe.build_grid(small("mnist_iddpm", sampler__grid__name=grid)).t_min == 1 / 4000
    assert recipe.build_grid(small("mnist_iddpm", sampler__grid__name="uniform", sampler__t_min=0.01)).t_min == 0.01


@pytest.mark.parametrize("name", ["ancestral", "euler", "tau_leaping"])
@pytest.mark.parametrize("leap", ["none", "bernoulli", "categorical", "ordinal"])
def test_discrete_samplers(name, leap):
    own = {"sampler__tau_leaping__leap__name": leap} if name == "tau_leaping" else {}
    _draw(small("mnist_uniform", sampler__name=name, **own), 2)
    correction = {"sampler__corrector__name": "forward_backward", "sampler__corrector__forward_backward__leap__name": leap}
    _draw(small("mnist_uniform", sampler__name=name, **own, **correction))


def test_settings_of_samplers_arrive():
    corrector = {"name": "forward_backward", "corrector_steps": 2, "step_multiplier": 0.5, "entry_time": 0.3}
    config = small(
        "mnist",
        sampler__name="tau_leaping",
        sampler__argmax=True,
        sampler__sub_batch=5,
        **{f"sampler__corrector__{key}": value for key, value in corrector.items()},
    )
    sampler = recipe.build_sampler(config, _denoiser(config))
    assert type(sampler) is samplers.PredictorCorrector
    assert (sampler.corrector_steps, sampler.step_multiplier, sampler.entry_time) == (2, 0.5, 0.3)
    assert type(sampler.predictor) is samplers.TauLeaping
    assert (sampler.argmax, sampler.sub_batch) == (True, 5)
    assert type(sampler.corrector) is samplers.ForwardBackward
    assert type(sampler.corrector.leap) is samplers.OrdinalLeap
    assert sampler.corrector.denoiser is sampler.predictor.denoiser
    uncorrected = configuration.changed(config, {"sampler.corrector.name": "none"})
    assert type(recipe.build_sampler(uncorrected, _denoiser(config))) is samplers.TauLeaping


def test_correctors_begin_with_short_leaps():
    config = small("mnist", sampler__corrector__name="forward_backward")
    assert config.sampler.corrector.step_multiplier == 0.25


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.4])
def test_samples_are_drawn_with_the_evidence_floor(floor):
    config = small("mnist", sampler__evidence_floor=floor)
    denoiser = _denoiser(config)
    sampled = recipe.build_sampler(config, denoiser).denoiser
    assert (sampled.evidence_floor, type(sampled)) == (floor, discrete.X0Denoiser)
    assert sampled.network is denoiser.network
    plain = discrete.X0Denoiser(denoiser.process, denoiser.network, denoiser.event_shape)
    assert denoiser.evidence_floor == plain.evidence_floor  # what is trained has none of it


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
    _draw(config)
    sampler = recipe.build_sampler(config, _denoiser(config))
    assert type(sampler) is continuous.DDIM
    assert (sampler.eta, sampler.clip, type(sampler.variance)) == (0.5, None, VARIANCES[variance])
    ancestral = small(preset, sampler__ancestral__variance__name=variance)
    assert type(recipe.build_sampler(ancestral, _denoiser(ancestral)).variance) is VARIANCES[variance]
    assert recipe.build_sampler(ancestral, _denoiser(ancestral)).clip == 1.0
    _draw(ancestral)
    _draw(ancestral, name="heun")


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
    denoiser = _denoiser(config).eval()
    guided = recipe.build_sampler(config, denoiser).denoiser
    assert type(guided) is FORMS.get(form, continuous.ClassifierFreeGuidance)
    assert guided.denoiser.network is denoiser.network
    assert guided.null == {"y": 10}
    assert guided.scale == SCALES[scale]
    _draw(config)
    if form is not None:
        _draw(config, name="tau_leaping")
    plain = small(preset, sampler__guidance__g=1.0)
    assert type(recipe.build_sampler(plain, denoiser).denoiser) is type(denoiser)


# Optimisers


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_optimisers(name, schedule):
    config = small(
        "mnist", optimizer__name=name, optimizer__schedule__name=schedule, optimizer__lr=0.01, optimizer__weight_decay=0.3
    )
    network = recipe.build_network(config)
    optimizer = recipe.part(config, "optimizer")(network.parameters())
    factor = recipe.part(config, "optimizer.schedule", steps=config.training.steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    assert type(optimizer) is {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == sum(
        p.numel() for p in network.parameters()
    )
    rates_seen = []
    for _ in range(5):
        rates_seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates_seen[0] == pytest.approx(0.005)
    assert rates_seen[-1] == pytest.approx(0.0 if schedule == "cosine" else 0.01)


def test_settings_of_optimisers_arrive():
    weights = [torch.nn.Parameter(torch.ones(2, 2))]
    adam = small("mnist", optimizer__name="adam", optimizer__adam__betas=(0.8, 0.95))
    assert recipe.part(adam, "optimizer")(weights).param_groups[0]["betas"] == (0.8, 0.95)
    sgd = small("mnist", optimizer__name="sgd", optimizer__sgd__momentum=0.7)
    assert recipe.part(sgd, "optimizer")(weights).param_groups[0]["momentum"] == 0.7


# Data


def test_data_sources(tmp_path):
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    own = {"data__array__path": tmp_path / "images.npy", "data__array__test_fraction": 0.25}
    options = {"data__name": "array", "data__fraction": 1.0, **own}
    splits = recipe.build_data(small("mnist", **options, data__channels=3))
    assert (len(splits.train), len(splits.test), splits.train.shape, splits.train.num_values) == (9, 3, (3, 8, 8), 8)
    with pytest.raises(ValueError, match=r"the images have 3 channels, config\.data\.channels = 1"):
        recipe.build_data(small("mnist", **options))
    with pytest.raises(ValueError, match=r"expected 0 \.\. 7"):
        recipe.build_data(small("mnist", **options, data__channels=3, data__quantise=False))
    with pytest.raises(FileNotFoundError):
        recipe.build_data(small("mnist", data__name="idx", data__idx__path=tmp_path / "absent"))
    for name in ("mnist", "fashion_mnist"):
        with pytest.raises(FileNotFoundError, match="allow the download"):
            recipe.build_data(small("mnist", data__name=name, **{f"data__{name}__path": tmp_path}))
    for preset in ("mnist", "mnist_ddpm"):
        _step(small(preset, data__channels=3, data__rotation=10.0))
    assert recipe.event_shape(small("mnist", data__image_size=(9,))) == (1, 9, 9)


@pytest.mark.parametrize("values", [2, 3, 16])
def test_images_that_are_states_already_are_not_quantised_to_black(values, tmp_path):
    import numpy as np

    images = np.random.default_rng(0).integers(0, values, (12, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "states.npy", images)
    path = {"data__array__path": tmp_path / "states.npy"}
    options = {"data__name": "array", "data__fraction": 1.0, "data__num_values": values, **path}
    with pytest.raises(ValueError, match=rf"every pixel .* is 0 of config\.data\.num_values = {values} .*quantise = False"):
        recipe.build_data(small("mnist_absorbing", **options))
    splits = recipe.build_data(small("mnist_absorbing", **options, data__quantise=False))
    assert sorted(image.numpy().tobytes() for part in (splits.train, splits.test) for image in part.images) == sorted(
        image.tobytes() for image in images
    )


def test_a_folder_of_images(tmp_path):
    from PIL import Image

    for i in range(6):
        Image.new("RGB", (12, 9), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    own = {"data__folder__path": tmp_path, "data__fraction": 1.0, "data__channels": 3}
    assert recipe.build_data(small("mnist", data__name="folder", **own)).train.shape == (3, 8, 8)


def test_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small("mnist", data__name="folder", data__folder__path="here")
    recipe.set_absolute_path(config)
    assert config.data.folder.path == str(tmp_path / "here")
    config = small("mnist")
    recipe.set_absolute_path(config)
    assert configuration.differences(config, small("mnist")) == {}


@pytest.mark.parametrize(("name", "begins"), [("score", 0.999), ("leave_one_out", 0.999), ("x0", 0.999), ("absorbing", 1.0)])
def test_with_a_mask_samplers_by_rates_begin_where_rates_are_finite(name, begins):
    config = small("mnist_absorbing", model__parameterisation__name=name, loss__name="elbo", sampler__name="euler")
    assert recipe.build_grid(config).t_max == begins
    _draw(config)
