"""The speedrun: how good are the digits of a preset after how many seconds of training?

Each seed is a training of its own, as by `ctdiff train`. Its time is all that this command takes: steps, test losses,
previews and the final samples. Then 2,000 samples of 32 steps are compared with the held-out digits. The table has a row for
each seed. Below are the means with their standard errors, and the best known result. It was measured on another machine or
on another day, so compare seconds only within one table.

    python benchmarks/speedrun.py                                  # the preset mnist, seeds 0, 1, 2: repeats the record
    python benchmarks/speedrun.py --seeds=0 --config.optimizer.name=adamw --config.training.batch_size=64
    python benchmarks/speedrun.py --config=mnist_unet --out=runs/another

An interrupted speedrun goes on where it stopped, but then its seconds are those of the last part. The column `whole` is
then `no`.
docs/training_speed.md lists the attempts so far.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RECORD = "preset mnist, 4,000 steps of 32 digits, seeds 0, 1, 2: FID 3.55, 3.31, 3.11 (2,000 samples of 32 steps)"
"""The best known result, with its settings."""


def measure(preset: str, seed: int, folder: Path, samples: int, steps: int, changes: list[str]) -> dict[str, float | str]:
    """Train one seed, measure its samples, and return a row of the table."""
    from ctdiff import config as configuration
    from ctdiff import evaluation
    from ctdiff.trainer import train
    from ctdiff.training import MetricsFile

    config = configuration.load(preset, [f"--config.training.seed={seed}", "--config.saving.validation_images=2000", *changes])
    began = (folder / "metrics.jsonl").exists()
    wall, cores = time.perf_counter(), time.process_time()
    if train(config, folder).stopped_by is not None:
        raise SystemExit(f"{folder} is not finished: run the same command again")
    wall, cores = time.perf_counter() - wall, time.process_time() - cores
    report = evaluation.evaluate_run(
        folder, evaluation.build_extractor("mnist-cnn"), num_samples=samples, steps=steps, likelihood_images=0
    )
    loss = [record["validation_loss"] for record in MetricsFile.read(folder / "metrics.jsonl") if "validation_loss" in record]
    metrics = report.checkpoints[-1].metrics
    return {
        "seed": seed,
        "seconds": wall,
        "core-seconds": cores,
        "whole": "no" if began else "yes",
        "test loss": loss[-1],
        **{name: metrics[name].value for name in ("FID", "precision", "coverage")},
    }


def main() -> None:
    """Read the command line, train, and print the table."""
    from ctdiff.machine import description

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mnist", help="the preset")
    parser.add_argument("--seeds", default="0,1,2", help="the seeds of the trainings, with commas between them")
    parser.add_argument("--samples", type=int, default=2000, help="the number of samples that are measured")
    parser.add_argument("--steps", type=int, default=32, help="the number of steps of a sample")
    parser.add_argument("--out", type=Path, default=Path("runs/speedrun"), help="the folder of the runs")
    given, changes = parser.parse_known_args()
    rows = []
    for seed in map(int, given.seeds.split(",")):
        rows.append(measure(given.config, seed, given.out / f"seed_{seed}", given.samples, given.steps, changes))
        print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".4g"), flush=True)
    if len(rows) > 1:
        for name in ("seconds", "core-seconds", "test loss", "FID", "precision", "coverage"):
            values = [float(row[name]) for row in rows]
            error = statistics.stdev(values) / math.sqrt(len(values))
            print(f"{name}: {statistics.mean(values):.4g}, standard error {error:.2g}")
    processor = description()["processor"]
    print(f"processor: {processor['model']}, {processor['used by torch']}, {processor['threads of torch']} threads")
    print(f"record: {RECORD}")


if __name__ == "__main__":
    main()
