"""Inpainting: complete the lower half of held-out digits, several times for each digit.

    python examples/inpaint.py runs/mnist
    python examples/inpaint.py runs/mnist_ddpm --resample=5 --out=halves.png

Each row shows the digit, its known half, and completions with different seeds. `--resample` is the number of times that each
step is made. More rounds make the two halves fit better. The network calls are proportional to the rounds (docs/guidance.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from ctdiff import figures, load_run
from ctdiff.evaluation import run_splits
from diffusion_core import Inpainting


def main(argv: Sequence[str] | None = None) -> None:
    """Complete a few test digits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a run that was trained without known pixels")
    parser.add_argument("--digits", type=int, default=6, help="the number of digits; each has one row")
    parser.add_argument("--completions", type=int, default=8, help="the number of completions of each digit")
    parser.add_argument("--steps", type=int, help="reverse steps; by default those of the run's configuration")
    parser.add_argument("--resample", type=int, default=3, help="rounds for each step")
    parser.add_argument("--out", default="inpainted.png", help="the picture")
    arguments = parser.parse_args(argv)

    run = load_run(arguments.run)
    digits = run_splits(run.config).test.images[: arguments.digits].long()  # (n, C, H, W)
    known = torch.zeros(digits.shape[1:], dtype=torch.bool)
    known[:, : digits.shape[2] // 2] = True

    x_0 = run.encode(digits.repeat_interleave(arguments.completions, dim=0))
    sampler = Inpainting(run.sampler(arguments.steps), x_0, known, arguments.resample)
    drawn = run.images(sampler.sample(len(x_0), seeds=range(len(x_0)), progress=True))

    shown = torch.where(known, digits, 0)
    rows = torch.cat([digits[:, None], shown[:, None], drawn.unflatten(0, (len(digits), -1))], dim=1)
    figures.save_grid(arguments.out, rows.flatten(0, 1), run.config.data.num_values, columns=rows.shape[1])
    print(
        f"{arguments.out}: {len(digits)} digits, {arguments.completions} completions each, {arguments.resample} rounds per step"
    )


if __name__ == "__main__":
    main()
