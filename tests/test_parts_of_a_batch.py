"""A batch in 1, 2 and 4 parts is the same batch: times, noise, dropped labels and dropout masks go with the example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from backbones import OrdinalInput, PixelLogits, TruncatedLogisticHead
from ctdiff.training import fit
from diffusion_core import ConstantScale, ImportanceTimes, Objective, StratifiedTimes
from diffusion_core.dropout import Dropout

from .backbones.small_networks import BACKBONES, SMALL, build, perturbed

S, CLASSES = 8, 3


def small(backbone: type, channels: int) -> Any:
    options = {**SMALL, "in_channels": 1, "out_channels": channels, "img_size": (8, 8), "num_classes": CLASSES}
    return build(backbone, **options, dropout=0.1, dropout_attention=0.1)


def objective(backbone: type, engine: str, recomputed: bool) -> Objective[Any]:
    torch.manual_seed(0)
    if engine == "discrete":
        network: nn.Module = small(backbone, 2)
        network.use_checkpoint = recomputed
        network = PixelLogits(network, TruncatedLogisticHead(1, S), OrdinalInput(1), S)
        process = discrete.CTMC(discrete.rates.UniformRates(S), discrete.schedules.Constant(3.0))
        denoiser = discrete.LeaveOneOutDenoiser(process, perturbed(network.double()), (1, 8, 8))
        return Objective(denoiser, discrete.ELBO(), ImportanceTimes(), 0.5)
    network = small(backbone, 1)
    network.use_checkpoint = recomputed
    gaussian = continuous.GaussianProcess(continuous.CosineSchedule())
    denoiser = continuous.VelocityDenoiser(gaussian, perturbed(network.double()), (1, 8, 8))
    return Objective(denoiser, continuous.VelocityLoss(), ImportanceTimes(), 0.5)


def gradient(trained: Objective[Any], x_0: Tensor, y: Tensor, parts: int, steps: int = 1) -> Tensor:
    """That of the last step; the parameters stay where they are."""
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.0)
    list(fit(trained, [(x_0, {"y": y})] * steps, optimizer, steps=steps, accumulation=parts, seed=3))
    return torch.cat([parameter.grad.flatten() for parameter in trained.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("engine", ["discrete", "gaussian"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_gradient_is_that_of_the_whole(backbone, engine):
    x_0, y = torch.randint(S, (8, 1, 8, 8)), torch.arange(8) % CLASSES
    x_0 = x_0 if engine == "discrete" else continuous.PixelScale(S).encode(x_0).double()
    whole = gradient(objective(backbone, engine, False), x_0, y, 1)
    for parts, recomputed in ((2, False), (4, False), (2, True)):
        divided = gradient(objective(backbone, engine, recomputed), x_0, y, parts)
        assert ((divided - whole).norm() / whole.norm()).item() < 1e-6
    undropped = objective(backbone, engine, False)
    for module in undropped.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    if any(isinstance(module, Dropout) for module in undropped.modules()):
        assert ((gradient(undropped, x_0, y, 1) - whole).norm() / whole.norm()).item() > 1e-3  # the masks were in it


def test_a_density_that_learns_is_one_for_all_parts():
    """From the step on at which it has learned: it learns after the last part."""
    x_0, y = torch.randint(S, (16, 1, 8, 8)), torch.arange(16) % CLASSES
    gradients = []
    for parts in (1, 4):
        trained = objective(BACKBONES[0], "discrete", False)
        trained.times = ImportanceTimes(bins=4, history=2)
        gradients.append(gradient(trained, x_0, y, parts, steps=4))
        assert np.ptp(trained.times.probabilities()) > 0.01
    assert ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item() < 1e-6


@pytest.mark.parametrize("engine", ["discrete", "gaussian"])
def test_both_halves_of_a_guided_batch_have_the_masks_of_their_examples(engine):
    x_0, y = torch.randint(S, (8, 1, 8, 8)), torch.arange(8) % CLASSES
    x_0 = x_0 if engine == "discrete" else continuous.PixelScale(S).encode(x_0).double()
    gradients = []
    for parts in (1, 4):
        inner = objective(BACKBONES[0], engine, False)
        guidance = discrete.PosteriorGuidance if engine == "discrete" else continuous.ClassifierFreeGuidance
        loss = discrete.CrossEntropy() if engine == "discrete" else continuous.X0Loss()
        guided = Objective(guidance(inner.denoiser, ConstantScale(2.0)), loss, StratifiedTimes())
        gradients.append(gradient(guided, x_0, y, parts))
    assert ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item() < 1e-6


class Recomputed(nn.Module):
    """A user's own network, with a part that is run again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 8), Dropout(0.5), nn.Linear(8, 8))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        again: Tensor = checkpoint(self.inner, x, use_reentrant=False) if self.again else self.inner(x)
        return again


def test_what_is_run_again_drops_the_same_numbers():
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        network = Recomputed().double()
        network.again = again
        process = continuous.GaussianProcess(continuous.CosineSchedule())
        trained = Objective(continuous.X0Denoiser(process, network, (8,)), continuous.X0Loss(), StratifiedTimes())
        list(
            fit(trained, [(torch.ones(4, 8, dtype=torch.float64), {})], torch.optim.SGD(network.parameters(), lr=0.0), steps=1)
        )
        gradients.append(network.inner[0].weight.grad)
    torch.testing.assert_close(*gradients)
