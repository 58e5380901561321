"""A training small enough to be repeated: a linear map that removes noise from vectors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ctdiff.training import CosineFactor, MovingAverage, TrainingState, TrainStep, fit, parameter_groups
from diffusion_core import PerSampleRandomness, Sample

__all__ = ["ToyBatches", "ToyObjective", "make", "run", "weights"]


class ToyObjective(nn.Module):
    """`|x_0 - network(x_0 + noise)|^2`, with dropout so that torch's own random state matters."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[Tensor] = []
        self.learned: list[Tensor] = []

    def draw(self, x_0: Tensor, generator: PerSampleRandomness) -> tuple[Sample, dict[str, Tensor]]:
        noise = generator.normal(x_0.shape)
        self.seen.append(noise)
        return Sample(x_0, x_0 + noise, torch.zeros(()), noise), {}

    def forward(self, sample: Sample) -> Tensor:
        return (sample.x_0 - self.network(sample.x_t)).square().sum(1)

    def learn(self, sample: Sample, losses: Tensor) -> None:
        self.learned.append(losses.detach())


class ToyBatches:
    """The batch of a step is a function of its number."""

    def __getitem__(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.randn(8, 4, generator=torch.Generator().manual_seed(step)), {}


def make(steps: int, dropout: float = 0.3) -> tuple[ToyObjective, TrainingState]:
    """A fresh training."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4))
    optimizer = torch.optim.AdamW(parameter_groups(network.parameters(), 0.1), lr=0.02)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, CosineFactor(warmup=2, steps=steps))
    return ToyObjective(network), TrainingState(network, MovingAverage(network, 0.9), optimizer, scheduler)


def run(folder: Path, steps: int, until: int | None = None, keep: int = 2) -> list[TrainStep]:
    """Take up whatever is in the folder and train, saving every step; returns the steps made."""
    objective, state = make(steps)
    start, _ = state.restore(folder)
    made = []
    for step in fit(
        objective, ToyBatches(), state.optimizer, steps=steps, ema=state.ema, scheduler=state.scheduler, clip=1.0, start=start
    ):
        state.save(folder, step.step, keep)
        made.append(step)
        if step.step == until:
            break
    return made


def weights(folder: Path, step: int) -> list[bytes]:
    """The bytes of a checkpoint's weights."""
    return [(folder / f"step_{step:07d}" / f"{name}.safetensors").read_bytes() for name in ("model", "ema")]
