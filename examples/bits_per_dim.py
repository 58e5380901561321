"""Bits per dimension of a trained run on held-out images: a bound, its three terms and its Monte-Carlo standard error.

    python examples/bits_per_dim.py runs/mnist_unet
    python examples/bits_per_dim.py runs/mnist_ddpm --images=200 --draws=64

Both engines bound the same number, the code length of a pixel's value, log2(S) bits where nothing was learned. Evaluations of
the network: images x (draws + the draws of the last step), the weights are the averaged ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from ctdiff import build, load_run
from diffusion_core import GridTimes, StratifiedTimes, TimeSampler, UniformGrid


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the first images of the test set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--draws", type=int, default=16, help="times and noises an image")
    arguments = parser.parse_args(argv)

    run = load_run(arguments.run)
    config, process = run.config, run.config.process
    engine, T, test = (continuous if build.is_gaussian(config) else discrete), process.gaussian.T, build.build_data(config).test
    times: TimeSampler = StratifiedTimes(process.t_min, process.t_max)
    if engine is continuous:  # the chain of T steps, where its schedule is one to sample on
        times = GridTimes(build.build_grid(config, T - 1) if config.sampler.grid == "log_snr" else UniformGrid(T - 1, 1 / T))
    x_0 = build.build_pixels(config).encode(test.images[: arguments.images].long())
    y = test.labels[: arguments.images] if config.model.num_classes and test.labels is not None else None
    generator, parts = torch.Generator().manual_seed(0), []
    for rows in tqdm(torch.arange(len(x_0)).split(10), desc="tens of images", leave=False):
        label = None if y is None else y[rows]
        part = engine.bits_per_dim(run.denoiser, x_0[rows], label, times, arguments.draws, generator=generator)
        parts.append(torch.tensor(part, dtype=torch.float64) * len(rows))
    value, _, diffusion, prior, reconstruction = (torch.stack(parts).sum(0) / len(x_0)).tolist()
    error = torch.stack(parts)[:, 1].square().sum().sqrt().item() / len(x_0)
    print(f"{value:.4f} +- {error:.4f} bits per dimension, {len(x_0)} images of {config.data.num_values} values")
    print(f"diffusion {diffusion:.4f}  prior {prior:.4f}  reconstruction {reconstruction:.4f}")
    if value > torch.tensor(config.data.num_values).log2():
        print("this is more than a guess costs: the bound says nothing of the samples. The reading x0 divides by")
        print("probabilities that vanish at small t; train with --config.model.parameterisation=leave_one_out for a likelihood")


if __name__ == "__main__":
    main()
