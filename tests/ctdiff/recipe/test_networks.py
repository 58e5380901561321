"""A configuration builds its network: parameterisations, families, heads, inputs and precision."""

from __future__ import annotations

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
from ctdiff import recipe
from ctdiff.recipe.schema import Setting, alternatives
from ctdiff.training import precision
from ctdiff.training.precision import HalfPrecision

from ..small import small
from .parts import denoiser_of, draw, step
from .places import TREES


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", ["epsilon", "x0", "v", "karras", "flow"])
def test_gaussian_parameterisations(name, learned):
    settings = {"model__parameterisation__karras__std": 0.4} if name == "karras" else {}
    config = small("mnist_iddpm" if learned else "mnist_ddpm", model__parameterisation__name=name, **settings)
    denoiser = denoiser_of(config)
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
    step(config)
    draw(config)


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
    assert type(denoiser_of(config)) is expected


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
    step(config)


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
    step(config)
    draw(config)


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
        loss = step(config)
        torch.testing.assert_close(loss, step(small(preset)), rtol=0.05, atol=0.05)
