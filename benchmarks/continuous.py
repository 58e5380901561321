"""Time the Gaussian engine in units of diffusers, step for step and with one network.

Every figure is the median of interleaved ratios, our time over theirs, in one process: a step of
DDIM and of DDPM at 64 x 3 x 32 x 32 without the network (what the network returns is ready), and
50-step sampling of a small U-Net, the same module in both libraries. Ours includes reading the
network's output as a denoiser; both clip x_0, and in sampling both recompute the noise from it.
The process is a plain one, as users of diffusers have it: the settings that `ctdiff` makes for
the allocator are left alone.

    python benchmarks/continuous.py               # every row; needs diffusers
    python benchmarks/continuous.py --pairs 31    # more pairs
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backbones import UNet
from continuous_diffusion import DDIM, Ancestral, EpsilonDenoiser, GaussianProcess, LinearSchedule, Sampler
from diffusion_core import State, UniformGrid

SHAPE, BATCH, T = (3, 32, 32), 64, 1000
CALLS, IMAGES = 50, 4
Work = Callable[[], object]


class FixedNoise(nn.Module):
    """Stands in for a network: the same noise for every call."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = torch.randn(BATCH, *SHAPE)

    def forward(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        return self.noise


class PipelineUNet(nn.Module):
    """Our U-Net as diffusers' pipeline wants to call it: timestep k of T is our t = (k + 1) / T."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.config = SimpleNamespace(sample_size=SHAPE[1], in_channels=SHAPE[0])
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, x: Tensor, timestep: Tensor) -> Any:
        return SimpleNamespace(sample=self.network(x, ((timestep + 1) / T).expand(len(x))))


def our_step(sampler: Sampler, x: Tensor) -> Work:
    """One step in the middle of the chain, from the state of a running chain."""
    state: State = sampler.start(x, torch.Generator().manual_seed(0))
    t, s = torch.tensor(sampler.grid.times()[CALLS // 2 : CALLS // 2 + 2], dtype=torch.float64)

    def work() -> None:
        with torch.no_grad():
            sampler.step(state, t, s)

    return work


def their_step(scheduler: Any, x: Tensor, noise: Tensor) -> Work:
    """The same step of a scheduler of diffusers."""
    scheduler.set_timesteps(CALLS)
    timestep, generator = scheduler.timesteps[CALLS // 2], torch.Generator().manual_seed(0)

    def work() -> None:
        with torch.no_grad():
            scheduler.step(noise, timestep, x, generator=generator)

    return work


def rows(diffusers: Any) -> dict[str, tuple[Work, Work, int]]:
    """What is measured: our work, theirs, and how many calls make one measurement."""
    process, grid = GaussianProcess(LinearSchedule(T)), UniformGrid(CALLS - 1, t_min=1 / CALLS)
    fixed, x = FixedNoise(), torch.randn(BATCH, *SHAPE)
    denoiser = EpsilonDenoiser(process, fixed, SHAPE)
    options = {"num_train_timesteps": T, "timestep_spacing": "trailing"}
    ddim, ddpm = diffusers.DDIMScheduler(**options), diffusers.DDPMScheduler(**options)
    network = UNet(in_channels=3, out_channels=3, widths=(32, 64, 64), blocks=1, patch_size=1).eval()
    pipeline = diffusers.DDIMPipeline(unet=PipelineUNet(network), scheduler=diffusers.DDIMScheduler(**options))
    pipeline.set_progress_bar_config(disable=True)
    chain = DDIM(EpsilonDenoiser(process, network, SHAPE), grid, clip=1.0)
    return {
        "DDIM step": (our_step(DDIM(denoiser, grid, clip=1.0), x), their_step(ddim, x, fixed.noise), 50),
        "DDPM step": (our_step(Ancestral(denoiser, grid, clip=1.0), x), their_step(ddpm, x, fixed.noise), 50),
        f"{CALLS}-step sampling of {IMAGES} images, small U-Net": (
            lambda: chain.sample(IMAGES),
            lambda: pipeline(IMAGES, num_inference_steps=CALLS, use_clipped_model_output=True, output_type="pt"),
            1,
        ),
    }


def seconds(work: Work, repeat: int) -> float:
    """How long one call takes, over `repeat` of them."""
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    return (time.perf_counter() - start) / repeat


def measured(ours: Work, theirs: Work, repeat: int, theirs_first: bool) -> tuple[float, float]:
    """One pair, in either order: a machine that speeds up or slows down favours neither."""
    if theirs_first:
        other = seconds(theirs, repeat)
        return seconds(ours, repeat), other
    return seconds(ours, repeat), seconds(theirs, repeat)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="interleaved pairs per row")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    arguments = parser.parse_args()
    if importlib.util.find_spec("diffusers") is None:
        raise SystemExit("diffusers is not installed, and every row is a ratio to it: pip install diffusers")
    import diffusers

    torch.manual_seed(0)
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"{os.cpu_count()} cores, {arguments.pairs} pairs; milliseconds are medians")
    for name, (ours, theirs, repeat) in rows(diffusers).items():
        if arguments.only not in name:
            continue
        ours(), theirs()
        pairs = [measured(ours, theirs, repeat, i % 2 == 1) for i in range(arguments.pairs)]
        ratios = [one / other for one, other in pairs]
        one, other = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:48s} {statistics.median(ratios):6.2f}   {spread:16s}  {one:8.2f} for {other:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
