"""Train with your own rate matrix: one class, trained on MNIST digits and sampled.

    python examples/own_rate_matrix.py
    python examples/own_rate_matrix.py --steps=2000 --out=fading.png

In a rate matrix, the rows sum to zero and the off-diagonal rates are not negative. This one is not reversible.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from backbones import OrdinalInput, PixelLogits, TruncatedLogisticHead, UNet
from ctdiff import data, figures, fit
from diffusion_core import Objective, StratifiedTimes, UniformGrid
from discrete_diffusion import CTMC, CrossEntropy, LeaveOneOutDenoiser
from discrete_diffusion.rates import DenseRates
from discrete_diffusion.samplers import Ancestral
from discrete_diffusion.schedules import LinearSurvival

S = 16


class FadingRates(DenseRates):
    """Pixels fade, and sometimes jump: `R[x, x - 1] = fade + 1 / S` for x > 0, and `1 / S` for all other jumps."""

    def __init__(self, num_states: int, fade: float = 4.0) -> None:
        jumps = torch.full((num_states, num_states), 1 / num_states, dtype=torch.float64)
        jumps += fade * torch.diag(torch.ones(num_states - 1, dtype=torch.float64), -1)
        super().__init__(jumps - torch.diag(jumps.sum(1)))


def main(argv: Sequence[str] | None = None) -> None:
    """Train a small U-Net for a few minutes and draw 16 digits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="training steps")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--sampler_steps", type=int, default=50)
    parser.add_argument("--out", default="fading.png", help="the picture")
    arguments = parser.parse_args(argv)

    digits = data.quantise(data.embedded_mnist().train, S)
    network = PixelLogits(UNet(1, 2, (32, 64), blocks=2), TruncatedLogisticHead(1, S), OrdinalInput(1), num_values=S)
    denoiser = LeaveOneOutDenoiser(CTMC(FadingRates(S), LinearSurvival()), network, event_shape=(1, 28, 28))
    batches = data.Batches(digits.images, None, arguments.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in fit(Objective(denoiser, CrossEntropy(), StratifiedTimes()), batches, optimizer, steps=arguments.steps):
        if step.step % 100 == 0:
            print(step.step, round(step.loss, 3))
    x_0 = Ancestral(denoiser.eval(), UniformGrid(arguments.sampler_steps)).sample(16, seeds=range(16))
    figures.save_grid(arguments.out, x_0, S)


if __name__ == "__main__":
    main()
