"""Compare noise schedules in training: Laplace, Cauchy, cosine and linear, with equal training and one evaluation.

    python examples/compare_schedules.py
    python examples/compare_schedules.py --config.process.schedule.laplace.mu=0 --config.process.schedule.laplace.b=0.5

A schedule defines how often training draws each noise level. The input of the networks is the noise level, not the time. So
all are evaluated with one schedule, the cosine, by bits per dimension and by the error of x_0 at equal log-SNRs. Laplace and
Cauchy are centred where the digit is decided. The second command uses the Laplace schedule published for photographs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from continuous_diffusion import bits_per_dim
from ctdiff import config as configuration
from ctdiff import figures, load_run, recipe, train

SCHEDULES, LEVELS = ("laplace", "cauchy", "cosine", "linear"), (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0)
SETTINGS = (
    "model.parameterisation.name=karras", "loss.name=v", "process.t_max=0.999", "sampler.grid.name=bounded_log_snr",
    "process.schedule.laplace.mu=-2", "process.schedule.laplace.b=1.5", "process.schedule.cauchy.mu=-2",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate and sample with each schedule; arguments `--config.section.key=value` apply to all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="training steps for each schedule")
    parser.add_argument("--images", type=int, default=100, help="held-out images for evaluation, and samples to draw")
    parser.add_argument("--out", type=Path, default=Path("runs/compare_schedules"), help="the folder of runs and picture")
    given, overrides = parser.parse_known_args(argv)
    configs, sheets = {name: configuration.load("mnist_ddpm") for name in SCHEDULES}, []
    own = [[f"--config.process.schedule.name={name}", f"--config.training.steps={given.steps}"] for name in configs]
    configuration.override_each(configs.values(), [*(f"--config.{flag}" for flag in SETTINGS), *overrides], own)
    print(f"| schedule | bits/dim | x_0 at {' | '.join(map(str, LEVELS))} |\n|{'---|' * (len(LEVELS) + 2)}")
    for name, config in configs.items():
        train(config, given.out / name)
        run = load_run(given.out / name)
        cosine = configuration.changed(run.config, {"process.schedule.name": "cosine", "process.t_max": 1.0})
        process = recipe.build_process(cosine)
        denoiser = recipe.build_denoiser(cosine, process, run.denoiser.network).eval()
        run = replace(run, config=cosine, denoiser=denoiser)
        x_0 = recipe.build_pixels(config).encode(recipe.build_data(config).test.images[: given.images].long())
        noise, times = torch.Generator().manual_seed(0), process.schedule.time(torch.tensor(LEVELS))
        errors = [(run.denoiser(process.sample(x_0, t, noise), t).mean - x_0).square().mean().item() for t in times]
        bits = bits_per_dim(run.denoiser, x_0, draws=64, generator=noise)
        print(f"| {name} | {bits.value:.3f} +- {bits.standard_error:.3f} | {' | '.join(f'{error:.4f}' for error in errors)} |")
        images = run.images(run.sampler().sample(len(x_0), seeds=range(len(x_0)), progress=True))
        sheets.append(figures.tile(figures.to_pixels(images, config.data.num_values), columns=round(len(x_0) ** 0.5)))
    figures.save_table(given.out / "schedules.png", [sheets], [f"{given.steps} steps"], SCHEDULES)


if __name__ == "__main__":
    main()
