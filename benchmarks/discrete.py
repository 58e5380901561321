"""Time the discrete engine without a network, in units of one float32 matrix product.

The unit is (50176 x 256)(256 x 256) in the same process, run before every measurement; the
figure is the median of the ratios. Batch 64, 28 x 28 pixels, 256 grey levels, Gaussian-target
rates. Peak memory is measured in a fresh process.

    python benchmarks/discrete.py                 # every row
    python benchmarks/discrete.py --pairs 15      # more pairs
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctdiff.memory import keep_freed_memory
from diffusion_core import State, UniformGrid, as_randomness
from diffusion_core.distributions import TruncatedLogistic
from discrete_diffusion import CTMC, ELBO, CrossEntropy, LeaveOneOutDenoiser, X0Denoiser
from discrete_diffusion.rates import GaussianTargetRates, UniformRates
from discrete_diffusion.samplers import Ancestral, Euler, OrdinalLeap, Sampler, TauLeaping
from discrete_diffusion.schedules import Constant, Exponential

SHAPE, S = (1, 28, 28), 256
BATCH = 64
Work = Callable[[], object]


class FixedLogits(torch.nn.Module):
    """Stands in for a network: the same logits for every call."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.randn(BATCH, *SHAPE, S))

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.logits


class FixedLogistic(torch.nn.Module):
    """Stands in for a network with the truncated-logistic head."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = torch.nn.Parameter(torch.randn(2, BATCH, *SHAPE))

    def distribution(self, x: Tensor, t: Tensor, **cond: Tensor) -> TruncatedLogistic:
        return TruncatedLogistic(self.outputs[0], self.outputs[1] - 2, S)


def loss_work(denoiser: X0Denoiser | LeaveOneOutDenoiser, loss: ELBO | CrossEntropy, x_0: Tensor) -> Work:
    """One training step's loss, forward and backward, noising included."""

    def work() -> None:
        denoiser.zero_grad(set_to_none=True)
        t = 0.01 + 0.99 * (torch.arange(BATCH) + torch.rand(BATCH)) / BATCH
        loss(denoiser, loss.draw(denoiser.process, x_0, t)).sum().backward()

    return work


def step_work(sampler: Sampler, x: Tensor, t: float, h: float) -> Work:
    """One sampler step; the length varies a little, so that no table of an earlier call serves again."""

    def work() -> None:
        begin = t + 1e-4 * torch.rand((), dtype=torch.float64)
        with torch.no_grad():
            sampler.step(State(x, begin, as_randomness(None)), begin, begin - h)

    return work


def rows(x_0: Tensor) -> dict[str, Work]:
    """Every measured piece of work by name."""
    process = CTMC(GaussianTargetRates(S, 6.0, 512.0), Exponential(3.0, 100.0))
    logits, logistic = FixedLogits(), FixedLogistic()
    x_half = process.sample(x_0, torch.tensor(0.5))
    grid = UniformGrid(100)
    loo, x0 = LeaveOneOutDenoiser(process, logits, SHAPE), X0Denoiser(process, logits, SHAPE)
    logistic_x0 = X0Denoiser(process, logistic, SHAPE)
    uniform = LeaveOneOutDenoiser(CTMC(UniformRates(S), Constant(4.0)), logits, SHAPE)
    return {
        "ELBO, forward and backward": loss_work(loo, ELBO(), x_0),
        "cross-entropy with noising, categorical head": loss_work(x0, CrossEntropy(), x_0),
        "cross-entropy with noising, logistic head": loss_work(logistic_x0, CrossEntropy(), x_0),
        "tau-leaping step, t = 0.5, h = 1e-3": step_work(TauLeaping(loo, grid, leap=OrdinalLeap()), x_half, 0.5, 1e-3),
        "ancestral step, categorical head": step_work(Ancestral(x0, grid), x_half, 0.5, 1e-2),
        "ancestral step, logistic head": step_work(Ancestral(logistic_x0, grid), x_half, 0.5, 1e-2),
        "uniform Euler step": step_work(Euler(uniform, grid), x_0, 0.5, 1e-2),
    }


def flow_matching_step(x_0: Tensor) -> Work | None:
    """One Euler step of flow_matching's discrete solver on the same logits, if it is installed."""
    if importlib.util.find_spec("flow_matching") is None:
        return None
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler
    from flow_matching.solver import MixtureDiscreteEulerSolver
    from flow_matching.utils import ModelWrapper

    probs = torch.randn(BATCH, *SHAPE, S).softmax(-1)

    class Fixed(ModelWrapper):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return probs

    path = MixtureDiscreteProbPath(scheduler=PolynomialConvexScheduler(n=1.0))
    solver = MixtureDiscreteEulerSolver(model=Fixed(torch.nn.Identity()), path=path, vocabulary_size=S)
    grid = torch.tensor([0.5, 0.51])
    return lambda: solver.sample(x_init=x_0, step_size=None, time_grid=grid)


def seconds(work: Work) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_of(name: str) -> float:
    """The peak resident memory in GB that one piece of work adds, in a fresh process."""
    output = subprocess.run([sys.executable, __file__, "--peak", name], capture_output=True, text=True, check=True).stdout
    return float(output.split()[-1])


def print_peak(name: str, x_0: Tensor) -> None:
    """Print the resident memory in GB that the work adds to what its inputs and tables hold."""
    work = rows(x_0)[name]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    work()
    work()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident) / 1e9)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=11, help="interleaved pairs per row")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    x_0 = torch.randint(0, S, (BATCH, *SHAPE))
    if arguments.peak:
        print_peak(arguments.peak, x_0)
        return
    a, b = torch.randn(BATCH * 784, S), torch.randn(S, S)
    work = {name: call for name, call in rows(x_0).items() if arguments.only in name}
    peer = flow_matching_step(x_0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, {arguments.pairs} pairs")
    for name, call in work.items():
        call()
        ratios = []
        for _ in range(arguments.pairs):
            unit = seconds(lambda: a @ b)
            ratios.append(seconds(call) / unit)
        print(f"{name:48s} {statistics.median(ratios):6.2f}   ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    if not arguments.only:
        print(f"{'peak memory of the ELBO beyond its inputs':48s} {peak_of('ELBO, forward and backward'):6.2f} GB")
    if peer is None:
        print("flow_matching is not installed: no peer row (pip install flow_matching)")
    elif "uniform Euler step" in work:
        peer()
        faster = [seconds(peer) / seconds(work["uniform Euler step"]) for _ in range(arguments.pairs)]
        spread = f"({min(faster):.2f} to {max(faster):.2f})"
        print(f"{'flow_matching Euler step / ours':48s} {statistics.median(faster):6.2f}   {spread}")


if __name__ == "__main__":
    main()
