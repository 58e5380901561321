"""What a noise schedule does to training: Laplace, Cauchy, cosine and linear at equal budget, judged alike.

    python examples/compare_schedules.py
    python examples/compare_schedules.py --steps=300 --config.process.laplace.mu=0 --config.process.laplace.b=0.5

A schedule says how often training sees each noise level. The networks are told that level, not the time, so all are judged
and sampled under one schedule, the cosine: by bits per dimension, and by the error of x_0 at equal log-SNRs. Laplace and Cauchy
are centred where digits are told apart; the second command takes the Laplace that was published for photographs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from continuous_diffusion import bits_per_dim
from ctdiff import build, figures, load_run, train
from ctdiff import config as configuration

SCHEDULES, LEVELS = ("laplace", "cauchy", "cosine", "linear"), (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0)
SHARED = {"model.parameterisation": "karras", "loss.name": "v", "process.t_max": 0.999, "sampler.grid": "log_snr"}
CENTRED = {"process.laplace.mu": -2.0, "process.laplace.b": 1.5, "process.cauchy.mu": -2.0}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, judge and draw once for each schedule; arguments `--config.section.key=value` go to all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each")
    parser.add_argument("--images", type=int, default=100, help="held-out images to judge by, and samples to draw")
    parser.add_argument("--out", type=Path, default=Path("runs/compare_schedules"), help="where runs and picture go")
    sheets, (given, overrides) = [], parser.parse_known_args(argv)

    flags = [f"--config.{key}={value}" for key, value in (SHARED | CENTRED).items()]
    print(f"| schedule | bits/dim | x_0 at {' | '.join(map(str, LEVELS))} |\n|{'---|' * (len(LEVELS) + 2)}")
    for name in SCHEDULES:
        config = configuration.load("mnist_ddpm")
        own = [f"--config.process.schedule={name}", f"--config.training.steps={given.steps}"]
        configuration.override(config, [*flags, *overrides, *own])
        train(config, given.out / name)
        run = load_run(given.out / name)
        run.config.process.update(schedule="cosine", t_max=1.0)
        process = build.build_process(run.config)
        run = replace(run, denoiser=build.build_denoiser(run.config, process, run.denoiser.network).eval())
        x_0 = build.build_pixels(config).encode(build.build_data(config).test.images[: given.images].long())
        noise, times = torch.Generator().manual_seed(0), process.schedule.time(torch.tensor(LEVELS))
        errors = [(run.denoiser(process.sample(x_0, t, noise), t).mean - x_0).square().mean().item() for t in times]
        bits = bits_per_dim(run.denoiser, x_0, draws=64, generator=noise)
        print(f"| {name} | {bits.value:.3f} +- {bits.standard_error:.3f} | {' | '.join(f'{error:.4f}' for error in errors)} |")
        images = run.images(run.sampler().sample(len(x_0), seeds=range(len(x_0)), progress=True))
        sheets.append(figures.tile(figures.to_pixels(images, config.data.num_values), columns=round(len(x_0) ** 0.5)))
    figures.save_table(given.out / "schedules.png", [sheets], [f"{given.steps} steps"], SCHEDULES)


if __name__ == "__main__":
    main()
