"""What is measured of a run: samples, drawn in pieces, and the bits per dimension of held-out images.

Samples have seeds, and a sample depends on its seed alone. So they can be drawn piece by piece, in several sittings,
and are the same. The likelihood bound is taken in blocks of images, each with random numbers of its own, for the same reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ctdiff import recipe
from ctdiff.data import ImageData
from ctdiff.evaluation.records import Parts
from ctdiff.runs import Run
from diffusion_core import BitsPerDim, Sampler, TimeSampler, stream_seed
from diffusion_core.conditions import check_conditions
from diffusion_core.densities import pilot_times

__all__ = ["Drawn", "draw", "likelihood_times", "run_bits_per_dim"]

_PIECE = 128  # samples that an interruption may lose, at most
_BLOCK = 32  # images of a block
_PILOT = 64  # images that the density of times is learned on
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples, and what they cost.

    Arguments:
        images: uint8 (N, C, H, W), values 0 .. S - 1.
        network_calls: network evaluations a sample.
        seconds: in all, without what is not sampling.
    """

    images: Tensor
    network_calls: int
    seconds: float


def _piece(
    run: Run, sampler: Sampler[object], seeds: list[int], cond: Mapping[str, Tensor], bar: tqdm
) -> dict[str, np.ndarray]:
    begun = time.perf_counter()
    with run.named():
        for state in sampler.trajectory(len(seeds), generator=None, seeds=seeds, progress=False, **cond):
            last = state
            bar.update(min(len(seeds) / (sampler.grid.steps + 2), bar.total - bar.n))  # thirds add up to more than 1 at times
    images = run.images(last.x).to("cpu", torch.uint8)
    seconds = time.perf_counter() - begun
    return {"images": images.numpy(), "network_calls": np.array(last.nfe), "seconds": np.array(seconds)}


def draw(
    run: Run,
    sampler: Sampler[object],
    seeds: list[int],
    cond: Mapping[str, Tensor] | None = None,
    parts: Parts | None = None,
    title: str = "samples",
    progress: bool = False,
) -> Drawn:
    """Draw a sample for each seed, in pieces.

    Arguments:
        run: whose samples they are.
        sampler: one of the run's.
        seeds: one a sample.
        cond: conditions of the network by name, N rows each; None is none.
        parts: where pieces are kept until all are there; None keeps none.
        title: what the progress bar says.
        progress: show it.

    Raises:
        ValueError: a condition has another number of rows than there are seeds.
    """
    check_conditions(cond or {}, len(seeds))
    size = sampler.sub_batch * max(1, _PIECE // sampler.sub_batch)  # whole sub-batches: the last one alone is padded
    pieces = []
    with tqdm(total=len(seeds), desc=title, bar_format=_BAR, disable=not progress, leave=False) as bar:
        for first in range(0, len(seeds), size):
            chosen = seeds[first : first + size]
            given = {name: value[first : first + size] for name, value in (cond or {}).items()}

            def make(chosen: list[int] = chosen, given: Mapping[str, Tensor] = given) -> dict[str, np.ndarray]:
                return _piece(run, sampler, chosen, given, bar)

            pieces.append(make() if parts is None else parts.get(f"samples_{first:06d}", make))
            bar.update(min(first + size, len(seeds)) - bar.n)
    images = torch.from_numpy(np.concatenate([piece["images"] for piece in pieces]))
    return Drawn(images, int(pieces[0]["network_calls"]), sum(float(piece["seconds"]) for piece in pieces))


def likelihood_times(run: Run) -> TimeSampler:
    """The times of a run's bound: all of the trained interval; of a Gaussian process the steps of the chain of T times.

    Where the chain's schedule has no ends (the run samples on the grid `bounded_log_snr`), the T steps are those of that grid.
    """
    return recipe.engine_of(run.config).bound_times(run.config)


def _labelled(run: Run, data: ImageData) -> tuple[Tensor, dict[str, Tensor]]:
    """Images as the run's process takes them, and their labels where the network takes some.

    Raises:
        ValueError: a conditional run and images without labels.
    """
    x_0 = run.encode(data.images)
    if not run.config.model.num_classes:
        return x_0, {}
    if data.labels is None:
        raise ValueError("the images have no labels, expected some: the network is conditional")
    return x_0, {"y": data.labels.to(x_0.device)}


def _arrays(bits: BitsPerDim) -> dict[str, np.ndarray]:
    return {item.name: getattr(bits, item.name).numpy() for item in fields(BitsPerDim)}


def run_bits_per_dim(
    run: Run,
    data: ImageData,
    pilot: ImageData,
    draws: int = 16,
    seed: int = 0,
    parts: Parts | None = None,
    progress: bool = False,
) -> BitsPerDim:
    """Bits per dimension of images under a run, of either engine: a bound, its three terms, its errors.

    The model is the conditional one, without guidance, where the network has classes; the images then have labels. Runs of one
    process, given the same images and seed, get the same noise, so that their differences are more exact than their values
    if `likelihood_times` is the same too.

    Arguments:
        run: the run.
        data: images with the values that the run was trained on.
        pilot: other such images; the density of times is learned on the first 64 of them.
        draws: times and noises an image: an even number, at least 4.
        seed: of the random numbers.
        parts: where blocks of images are kept until all are there; None keeps none.
        progress: show a progress bar.

    Raises:
        ValueError: draws are none of these, or a conditional run and images without labels.
    """
    engine = recipe.engine_of(run.config)
    measures, denoiser, bits = engine.package, engine.sampled(run.config, run.denoiser), []

    def piece(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return make() if parts is None else parts.get(name, make)

    total = len(data) + min(len(pilot), _PILOT)
    with tqdm(total=total, desc="bits/dim", bar_format=_BAR, disable=not progress, leave=False) as bar:

        def learn() -> dict[str, np.ndarray]:
            x_0, cond = _labelled(run, pilot.select(torch.arange(min(len(pilot), _PILOT))))
            noise = torch.Generator().manual_seed(stream_seed(seed, 0))
            with run.named():
                return {"masses": measures.learn_times(denoiser, x_0, likelihood_times(run), generator=noise, **cond).masses}

        times = pilot_times(likelihood_times(run)).with_masses(piece("bits_times", learn)["masses"].tolist())
        bar.update(total - len(data))
        for first in range(0, len(data), _BLOCK):
            block = data.select(torch.arange(first, min(first + _BLOCK, len(data))))

            def make(first: int = first, block: ImageData = block) -> dict[str, np.ndarray]:
                noise = torch.Generator().manual_seed(stream_seed(seed, 1, first))
                x_0, cond = _labelled(run, block)
                with run.named():
                    return _arrays(measures.bits_per_dim(denoiser, x_0, times, draws, generator=noise, **cond))

            arrays = piece(f"bits_{first:06d}", make)
            bits.append(BitsPerDim(**{name: torch.from_numpy(array) for name, array in arrays.items()}))
            bar.update(len(block))
    return BitsPerDim.concatenated(bits)
