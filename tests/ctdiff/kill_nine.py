"""Start a training again and again, kill it at random moments and load what is left; run as a script by test_checkpoints.

torch is imported once and the trainings are forks, so that thirty of them take seconds. A moment is any of a whole
training: making the parts, the steps and their checkpoints, the pictures at the end, and drawing these once more.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from small import small  # beside this script: another package may be called tests

from ctdiff import load_run, train
from ctdiff.runs import RunError
from ctdiff.training import MetricsFile, complete_checkpoints

STEPS = 40


def configuration(path: Path) -> ConfigDict:
    """The preset with a tiny network and data set, and a checkpoint after every step."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.save(path, images)
    saving = {"saving__checkpoint_every": 1, "saving__preview_every": 50, "saving__validate_every": 50}
    data = {"data__name": "array", "data__array__path": path, "data__fraction": 1.0}
    return small("mnist", **data, **saving, training__steps=STEPS)


def start(config: ConfigDict, folder: Path) -> int:
    """A training in a process of its own; returns its id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if train(config, folder).step == config.training.steps else 2
        finally:
            os._exit(status)
    return pid


def seconds_of_five_steps(folder: Path) -> float:
    """How long a short training takes here, from the fork to its last picture: the measure of moments to kill at."""
    config = configuration(folder / "images.npy")
    config.training.steps = 5
    began = time.perf_counter()
    os.waitpid(start(config, folder / "short"), 0)
    return time.perf_counter() - began


def load(folder: Path, reached: int) -> int:
    """Load the run; returns the step of its newest checkpoint, which has to be the one that is loaded."""
    found = complete_checkpoints(folder / "checkpoints")
    if not found:
        with pytest.raises(RunError, match=r"is not a run|has no checkpoint yet"):
            load_run(folder)
        return 0
    run = load_run(folder)
    assert run.step == found[-1][0] >= reached, (run.step, found, reached)
    return run.step


def wait(run: Path, reached: int, longest: float, delays: random.Random) -> None:
    """Wait for a random moment: some steps further than the run has come, or, at times and at its end, any time at all.

    Steps are looked at, as a machine that has become faster or slower would pass all of them, or none.
    """
    if reached == STEPS or delays.random() < 0.3:
        time.sleep(delays.uniform(0.0, longest))
        return
    ends, wanted = time.perf_counter() + 10 * longest, min(reached + delays.randint(1, 4), STEPS)
    newest = run / "checkpoints" / f"step_{wanted:07d}"
    while not newest.exists() and time.perf_counter() < ends:
        time.sleep(0.002)
    time.sleep(delays.uniform(0.0, 0.05))


def main(folder: Path, kills: int) -> None:
    """Kill `kills` times, loading the run after each, then let it end and compare it with one that nothing happened to."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")  # a broken checkpoint that load_run passes over is one too many
    warnings.simplefilter("ignore", DeprecationWarning)  # matplotlib calls deprecated functions of pyparsing
    config, run, whole = configuration(folder / "images.npy"), folder / "run", folder / "whole"
    train(config, whole)  # and all that is slow at its first use is done, which forks would spend their short lives on
    delays, longest, reached = random.Random(0), min(seconds_of_five_steps(folder), 3.0), []
    for _ in range(kills):
        pid = start(config, run)
        wait(run, max(reached, default=0), longest, delays)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        reached.append(load(run, max(reached, default=0)))
    _, status = os.waitpid(start(config, run), 0)
    assert status == 0, f"the training in {run} ended with {status}"
    recorded = [record["step"] for record in MetricsFile.read(run / "metrics.jsonl") if "loss" in record]
    assert recorded == list(range(1, STEPS + 1)), "metrics.jsonl has gaps or duplicates"
    assert not list(run.rglob(".*")), "half-written files stayed"
    for name in ("model", "ema"):
        ours, expected = (p / "checkpoints" / f"step_{STEPS:07d}" / f"{name}.safetensors" for p in (run, whole))
        assert ours.read_bytes() == expected.read_bytes(), f"{name} is another one"
    print(json.dumps({"kills": kills, "reached": reached}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
