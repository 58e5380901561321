"""Two trainings on one machine: what a step costs alone and beside another, with and without GOMP_SPINCOUNT=1000.

Each training is a process of its own with as many threads as there are cores, as it would be by default, and makes steps
of the `mnist` preset for a fixed time. Two of them begin together, so that each is disturbed the whole time. Of every
process the median step counts; the ratio is that beside another over that alone, and 2 is what sharing costs at least.

    python benchmarks/two_trainings.py                 # 3 rounds of 20 seconds for each of four rows
    python benchmarks/two_trainings.py --seconds 60    # longer ones
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
SETTINGS: dict[str, dict[str, str]] = {"as OpenMP has it": {}, "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"}}


def train(seconds: float, batch: int) -> None:
    """Be one of the processes: make ready, wait for a line, train for some seconds, print the median step in seconds."""
    from ctdiff import config as configuration
    from ctdiff import fit, recipe

    config = configuration.load("mnist", [f"--config.training.batch_size={batch}", "--config.training.precision=float32"])
    network = recipe.build_network(config)
    objective = recipe.build_objective(config, recipe.build_denoiser(config, recipe.build_process(config), network))
    batches = recipe.build_batches(config, recipe.build_data(config).train)
    steps = fit(objective, batches, recipe.part(config, "optimizer")(network.parameters()), steps=10**6)
    next(steps)
    print("ready", flush=True)
    sys.stdin.readline()
    taken, end = [], time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        taken.append(batch / next(steps).images_per_second)
    print(statistics.median(taken), flush=True)


def together(count: int, setting: dict[str, str], seconds: float, batch: int) -> float:
    """The mean of the median steps of so many trainings at once."""
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES} | setting
    command = [sys.executable, __file__, "--worker", f"--seconds={seconds}", f"--batch={batch}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    processes = [subprocess.Popen(command, **pipes) for _ in range(count)]
    for process in processes:
        if process.stdout.readline() != "ready\n":
            raise SystemExit("a training has ended before it began")
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return statistics.mean(float(process.communicate()[0]) for process in processes)


def main() -> None:
    """Print the table, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each training is measured")
    parser.add_argument("--rounds", type=int, default=3, help="how often each row is measured")
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        train(arguments.seconds, arguments.batch)
        return
    print(f"{os.cpu_count()} cores, {arguments.rounds} rounds of {arguments.seconds:g} s; seconds a step are medians")
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    for _ in range(arguments.rounds):  # rounds are interleaved: a machine that speeds up or slows down favours no row
        for name, setting in SETTINGS.items():
            alone, beside = (together(count, setting, arguments.seconds, arguments.batch) for count in (1, 2))
            pairs[name].append((alone, beside))
    for name, found in pairs.items():
        alone, beside = (statistics.median(column) for column in zip(*found, strict=True))
        ratios = [two / one for one, two in found]
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:20s} alone {alone:.3f}, beside another {beside:.3f}, ratio {statistics.median(ratios):.2f} {spread}")


if __name__ == "__main__":
    main()
