"""Count samples with a single bright pixel: an evidence floor leaves such pixels in ancestral samples.

    python examples/evidence_floor.py mnist-gaussian
    python examples/evidence_floor.py runs/mnist --floors 0 0.1 --num_samples=500

A pixel is isolated if it is above 100 and its eight neighbours are below 30, of 255. The last line is for held-out images.
docs/mathematics.md explains what the floor is and why it leaves noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ctdiff import config as configuration
from ctdiff import figures, load_run, recipe
from ctdiff.sampling import chosen_labels


def isolated(pixels: Tensor) -> Tensor:
    """Return whether each image has an isolated pixel: integers 0 .. 255, (N, C, H, W) -> bool (N,)."""
    pixels = pixels.float()
    rows, columns = pixels.shape[2:]
    padded = F.pad(pixels, (1, 1, 1, 1))
    places = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    neighbours = torch.stack([padded[..., i : i + rows, j : j + columns] for i, j in places])
    return ((pixels > 100) & (neighbours.amax(0) < 30)).flatten(1).any(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the same seeds with each floor, and print the share of images with an isolated pixel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run of the discrete engine with the parameterisation x0, or a model")
    parser.add_argument("--floors", nargs="+", type=float, default=[0.0, 0.01, 0.1])
    parser.add_argument("--num_samples", type=int, default=192)
    arguments = parser.parse_args(argv)

    run = load_run(arguments.run)
    seeds, values = range(arguments.num_samples), run.config.data.num_values
    cond = chosen_labels(run.config, None, len(seeds))
    for floor in arguments.floors:
        configuration.override(run.config, [f"--config.sampler.evidence_floor={floor}"], sections=("sampler",))
        images = run.images(run.sampler().sample(len(seeds), seeds=seeds, **cond))
        share = isolated(figures.to_pixels(images, values)).double().mean()
        print(f"evidence floor {floor}: {100 * share:.1f} % of {len(images)} samples have an isolated pixel")
    real = recipe.build_data(run.config).test.images
    print(f"real images: {100 * isolated(figures.to_pixels(real, values)).double().mean():.1f} % of {len(real)}")


if __name__ == "__main__":
    main()
