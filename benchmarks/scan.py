"""Time and memory of the selective scan against the length of the sequence, forward and backward.

    python benchmarks/scan.py

Each length runs in a process of its own, so that its peak memory is its own. The time is the median of several calls. The
last two columns divide by the length and by the same value of the shortest sequence: 1 means linear.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backbones.scan import selective_scan
from ctdiff.memory import keep_freed_memory

BATCH, HEADS, WIDTH, STATE = 4, 5, 32, 16


def measure(length: int, rounds: int) -> tuple[float, float]:
    """Return the seconds of one call, and the peak of memory in MiB above that before the first call."""
    keep_freed_memory()  # as every command of ctdiff
    torch.manual_seed(0)
    u = torch.randn(BATCH, length, HEADS, WIDTH, requires_grad=True)
    g = (-torch.rand(BATCH, length, HEADS)).requires_grad_()
    b, c = (torch.randn(BATCH, length, STATE, requires_grad=True) for _ in range(2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        selective_scan(u, g, b, c).sum().backward()
        taken.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return statistics.median(taken[1:]), peak / 1024


def main() -> None:
    """Print the table, or be one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384", help="the lengths, with commas between them")
    parser.add_argument("--rounds", type=int, default=9, help="the number of calls that are timed")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(*measure(given.one, given.rounds))
        return
    print(f"batch {BATCH}, {HEADS} heads of {WIDTH}, state {STATE}, float32, {torch.get_num_threads()} threads\n")
    print("| length | seconds | MiB | seconds per position, relative | MiB per position, relative |\n|---|---|---|---|---|")
    first: tuple[float, float] | None = None
    for length in map(int, given.lengths.split(",")):
        command = [sys.executable, __file__, f"--one={length}", f"--rounds={given.rounds}"]
        seconds, memory = map(float, subprocess.check_output(command, text=True).split())
        first = first or (seconds / length, memory / length)
        relative = f"{seconds / length / first[0]:.2f} | {memory / length / first[1]:.2f}"
        print(f"| {length:,} | {seconds:.4f} | {memory:.0f} | {relative} |", flush=True)


if __name__ == "__main__":
    main()
