"""A batch in 1, 2 and 4 parts is the same batch: times, noise, dropped labels and dropout masks go with the example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from backbones import OrdinalInput, PixelLogits, TruncatedLogisticHead
from ctdiff.training import fit
from diffusion_core import ImportanceTimes, Objective

from .backbones.small_networks import BACKBONES, SMALL, build, perturbed

S, CLASSES = 8, 3


def small(backbone: type, channels: int) -> Any:
    options = {**SMALL, "in_channels": 1, "out_channels": channels, "img_size": (8, 8), "num_classes": CLASSES}
    return build(backbone, **options, dropout=0.1, dropout_attention=0.1)


def objective(backbone: type, engine: str, checkpoint: bool) -> Objective[Any]:
    torch.manual_seed(0)
    if engine == "discrete":
        network: nn.Module = small(backbone, 2)
        network.use_checkpoint = checkpoint
        network = PixelLogits(network, TruncatedLogisticHead(1, S), OrdinalInput(1), S)
        process = discrete.CTMC(discrete.rates.UniformRates(S), discrete.schedules.Constant(3.0))
        denoiser = discrete.LeaveOneOutDenoiser(process, perturbed(network.double()), (1, 8, 8))
        return Objective(denoiser, discrete.ELBO(), ImportanceTimes(), 0.5)
    network = small(backbone, 1)
    network.use_checkpoint = checkpoint
    gaussian = continuous.GaussianProcess(continuous.CosineSchedule())
    reading = continuous.VelocityDenoiser(gaussian, perturbed(network.double()), (1, 8, 8))
    return Objective(reading, continuous.VelocityLoss(), ImportanceTimes(), 0.5)


def gradient(trained: Objective[Any], x_0: Tensor, y: Tensor, parts: int) -> Tensor:
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.0)
    list(fit(trained, [(x_0, {"y": y})], optimizer, steps=1, accumulation=parts, seed=3))
    return torch.cat([parameter.grad.flatten() for parameter in trained.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("engine", ["discrete", "gaussian"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_gradient_is_that_of_the_whole(backbone, engine):
    x_0, y = torch.randint(S, (8, 1, 8, 8)), torch.arange(8) % CLASSES
    x_0 = x_0 if engine == "discrete" else continuous.PixelScale(S).encode(x_0).double()
    whole = gradient(objective(backbone, engine, False), x_0, y, 1)
    for parts, checkpoint in ((2, False), (4, False), (2, True)):
        divided = gradient(objective(backbone, engine, checkpoint), x_0, y, parts)
        assert ((divided - whole).norm() / whole.norm()).item() < 1e-6
    undropped = objective(backbone, engine, False)
    for module in undropped.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    assert ((gradient(undropped, x_0, y, 1) - whole).norm() / whole.norm()).item() > 1e-3  # the masks were in it
