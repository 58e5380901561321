"""Bits per dimension of a trained run on held-out images: a bound, its three terms and its Monte-Carlo standard error.

    python examples/bits_per_dim.py runs/mnist_unet
    python examples/bits_per_dim.py runs/mnist_ddpm --images=200 --draws=64

Both engines bound the same number, the code length of a pixel's value, log2(S) bits where nothing was learned. Evaluations of
the network: images x (draws + the draws of the last step), the weights are the averaged ones. `ctdiff evaluate` reports it too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ctdiff import build, load_run
from ctdiff.evaluation import run_bits_per_dim


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the first images of the test set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--draws", type=int, default=16, help="times and noises an image")
    arguments = parser.parse_args(argv)

    run = load_run(arguments.run)
    test, num_values = build.build_data(run.config).test, run.config.data.num_values
    images = test.select(torch.arange(min(arguments.images, len(test))))
    value, error, diffusion, prior, reconstruction = run_bits_per_dim(run, images, arguments.draws, progress=True)
    print(f"{value:.4f} +- {error:.4f} bits per dimension, {len(images)} images of {num_values} values")
    print(f"diffusion {diffusion:.4f}  prior {prior:.4f}  reconstruction {reconstruction:.4f}")
    if value > torch.tensor(num_values).log2():
        print("this is more than a guess costs: the bound says nothing of the samples. The reading x0 divides by")
        print("probabilities that vanish at small t; train with --config.model.parameterisation=leave_one_out for a likelihood")


if __name__ == "__main__":
    main()
