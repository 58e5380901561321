"""Load a run and draw samples from it.

    python examples/sample.py runs/mnist
    python examples/sample.py runs/mnist --num_samples=16 --steps=50 --out=digits.png
    python examples/sample.py runs/mnist_ddpm --sampler=ddim --steps=20

`ctdiff sample RUN` does the same and also saves the integers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ctdiff import figures, load_run


def main(argv: Sequence[str] | None = None) -> None:
    """Draw samples with the seeds 0, 1, 2, ..., so that every call gives the same picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("--num_samples", type=int, default=64)
    parser.add_argument("--steps", type=int, help="reverse steps; by default those of the run's configuration")
    parser.add_argument("--sampler", help="the sampler's name; by default that of the run's configuration")
    parser.add_argument("--out", default="samples.png", help="the picture")
    arguments = parser.parse_args(argv)

    run = load_run(arguments.run)
    sampler = run.sampler(arguments.steps, arguments.sampler)
    x_0 = sampler.sample(arguments.num_samples, seeds=range(arguments.num_samples), progress=True)
    figures.save_grid(arguments.out, run.images(x_0), run.config.data.num_values)
    print(f"{arguments.out}: {len(x_0)} samples of {type(sampler).__name__}, {sampler.grid.steps} steps")


if __name__ == "__main__":
    main()
