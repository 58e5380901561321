"""Measure the bits per dimension of a trained run on held-out images: the bound, its three terms and its errors.

    python examples/bits_per_dim.py runs/mnist_unet
    python examples/bits_per_dim.py runs/mnist_ddpm --images=2000 --draws=8

Both engines bound the same number: the code length of a pixel value. Without a model, it is log2(S) bits. The cost is
images x draws x 5/4 function evaluations, and 2,048 to learn a density of times. The weights are the moving average (EMA).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ctdiff import load_run, recipe
from ctdiff.evaluation import run_bits_per_dim


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the first images of the test set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--draws", type=int, default=8, help="draws of times and noise for each image")
    arguments = parser.parse_args(argv)

    run = load_run(arguments.run)
    splits, num_values = recipe.build_data(run.config), run.config.data.num_values
    images = splits.test.select(torch.arange(min(arguments.images, len(splits.test))))
    bits = run_bits_per_dim(run, images, splits.train, arguments.draws)
    print(f"{bits.value:.4f} +- {bits.standard_error:.4f} bits per dimension, {len(images)} images of {num_values} values")
    print(f"diffusion {bits.diffusion:.4f}  prior {bits.prior:.4f}  reconstruction {bits.reconstruction:.4f}")
    print(f"for other images +- {bits.image_error:.4f}: standard deviation of single images {bits.image_spread:.4f}")


if __name__ == "__main__":
    main()
