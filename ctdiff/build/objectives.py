"""Training: losses, training times, optimisers and their schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ml_collections import ConfigDict
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from ctdiff import training
from ctdiff.build.arguments import made
from ctdiff.build.processes import build_gaussian_schedule, is_gaussian
from diffusion_core import (
    Denoiser,
    ImportanceTimes,
    Loss,
    Objective,
    StratifiedTimes,
    TimeSampler,
    UniformGrid,
    UniformTimes,
)

__all__ = [
    "CHAIN_LOSSES",
    "DISTANCES",
    "FACTORS",
    "GAUSSIAN_LOSSES",
    "GAUSSIAN_TIMES",
    "LOSSES",
    "OPTIMIZERS",
    "TIMES",
    "WEIGHTS",
    "build_loss",
    "build_objective",
    "build_optimizer",
    "build_scheduler",
    "build_times",
    "build_validation_times",
]

Builder: TypeAlias = Callable[[ConfigDict], Any]

LOSSES: dict[str, Builder] = {
    "cross_entropy": lambda c: discrete.CrossEntropy(),
    "elbo": lambda c: discrete.ELBO(),
    "elbo_and_cross_entropy": lambda c: discrete.WeightedSum(
        (discrete.ELBO(), discrete.CrossEntropy()), (1.0, c.loss.cross_entropy_weight)
    ),
}
DISTANCES: dict[str, Builder] = {
    "l2": lambda c: continuous.SquaredError(),
    "l1": lambda c: continuous.AbsoluteError(),
    "smooth_l1": lambda c: continuous.SmoothAbsoluteError(c.smooth_l1.beta),
}
WEIGHTS: dict[str, Builder] = {
    "none": lambda c: continuous.Unweighted(),
    "min_snr": lambda c: continuous.MinSNR(c.min_snr.gamma),
}
GAUSSIAN_LOSSES: dict[str, Builder] = {
    "epsilon": lambda c: continuous.EpsilonLoss(*_regression(c.loss)),
    "x0": lambda c: continuous.X0Loss(*_regression(c.loss)),
    "v": lambda c: continuous.VelocityLoss(*_regression(c.loss)),
    "hybrid": lambda c: continuous.HybridLoss(continuous.EpsilonLoss(*_regression(c.loss)), _bound(c), c.loss.hybrid.weight),
    "vlb": lambda c: _bound(c),
    "elbo": lambda c: continuous.ELBO(),
}
CHAIN_LOSSES = ("hybrid", "vlb")
"""Losses that are the sum over the steps of a chain, the last of which takes the times from 1 / T to 0."""

TIMES: dict[str, Builder] = {
    "stratified": lambda c: StratifiedTimes(c.process.t_min, c.process.t_max),
    "uniform": lambda c: UniformTimes(c.process.t_min, c.process.t_max),
    "importance": lambda c: ImportanceTimes(c.process.t_min, c.process.t_max, c.loss.importance.bins),
}
GAUSSIAN_TIMES: dict[str, Builder] = {
    **TIMES,
    "log_snr": lambda c: continuous.LogSNRTimes(
        build_gaussian_schedule(c),
        continuous.LaplaceSchedule(c.loss.log_snr.mu, c.loss.log_snr.b),
        c.process.t_min,
        c.process.t_max,
    ),
}
OPTIMIZERS: dict[str, type[training.Optimizer]] = {"adamw": training.AdamW, "adam": training.Adam, "sgd": training.SGD}
FACTORS: dict[str, type[training.LearningRateFactor]] = {
    "constant": training.ConstantFactor,
    "cosine": training.CosineFactor,
}


def _regression(settings: ConfigDict) -> tuple[continuous.Distance, continuous.Weight]:
    return DISTANCES[settings.distance](settings), WEIGHTS[settings.weight](settings)


def _bound(config: ConfigDict) -> continuous.VLB:
    """The bound of the published chain of T times."""
    T = config.process.gaussian.T
    return continuous.VLB(UniformGrid(T - 1, 1 / T))


def build_loss(config: ConfigDict) -> Loss[Any]:
    """The training loss."""
    loss: Loss[Any] = (GAUSSIAN_LOSSES if is_gaussian(config) else LOSSES)[config.loss.name](config)
    return loss


def build_times(config: ConfigDict) -> TimeSampler:
    """The density of training times."""
    times: TimeSampler = (GAUSSIAN_TIMES if is_gaussian(config) else TIMES)[config.loss.times](config)
    return times


def build_validation_times(config: ConfigDict) -> TimeSampler:
    """The density of times of the test loss, the same from the first step to the last: whatever training prefers."""
    return StratifiedTimes(config.process.t_min, config.process.t_max)


def build_objective(config: ConfigDict, denoiser: Denoiser[object]) -> Objective[object]:
    """The training objective."""
    dropout = config.loss.label_dropout if config.model.num_classes else 0.0
    return Objective(denoiser, build_loss(config), build_times(config), dropout)


def build_optimizer(config: ConfigDict, network: nn.Module) -> Optimizer:
    """The optimiser of a network's parameters."""
    return made(OPTIMIZERS[config.optimizer.name], config.optimizer)(network.parameters())


def build_scheduler(config: ConfigDict, optimizer: Optimizer) -> LambdaLR:
    """The schedule of the learning rate."""
    given = {**config.optimizer, "steps": config.training.steps}
    return LambdaLR(optimizer, made(FACTORS[config.optimizer.schedule], given))
