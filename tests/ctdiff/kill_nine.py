"""Start the toy training again and again and kill it at random moments; run as a script by test_checkpoints.

torch is imported once and the trainings are forks, so that thirty of them take seconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from ctdiff.training import MetricsFile, fit
from ctdiff.training.checkpoints import read_weights, remove_leftovers
from tests.ctdiff import toy

STEPS = 100_000  # never reached: every training is killed, but the last one


def child(folder: Path, until: int = STEPS) -> None:
    """Train from whatever is there, with a metrics file."""
    objective, state = toy.make(STEPS)
    remove_leftovers(folder / "checkpoints")
    start, broken = state.restore(folder / "checkpoints")
    assert not broken, broken
    metrics = MetricsFile(folder / "metrics.jsonl", start)
    options = {"ema": state.ema, "scheduler": state.scheduler, "clip": 1.0, "start": start}
    for step in fit(objective, toy.ToyBatches(), state.optimizer, steps=STEPS, **options):
        metrics.write({"step": step.step, "loss": step.loss})
        if step.step % 2 == 0 or step.step == until:
            state.save(folder / "checkpoints", step.step)
        if step.step == until:
            break


def uninterrupted(until: int) -> dict[str, torch.Tensor]:
    """The averaged weights of a training that nothing happened to."""
    objective, state = toy.make(STEPS)
    for step in fit(
        objective, toy.ToyBatches(), state.optimizer, steps=STEPS, ema=state.ema, scheduler=state.scheduler, clip=1.0
    ):
        if step.step == until:
            break
    return state.ema.module.state_dict()


def main(folder: Path, kills: int) -> None:
    """Kill `kills` times, look at the run after each, then let it make five more steps."""
    torch.set_num_threads(1)
    delays, reached = random.Random(0), 0
    for attempt in range(kills + 1):
        pid = os.fork()
        if pid == 0:
            child(folder, reached + 5 if attempt == kills else STEPS)
            os._exit(0)
        if attempt < kills:
            time.sleep(delays.uniform(0.005, 0.15))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert (os.WIFSIGNALED(status) and attempt < kills) or status == 0, f"training {attempt} ended with {status}"
        _, state = toy.make(STEPS)
        step, broken = state.restore(folder / "checkpoints")
        assert not broken, broken
        assert step >= reached, (step, reached)
        if attempt < kills:
            reached = step
    last = reached + 5
    recorded = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert recorded == list(range(1, last + 1)), "metrics.jsonl has gaps or duplicates"
    assert not list((folder / "checkpoints").glob(".*")), "half-written folders stayed"
    ours, expected = read_weights(folder / "checkpoints" / f"step_{last:07d}" / "ema.safetensors"), uninterrupted(last)
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items()), "the result is another one"
    print(json.dumps({"kills": kills, "reached": reached}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
