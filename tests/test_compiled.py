"""The objective is a function of tensors: it compiles in one graph, with and without dropout, and gives the same numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from diffusion_core import Objective, StratifiedTimes
from discrete_diffusion import rates, schedules

from .backbones.small_networks import BACKBONES, SMALL, build, compiled, perturbed

S, SHAPE = 8, (1, 8, 8)
CHAINS = {
    "uniform": (rates.UniformRates(S), schedules.Constant(3.0)),
    "birth_death": (rates.BirthDeathRates(S), schedules.Constant(3.0)),
    "gaussian_target": (rates.GaussianTargetRates(S, 2.0, 2.0), schedules.Constant(1.0)),
    "absorbing": (rates.AbsorbingRates(S), schedules.LinearSurvival()),
}
PARAMETERISATIONS = [discrete.LeaveOneOutDenoiser, discrete.X0Denoiser]
LOSSES = [discrete.ELBO(), discrete.CrossEntropy()]
GAUSSIAN = [continuous.EpsilonLoss(), continuous.X0Loss(), continuous.ELBO(), continuous.VLB(), continuous.HybridLoss()]


class Small(nn.Module):
    """A network of a few numbers: the losses are what is compiled."""

    def __init__(self, channels: int, values: int = 0) -> None:
        super().__init__()
        self.first = nn.Embedding(values, 4) if values else nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.last = nn.Linear(5, S) if values else nn.Conv2d(5 * channels, channels, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        h, c = self.first(x).tanh(), c.to(self.last.weight.dtype)
        if isinstance(self.first, nn.Embedding):
            return self.last(torch.cat([h, c.view(-1, 1, 1, 1, 1).expand(*x.shape, 1)], -1))
        return self.last(torch.cat([h, c.view(-1, 1, 1, 1).expand_as(x)], 1))


def chain(name: str, parameterisation: type, loss: Any, network: Any = None) -> Objective[Any]:
    torch.manual_seed(0)
    network = Small(1, S + (name == "absorbing")) if network is None else network
    return Objective(parameterisation(discrete.CTMC(*CHAINS[name]), network, SHAPE), loss, StratifiedTimes())


class Doubled(Small):
    """Twice as many channels out as in."""

    def forward(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        return super().forward(x, c).repeat(1, 2, 1, 1)


def gaussian(loss: Any, parameterisation: type = continuous.EpsilonDenoiser, network: Any = None) -> Objective[Any]:
    torch.manual_seed(0)
    learned = isinstance(loss, continuous.HybridLoss)
    process = continuous.GaussianProcess(continuous.CosineSchedule(), continuous.PixelScale(S))
    network = (Doubled if learned else Small)(1) if network is None else network
    denoiser = parameterisation(process, network, SHAPE)
    denoiser = continuous.LearnedVarianceDenoiser(denoiser) if learned else denoiser
    return Objective(denoiser, loss, StratifiedTimes(0.0 if hasattr(loss, "grid") or learned else 0.01))


def same(objective: Objective[Any], x_0: Tensor, backend: str) -> None:
    """The compiled objective and its gradient are the plain ones; it may be in double precision, as no time is looked at."""
    sample, _ = objective.draw(x_0, torch.Generator().manual_seed(1))

    def measured(module: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        objective.zero_grad()
        losses = module(sample)
        losses.sum().backward()
        slopes = [parameter.grad.flatten() for parameter in objective.parameters() if parameter.grad is not None]
        return losses.detach(), torch.cat(slopes)

    losses, slope = measured(objective)
    compiled_losses, compiled_slope = measured(compiled(objective, backend))
    torch.testing.assert_close(compiled_losses, losses, rtol=1e-4, atol=0, check_dtype=False)
    assert ((compiled_slope - slope).norm() / slope.norm()).item() < 1e-4


def states() -> Tensor:
    return torch.randint(S, (4, *SHAPE), generator=torch.Generator().manual_seed(0))


def pixels() -> Tensor:
    return continuous.PixelScale(S).encode(states())


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("name", CHAINS)
def test_discrete_losses(name, loss):
    for parameterisation in [discrete.AbsorbingDenoiser] if name == "absorbing" else PARAMETERISATIONS:
        same(chain(name, parameterisation, loss), states(), "eager")


@pytest.mark.parametrize("loss", GAUSSIAN, ids=lambda loss: type(loss).__name__)
def test_gaussian_losses(loss):
    for parameterisation in (continuous.EpsilonDenoiser, continuous.KarrasDenoiser):
        same(gaussian(loss, parameterisation), pixels(), "eager")


def test_other_paths_and_schedules():
    rectified = continuous.GaussianProcess(continuous.RectifiedSchedule())
    flow = continuous.FlowDenoiser(rectified, Small(1), SHAPE)
    same(Objective(flow, continuous.FlowMatchingLoss(), StratifiedTimes()), pixels(), "eager")
    sigmoid = continuous.GaussianProcess(continuous.SigmoidSchedule())  # its slope is found by differentiation
    same(
        Objective(continuous.VelocityDenoiser(sigmoid, Small(1), SHAPE), continuous.ELBO(), StratifiedTimes()),
        pixels(),
        "eager",
    )


class Half(discrete.LeaveOneOutDenoiser):
    """The upper rows are given."""

    def active(self, x_0: Tensor, **cond: Tensor) -> Tensor:
        return (torch.arange(8) > 3).view(8, 1).expand(x_0.shape)


def test_scores_and_active_positions():
    for name in ("uniform", "absorbing"):
        same(chain(name, discrete.ScoreDenoiser, discrete.ELBO()), states(), "eager")
    same(chain("birth_death", Half, discrete.ELBO()), states(), "eager")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_dropout(backbone):
    """The masks are a function of seeds, so the compiled network drops the same numbers."""
    settings = {**SMALL, "in_channels": 1, "img_size": SHAPE[1:], "dropout": 0.1, "dropout_attention": 0.1}
    same(gaussian(continuous.EpsilonLoss(), network=perturbed(build(backbone, **settings))), pixels(), "eager")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
@pytest.mark.parametrize("engine", ["discrete", "gaussian"])
def test_this_machine_s_compiler(engine):
    if engine == "discrete":
        same(chain("uniform", discrete.LeaveOneOutDenoiser, discrete.ELBO()), states(), "inductor")
    else:
        same(gaussian(continuous.EpsilonLoss()), pixels(), "inductor")
