"""Every sampler of two runs at the same numbers of network calls, in one picture.

    python examples/compare_samplers.py runs/mnist runs/mnist_ddpm
    python examples/compare_samplers.py runs/mnist runs/mnist_ddpm --calls 8 32 --num_samples=9

Rows are network calls, columns a run and a sampler. Each makes as many steps as its calls pay for: N steps and the last
draw cost N + 1 calls, 2 N + 1 where a step looks twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from ctdiff import build, evaluation, figures, load_run


def main(argv: Sequence[str] | None = None) -> None:
    """Sample the same seeds with all samplers that a run's process has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="the folders of runs, such as a discrete and a continuous one")
    parser.add_argument("--calls", nargs="+", type=int, default=[8, 16, 32, 64, 128, 256], help="network calls a sample")
    parser.add_argument("--num_samples", type=int, default=16)
    parser.add_argument("--t_max", type=float, default=0.99, help="where all begin: at 1 some schedules' rates are infinite")
    parser.add_argument("--out", type=Path, default=Path("samplers.png"), help="the picture")
    arguments = parser.parse_args(argv)

    columns: list[str] = []
    table: list[list[Tensor]] = [[] for _ in arguments.calls]
    for path in arguments.runs:
        run = load_run(path)
        run.config.process.t_max = arguments.t_max
        run.config.sampler.corrector_steps = 0
        for name in build.choices(run.config)["sampler.name"]:
            columns.append(f"{path.name}, {name}")
            cost = evaluation.step_costs(partial(run.sampler, name=name))
            for row, calls in zip(table, arguments.calls, strict=True):
                sampler = run.sampler(steps=evaluation.most_steps(calls, cost) or 1, name=name)
                for state in sampler.trajectory(arguments.num_samples, seeds=range(arguments.num_samples)):
                    last = state
                pixels = figures.to_pixels(run.images(last.x), run.config.data.num_values)
                row.append(figures.tile(pixels, columns=round(arguments.num_samples**0.5)))
                print(f"{columns[-1]}: {last.nfe} network calls")
    figures.save_table(arguments.out, table, [f"{calls} calls" for calls in arguments.calls], columns)
    print(arguments.out)


if __name__ == "__main__":
    main()
