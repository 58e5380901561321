"""Compare all samplers of two runs at equal numbers of network calls, in one picture.

    python examples/compare_samplers.py runs/mnist runs/mnist_ddpm
    python examples/compare_samplers.py runs/mnist runs/mnist_ddpm --calls 8 32 --num_samples=9

Each row is a number of network calls. Each column is a run and a sampler. Every sampler makes as many steps as these calls
allow. N steps and the last draw take N + 1 calls, or 2 N + 1 calls if each step evaluates the network twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from ctdiff import comparison, figures, load_run, recipe
from ctdiff import config as configuration


def main(argv: Sequence[str] | None = None) -> None:
    """Draw samples with the same seeds from each run, with all samplers of its engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="the folders of runs, such as a discrete and a continuous one")
    parser.add_argument("--calls", nargs="+", type=int, default=[8, 16, 32, 64, 128, 256], help="network calls for each sample")
    parser.add_argument("--num_samples", type=int, default=16)
    parser.add_argument("--t_max", type=float, default=0.99, help="start of sampling; some schedules have infinite rates at 1")
    parser.add_argument("--out", type=Path, default=Path("samplers.png"), help="the picture")
    arguments = parser.parse_args(argv)

    columns: list[str] = []
    table: list[list[Tensor]] = [[] for _ in arguments.calls]
    for path in arguments.runs:
        run = load_run(path)
        flags = [f"--config.sampler.t_max={arguments.t_max}", "--config.sampler.corrector.name=none"]
        configuration.override(run.config, flags, lenient=True)  # only one engine has correctors
        for name in recipe.samplers_of(run.config.process.engine):
            columns.append(f"{path.name}, {name}")
            cost = comparison.nfe_of_steps(partial(run.sampler, name=name))
            for row, calls in zip(table, arguments.calls, strict=True):
                sampler = run.sampler(steps=comparison.most_steps(calls, cost) or 1, name=name)
                for state in sampler.trajectory(arguments.num_samples, seeds=range(arguments.num_samples)):
                    last = state
                pixels = figures.to_pixels(run.images(last.x), run.config.data.num_values)
                row.append(figures.tile(pixels, columns=round(arguments.num_samples**0.5)))
                print(f"{columns[-1]}: {last.nfe} network calls")
    figures.save_table(arguments.out, table, [f"{calls} calls" for calls in arguments.calls], columns)
    print(arguments.out)


if __name__ == "__main__":
    main()
