"""Every name of a configuration builds its class, in every combination that trains."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from backbones import (
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
from ctdiff import build, cost
from ctdiff import config as configuration
from ctdiff.data import ImageData
from ctdiff.runs import Run
from ctdiff.training import precision
from ctdiff.training.precision import HalfPrecision
from diffusion_core import (
    ConstantScale,
    CosineGrid,
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

from ..losses import losses_of
from .small import LARGE, small

PRESETS = configuration.preset_names()
SCHEDULES = list(build.GAUSSIAN_SCHEDULES)
PUBLISHED = {"cifar10_unet": 35_746_307, "cifar10_ddpm": 35_746_307, "cifar10_uvit": 44_255_328}


def _images(config):
    """Random images of the configuration's kind."""
    generator = torch.Generator().manual_seed(0)
    shape = (12, *build.event_shape(config))
    images = torch.randint(config.data.num_values, shape, generator=generator, dtype=torch.uint8)
    return ImageData(images, torch.arange(12) % 10, config.data.num_values)


def _step(config):
    """One evaluation of the objective with its gradient; returns the losses."""
    torch.manual_seed(0)
    network = build.build_network(config)
    objective = build.build_objective(config, build.build_denoiser(config, build.build_process(config), network))
    x_0, cond = build.build_batches(config, _images(config))[0]
    loss = losses_of(objective, x_0, PerSampleRandomness.keyed(0, 0, 0, len(x_0)), **cond)
    loss.mean().backward()
    assert loss.shape == (config.training.batch_size,)
    assert loss.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    return loss.detach()


def _draw(config, **options):
    denoiser = build.build_denoiser(config, build.build_process(config), build.build_network(config)).eval()
    cond = {"y": torch.tensor([0, 4, 2])} if config.model.num_classes else {}
    x = build.build_sampler(config, denoiser, **options).sample(3, seeds=[1, 2, 3], **cond)
    images = build.build_pixels(config).decode(x)
    assert images.shape == (3, *build.event_shape(config))
    assert not images.is_floating_point()
    assert images.min() >= 0
    assert images.max() < config.data.num_values
    return images


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
    for name in ("mnist_unet", "mnist_uvit", "mnist_dit", "mnist_diffit", "fashion_unet", "fashion_dit"):
        assert cost.estimate(configuration.load(name)).parameters == pytest.approx(2e6, rel=0.02)


@pytest.mark.parametrize("preset", sorted({*LARGE} - {"cifar10_ddpm"}))  # which differs from cifar10_unet in its sampler
def test_large_presets_take_a_step_on_generated_images(preset):
    config = configuration.load(preset)
    config.training.batch_size = 1
    network = build.build_network(config)
    denoiser = build.build_denoiser(config, build.build_process(config), network)
    images = ImageData(_images(config).images[:1], None, config.data.num_values)
    x_0, cond = build.build_batches(config, images)[0]
    loss = losses_of(build.build_objective(config, denoiser), x_0, **cond).mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    sampler = build.build_sampler(config, denoiser.eval())
    assert sampler.grid.steps == (100 if build.is_gaussian(config) else 1000)
    t, s = torch.tensor(sampler.grid.times()[:2], dtype=torch.float64)
    with torch.no_grad():
        assert sampler.step(sampler.start(1, seeds=[0]), t, s).x.shape == x_0.shape


@pytest.mark.parametrize("values", [2, 3, 8])
@pytest.mark.parametrize("name", build.RATES)
def test_rates(name, values):
    reading = {"absorbing": "absorbing"}.get(name, "leave_one_out")
    leap = "categorical" if name == "absorbing" else "ordinal"
    scale = {"birth_death": {2: 0.6, 3: 1.2, 8: 6.0}[values], "gaussian_target": 0.3}.get(name, 1.5)
    settings = {"process__name": name, "process__scale": scale, "data__num_values": values}
    config = small("mnist", **settings, model__parameterisation=reading, sampler__leap=leap)
    process = build.build_process(config)
    expected = {
        "gaussian_target": rates.GaussianTargetRates,
        "uniform": rates.UniformRates,
        "absorbing": rates.AbsorbingRates,
        "birth_death": rates.BirthDeathRates,
    }
    assert isinstance(process, discrete.CTMC)
    assert isinstance(process.rates, expected[name])
    assert process.rates.data_states == values
    assert getattr(process.rates, "scale", scale) == scale
    assert hasattr(process.rates, "scale") == (name in build.SCALED_RATES)
    _step(config)
    for sampler in build.SAMPLERS:
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
    ],
)
def test_discrete_schedules(name, expected):
    config = small("mnist", process__schedule=name)
    assert build.build_process(config).schedule == expected
    _step(config)
    _draw(config)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", continuous.LinearSchedule(50)),
        ("cosine", continuous.CosineSchedule(50)),
        ("quadratic", continuous.QuadraticSchedule(50)),
        ("sigmoid", continuous.SigmoidSchedule(10.0, -10.0)),
        ("shifted_cosine", continuous.ShiftedCosineSchedule(64.0)),
        ("laplace", continuous.LaplaceSchedule(0.0, 0.5)),
        ("cauchy", continuous.CauchySchedule(0.0, 1.0)),
    ],
)
def test_gaussian_schedules(name, expected):
    config = small("mnist_ddpm", process__schedule=name, process__gaussian__T=50, model__parameterisation="v")
    assert build.build_process(config).schedule == build.build_gaussian_schedule(config) == expected
    _step(config)
    _draw(small("mnist_ddpm", process__schedule=name, sampler__grid="log_snr"))


def test_a_gaussian_process_knows_its_pixels():
    config = small("mnist_ddpm")
    process = build.build_process(config)
    assert process.pixels == build.build_pixels(config) == continuous.PixelScale(8)
    denoiser = build.build_denoiser(config, process, build.build_network(config)).eval()
    k = torch.randint(8, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    result = continuous.bits_per_dim(denoiser, process.pixels.encode(k), generator=torch.Generator().manual_seed(0))
    assert result.reconstruction >= 0  # of a probability; a density of 8 bins of width 1/4 would be less
    with pytest.raises(ValueError, match="not the centre of a bin"):
        continuous.bits_per_dim(denoiser, torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("preset", "key", "value", "expected"),
    [
        ("mnist_ddpm", "loss.name", "vlb", r"process\.t_min = 0\.001, expected 0\.0: config\.loss\.name = 'vlb' is a sum"),
        ("mnist_iddpm", "process.t_min", 0.01, r"process\.t_min = 0\.01, expected 0\.0: config\.loss\.name = 'hybrid'"),
        ("mnist_iddpm", "process.t_max", 0.9, r"process\.t_max = 0\.9, expected 1\.0: config\.loss\.name = 'hybrid'"),
        ("mnist_iddpm", "model.learned_variance", False, r"learned_variance = False, expected True: .* teaches one"),
        ("mnist_iddpm", "loss.name", "epsilon", r"learned_variance = True, expected False: .*'epsilon' teaches no variance"),
        ("mnist_iddpm", "process.schedule", "cauchy", r"schedule = 'cauchy', expected a schedule that ends: .*'hybrid'"),
        ("mnist_ddpm", "process.t_min", 0.0, r"process\.t_min = 0\.0, expected more: config\.loss\.name = 'elbo'"),
    ],
)
def test_gaussian_losses_that_do_not_fit(preset, key, value, expected):
    config = configuration.load(preset)
    if key == "model.learned_variance":
        config.sampler.variance = "small"
    flags = [f"--config.{key}={value}"]
    if preset == "mnist_ddpm" and key == "process.t_min":
        flags.append("--config.loss.name=elbo")
    with pytest.raises(configuration.ConfigError, match=expected):
        configuration.override(config, flags)


def test_schedules_for_training_are_those_that_do_not_end():
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    ends = {
        name: build.build_gaussian_schedule(small("mnist_ddpm", process__schedule=name)).log_snr(t)[1] for name in SCHEDULES
    }
    assert [name for name, end in ends.items() if end < -50] == list(build.TRAINING_SCHEDULES)


def test_the_chain_of_a_bound_ends_at_its_last_step():
    for grid in ("uniform", "quadratic", "respaced"):
        assert build.build_grid(small("mnist_iddpm", sampler__grid=grid)).t_min == 1 / 4000
    assert build.build_grid(small("mnist_iddpm", sampler__grid="uniform", sampler__t_min=0.01)).t_min == 0.01


def test_every_schedule_is_tested():
    assert len(build.SCHEDULES) == 8
    assert len(build.GAUSSIAN_SCHEDULES) == 7


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", build.GAUSSIAN_DENOISERS)
def test_gaussian_readings(name, learned):
    config = small("mnist_iddpm" if learned else "mnist_ddpm", model__parameterisation=name, model__karras_std=0.4)
    denoiser = build.build_denoiser(config, build.build_process(config), build.build_network(config))
    reading = denoiser.mean_denoiser if learned else denoiser
    assert denoiser.learns_variance == learned
    assert type(reading) is {
        "epsilon": continuous.EpsilonDenoiser,
        "x0": continuous.X0Denoiser,
        "v": continuous.VelocityDenoiser,
        "karras": continuous.KarrasDenoiser,
    }.get(name)
    assert getattr(reading, "std", 0.4) == 0.4
    _step(config)
    _draw(config)
    with pytest.raises(ValueError, match=r"config\.model\.learned_variance = True, expected False"):
        small("mnist", model__learned_variance=True)


@pytest.mark.parametrize("name", build.BACKBONES)
@pytest.mark.parametrize("head", build.HEADS)
@pytest.mark.parametrize("inputs", build.INPUTS)
def test_networks(name, head, inputs):
    config = small("mnist", model__name=name, model__head=head, model__inputs=inputs)
    network = build.build_network(config)
    assert isinstance(network, PixelLogits)
    families = {"unet": UNet, "uvit": UViT, "dit": DiT, "diffit": DiffiT, "latent_diffit": LatentDiffiT}
    assert isinstance(network.backbone, families[name])
    heads = {
        "categorical": CategoricalHead,
        "truncated_logistic": TruncatedLogisticHead,
        "logistic_mixture": LogisticMixtureHead,
    }
    assert isinstance(network.head, heads[head])
    assert isinstance(network.inputs, {"ordinal": OrdinalInput, "one_hot": OneHotInput, "embedded": EmbeddedInput}[inputs])
    _step(config)


@pytest.mark.parametrize("key", build.CLASSES)
def test_arguments_that_are_classes(key):
    name = key.split(".")[0]
    for value, expected in build.CLASSES[key].items():
        network = build.build_network(small("mnist", model__name=name, **{f"model__{key.replace('.', '__')}": value}))
        assert any(type(module) is expected for module in network.modules()), value


@pytest.mark.parametrize("inputs", build.INPUTS)
def test_every_input_knows_the_mask(inputs):
    config = small("mnist_absorbing", model__inputs=inputs)
    _step(config)
    _draw(config)


@pytest.mark.parametrize("process", [*build.RATES, build.GAUSSIAN])
def test_losses_and_times(process):
    gaussian = process == build.GAUSSIAN
    preset = {build.GAUSSIAN: "mnist_ddpm", "absorbing": "mnist_absorbing"}.get(process, "mnist_uniform")
    losses = {}
    for name in build.GAUSSIAN_LOSSES if gaussian else build.LOSSES:
        settings = {"process__t_min": 0.0} if name in build.CHAIN_LOSSES else {}
        if name == "hybrid":
            settings["model__learned_variance"] = True
        if not gaussian:
            settings["loss__cross_entropy_weight"] = 0.5
        config = small(preset, process__name=process, loss__name=name, loss__times="uniform", **settings)
        losses[name] = _step(config)
    if gaussian:
        assert losses["vlb"].mean() < 1e3  # nats a dimension, not an image
    else:
        expected = losses["elbo"] + 0.5 * losses["cross_entropy"]
        torch.testing.assert_close(losses["elbo_and_cross_entropy"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distance", build.DISTANCES)
@pytest.mark.parametrize("weight", build.WEIGHTS)
def test_gaussian_regressions(distance, weight):
    kinds = {
        "l2": continuous.SquaredError(),
        "l1": continuous.AbsoluteError(),
        "smooth_l1": continuous.SmoothAbsoluteError(0.5),
    }
    weights = {"none": continuous.Unweighted(), "min_snr": continuous.MinSNR(3.0)}
    settings = {"loss__distance": distance, "loss__weight": weight, "loss__smooth_l1__beta": 0.5, "loss__min_snr__gamma": 3.0}
    for name, kind in (("epsilon", continuous.EpsilonLoss), ("x0", continuous.X0Loss), ("v", continuous.VelocityLoss)):
        config = small("mnist_ddpm", loss__name=name, **settings)
        assert build.build_loss(config) == kind(kinds[distance], weights[weight])
    hybrid = build.build_loss(small("mnist_iddpm", **settings, loss__hybrid__weight=0.1))
    assert hybrid.simple == continuous.EpsilonLoss(kinds[distance], weights[weight])
    assert (hybrid.weight, hybrid.bound.grid) == (0.1, UniformGrid(3999, 1 / 4000))
    _step(config)


def test_losses_are_sums_over_dimensions():
    # A fresh network is near log S = 2.08 nats a pixel, whatever the size of the image; the weight of a time is 0.1.
    late = {"loss__name": "cross_entropy", "process__t_min": 0.9, "process__scale": 1.0}
    config, wide = small("mnist_uniform", **late), small("mnist_uniform", **late, data__image_size=(16, 16))
    for candidate in (config, wide):
        pixels = math.prod(build.event_shape(candidate))
        assert _step(candidate).mean().item() / pixels == pytest.approx(0.208, abs=0.04)


def test_time_samplers_and_grids():
    for name, kind in (("uniform", UniformTimes), ("stratified", StratifiedTimes)):
        assert build.build_times(small("mnist", loss__times=name, process__t_min=0.1)) == kind(0.1, 1.0)
    for preset in ("mnist", "mnist_ddpm"):
        config = small(preset, loss__times="importance", loss__importance__bins=7, process__t_min=0.1)
        times = build.build_times(config)
        assert (times.t_min, times.t_max, len(times.probabilities())) == (0.1, 1.0, 7)
        assert build.build_validation_times(config) == StratifiedTimes(0.1, 1.0)
        _step(config)
    config = small("mnist_ddpm", loss__times="log_snr", loss__log_snr__b=3.0)
    assert build.build_times(config).density == continuous.LaplaceSchedule(0.0, 3.0)
    _step(config)
    for name, grid in (("uniform", UniformGrid), ("quadratic", QuadraticGrid), ("cosine", CosineGrid)):
        config = small("mnist", sampler__grid=name, process__t_max=0.9)
        assert build.build_grid(config) == grid(3, 0.01, 0.9)
        assert build.build_grid(config, steps=7) == grid(7, 0.01, 0.9)
    respaced = small("mnist_ddpm", sampler__grid="respaced", process__gaussian__T=50)
    assert build.build_grid(respaced, steps=7) == RespacedGrid(7, 50)
    by_log_snr = small("mnist_ddpm", sampler__grid="log_snr", sampler__log_snr_max=6.0, sampler__log_snr_min=-7.0)
    expected = continuous.LogSNRGrid.between(3, build.build_gaussian_schedule(by_log_snr), 6.0, -7.0)
    assert build.build_grid(by_log_snr) == expected
    for name, grid in (("uniform", UniformGrid), ("quadratic", QuadraticGrid), ("cosine", CosineGrid)):
        own = small("mnist", sampler__grid=name, sampler__t_min=0.1, sampler__t_max=0.7)
        assert build.build_grid(own, name="euler") == build.build_grid(own) == grid(3, 0.1, 0.7)


@pytest.mark.parametrize(
    ("preset", "settings", "expected"),
    [
        ("mnist", {}, 0.999),
        ("mnist_uniform", {}, 0.999),
        ("mnist", {"process__t_max": 0.9}, 0.9),
        ("mnist", {"process__t_max": 0.99999999}, 0.999),  # a rate above 1e6
        ("mnist", {"process__schedule": "exponential"}, 1.0),
        ("mnist", {"process__schedule": "log_linear", "process__log_linear__eps": 0.0}, 0.999),
        ("mnist_absorbing", {}, 1.0),  # an infinite rate, whose reverse rates are finite
        ("mnist", {"sampler__t_max": 1.0}, 1.0),  # who asks for it, gets it
    ],
)
def test_samplers_that_step_by_rates_begin_where_they_are_finite(preset, settings, expected):
    config = small(preset, **settings)
    for name in build.RATE_SAMPLERS:
        assert build.build_grid(config, name=name).t_max == expected
    assert build.build_grid(config, name="ancestral").t_max == (config.sampler.t_max or config.process.t_max)
    config.sampler.name = "euler"
    assert build.build_grid(config).t_max == expected


EVERY_SAMPLER = [(preset, name) for preset in PRESETS for name in build.choices(configuration.load(preset))["sampler.name"]]


@pytest.mark.parametrize(("preset", "name"), EVERY_SAMPLER)
def test_every_preset_samples_with_every_sampler_it_may_choose(preset, name):
    _draw(small(preset, sampler__name=name))
    if not build.is_gaussian(configuration.load(preset)):
        _draw(small(preset, sampler__corrector_steps=1), name=name)


@pytest.mark.parametrize("name", build.SAMPLERS)
@pytest.mark.parametrize("leap", build.LEAPS)
def test_discrete_samplers(name, leap):
    config = small("mnist_uniform", sampler__leap=leap)
    _draw(config, name=name, steps=2)
    corrected = small("mnist_uniform", sampler__name=name, sampler__leap=leap, sampler__corrector_steps=1)
    _draw(corrected)


def test_sampler_settings_arrive():
    settings = {"corrector_steps": 2, "corrector_multiplier": 0.5, "corrector_entry_time": 0.3, "argmax": True, "sub_batch": 5}
    config = small("mnist", **{f"sampler__{key}": value for key, value in settings.items()}, sampler__name="tau_leaping")
    denoiser = build.build_denoiser(config, build.build_process(config), build.build_network(config))
    sampler = build.build_sampler(config, denoiser)
    assert isinstance(sampler, samplers.PredictorCorrector)
    assert (sampler.corrector_steps, sampler.step_multiplier, sampler.entry_time) == (2, 0.5, 0.3)
    assert isinstance(sampler.predictor, samplers.TauLeaping)
    assert (sampler.argmax, sampler.sub_batch) == (True, 5)
    assert isinstance(sampler.corrector, samplers.ForwardBackward)
    assert isinstance(sampler.corrector.leap, samplers.OrdinalLeap)
    with pytest.raises(ValueError, match="sampler = 'ddim', expected one of ancestral, euler, tau_leaping"):
        build.build_sampler(config, denoiser, name="ddim")


def test_steps_and_name_have_one_order():
    for function in (build.build_grid, build.build_sampler, Run.sampler):
        parameters = inspect.signature(function).parameters.values()
        assert [each.name for each in parameters if each.default is not each.empty] == ["steps", "name"]
    for function in (build.build_grid, build.build_sampler):
        assert {each.kind for each in inspect.signature(function).parameters.values() if each.default is None} == {
            inspect.Parameter.KEYWORD_ONLY
        }


@pytest.mark.parametrize("variance", build.VARIANCES)
def test_gaussian_samplers(variance):
    settings = {"sampler__variance": variance, "sampler__eta": 0.5, "sampler__clip": 0.0}
    config = small("mnist_iddpm" if variance == "learned" else "mnist_ddpm", **settings)
    _draw(config, name="heun")
    _draw(config, name="ancestral")
    _draw(config, name="ddim")
    denoiser = build.build_denoiser(config, build.build_process(config), build.build_network(config))
    sampler = build.build_sampler(config, denoiser, name="ddim")
    assert isinstance(sampler, continuous.DDIM)
    assert (sampler.eta, sampler.clip, type(sampler.variance)) == (0.5, None, build.VARIANCES[variance])
    with pytest.raises(ValueError, match=r"config\.sampler\.variance = 'learned', expected one of small, large"):
        small("mnist_ddpm", sampler__variance="learned")


@pytest.mark.parametrize("scale", build.SCALES)
@pytest.mark.parametrize(
    ("preset", "form"), [("mnist_guided", "posterior"), *(("mnist_guided_discrete", f) for f in build.GUIDANCE)]
)
def test_guidance(preset, form, scale):
    config = small(preset, sampler__guidance=1.5, sampler__guidance_scale=scale, sampler__guidance_form=form)
    denoiser = build.build_denoiser(config, build.build_process(config), build.build_network(config)).eval()
    guided = build.build_guidance(config, denoiser)
    forms = {"posterior": discrete.PosteriorGuidance, "rate": discrete.RateGuidance}
    assert type(guided) is (continuous.ClassifierFreeGuidance if preset == "mnist_guided" else forms[form])
    assert guided.denoiser is denoiser
    assert guided.null == {"y": 10}
    scales = {
        "constant": ConstantScale(1.5),
        "interval": IntervalScale(1.5, 0.2, 0.8),
        "power_cosine": PowerCosineScale(1.5, 4.0),
    }
    assert guided.scale == scales[scale]
    _draw(config)
    if preset != "mnist_guided":
        _draw(config, name="tau_leaping")
    assert build.build_guidance(small(preset, sampler__guidance=1.0), denoiser) is denoiser
    with pytest.raises(ValueError, match=r"config\.sampler\.guidance = 1\.5, expected 1\.0: config\.model\.num_classes = 0"):
        small(preset, sampler__guidance=1.5, model__num_classes=0)


@pytest.mark.parametrize("preset", ["mnist", "mnist_ddpm"])
def test_labels(preset):
    config = small(preset, model__num_classes=10, loss__label_dropout=0.5)
    objective = build.build_objective(
        config, build.build_denoiser(config, build.build_process(config), build.build_network(config))
    )
    assert (objective.label_dropout, objective.null) == (0.5, {"y": 10})
    x_0, cond = build.build_batches(config, _images(config))[0]
    assert set(cond) == {"y"}
    assert losses_of(objective, x_0, **cond).shape == (4,)
    assert build.build_batches(small(preset), _images(config))[0][1] == {}
    with pytest.raises(ValueError, match=r"10 classes, config\.model\.num_classes = 9"):
        build.build_data(small(preset, model__num_classes=9))


@pytest.mark.parametrize("name", build.OPTIMIZERS)
@pytest.mark.parametrize("schedule", build.FACTORS)
def test_optimisers(name, schedule):
    config = small("mnist", optimizer__name=name, optimizer__schedule=schedule, optimizer__lr=0.01, optimizer__weight_decay=0.3)
    network = build.build_network(config)
    optimizer = build.build_optimizer(config, network)
    scheduler = build.build_scheduler(config, optimizer)
    assert isinstance(optimizer, {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name])
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


def test_auto_precision_is_what_the_processor_is_good_at(tmp_path, monkeypatch):
    for flags, expected in (("avx512f amx_bf16", "bfloat16"), ("avx512f avx512_bf16", "float32")):
        (tmp_path / "cpuinfo").write_text(flags)
        monkeypatch.setattr(precision, "_CPU", tmp_path / "cpuinfo")
        assert precision.resolved_precision("auto", "cpu") == expected
        network = build.build_network(small("mnist", training__precision="auto"))
        assert isinstance(network.backbone, HalfPrecision) == (expected == "bfloat16")
    assert precision.resolved_precision("auto", "cuda") == "float32"
    assert precision.resolved_precision("bfloat16", "cuda") == "bfloat16"


def test_half_precision_stays_in_the_backbone():
    for preset in ("mnist", "mnist_ddpm", "mnist_uvit", "mnist_absorbing"):
        config = small(preset, training__precision="bfloat16")
        network = build.build_network(config)
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


def test_data_sources(tmp_path):
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    options = {"data__name": "array", "data__path": tmp_path / "images.npy", "data__fraction": 1.0, "data__test_fraction": 0.25}
    splits = build.build_data(small("mnist", **options, data__channels=3))
    assert (len(splits.train), len(splits.test), splits.train.shape, splits.train.num_values) == (9, 3, (3, 8, 8), 8)
    with pytest.raises(ValueError, match=r"the images have 3 channels, config\.data\.channels = 1"):
        build.build_data(small("mnist", **options))
    with pytest.raises(ValueError, match=r"expected 0 \.\. 7"):
        build.build_data(small("mnist", **options, data__channels=3, data__quantise=False))
    with pytest.raises(FileNotFoundError):
        build.build_data(small("mnist", data__name="idx", data__path=tmp_path / "absent"))
    for name in ("mnist", "fashion_mnist"):
        with pytest.raises(FileNotFoundError, match="allow the download"):
            build.build_data(small("mnist", data__name=name, data__path=tmp_path))
    for preset in ("mnist", "mnist_ddpm"):
        _step(small(preset, data__channels=3, data__rotation=10.0))
    assert build.event_shape(small("mnist", data__image_size=(9,))) == (1, 9, 9)
    with pytest.raises(ValueError, match=r"config\.data\.image_size"):
        build.event_shape(small("mnist", data__image_size=(9, 9, 9)))


@pytest.mark.parametrize("values", [2, 3, 16])
def test_images_that_are_states_already_are_not_quantised_to_black(values, tmp_path):
    import numpy as np

    images = np.random.default_rng(0).integers(0, values, (12, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "states.npy", images)
    options = {"data__name": "array", "data__path": tmp_path / "states.npy", "data__fraction": 1.0, "data__num_values": values}
    with pytest.raises(ValueError, match=rf"every pixel .* is 0 of config\.data\.num_values = {values} .*quantise = False"):
        build.build_data(small("mnist_absorbing", **options))
    splits = build.build_data(small("mnist_absorbing", **options, data__quantise=False))
    assert sorted(image.numpy().tobytes() for part in (splits.train, splits.test) for image in part.images) == sorted(
        image.tobytes() for image in images
    )


def test_a_folder_of_images(tmp_path):
    from PIL import Image

    for i in range(6):
        Image.new("RGB", (12, 9), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    splits = build.build_data(small("mnist", data__name="folder", data__path=tmp_path, data__fraction=1.0, data__channels=3))
    assert splits.train.shape == (3, 8, 8)
