"""Draws samples of a run, and computes bits per dimension of held-out images. Both work in pieces that can be saved.

A sample depends only on its seed. So samples that are drawn in pieces, or after an interruption, are the same. The likelihood
bound is computed for blocks of images. Each block has its own random numbers, for the same reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ctdiff import progress, recipe
from ctdiff.data import ImageData
from ctdiff.records import Parts
from ctdiff.runs import Run
from ctdiff.sampling import draw_frames
from diffusion_core import BitsPerDim, Sampler, TimeSampler, stream_seed
from diffusion_core.conditions import check_conditions
from diffusion_core.densities import pilot_times

__all__ = ["Samples", "draw", "likelihood_times", "run_bits_per_dim"]

_PIECE = 128  # the largest number of samples that an interruption loses
_BLOCK = 32  # images in a block
_PILOT = 64  # images that the density of times is learned on


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples and their cost.

    Arguments:
        images: uint8 (N, C, H, W), values 0 .. S - 1.
        nfe: the number of function evaluations (network calls) of a sample.
        seconds: the time of sampling all of them.
    """

    images: Tensor
    nfe: int
    seconds: float


def _piece(
    run: Run, sampler: Sampler[object], seeds: list[int], cond: Mapping[str, Tensor], bar: tqdm
) -> dict[str, np.ndarray]:
    begun = time.perf_counter()

    def moved() -> bool:
        bar.update(
            min(len(seeds) / (sampler.grid.steps + 2), bar.total - bar.n)
        )  # rounding may make the sum larger than the total
        return True

    with run.named():
        drawn = draw_frames(sampler, seeds, cond, run.images, go_on=moved)
    images = drawn.images[-1].to(torch.uint8)
    seconds = time.perf_counter() - begun
    return {"images": images.numpy(), "network_calls": np.array(drawn.last.nfe), "seconds": np.array(seconds)}


def draw(
    run: Run,
    sampler: Sampler[object],
    seeds: list[int],
    cond: Mapping[str, Tensor] | None = None,
    parts: Parts | None = None,
    title: str = "samples",
) -> Samples:
    """Draw a sample for each seed, in pieces.

    Arguments:
        run: the run.
        sampler: a sampler of the run.
        seeds: one seed for each sample.
        cond: a dictionary of the conditions of the network, tensors with one row for each seed. None means no conditions.
        parts: saves finished pieces until all are done, so that an interrupted call can be continued. None saves nothing.
        title: the title of the progress bar.

    Raises:
        ValueError: the number of rows of a condition is not the number of seeds.
    """
    check_conditions(cond or {}, len(seeds))
    size = sampler.sub_batch * max(1, _PIECE // sampler.sub_batch)  # whole sub-batches: the last one alone is padded
    pieces = []
    with progress.bar(title, len(seeds)) as bar:
        for first in range(0, len(seeds), size):
            chosen = seeds[first : first + size]
            given = {name: value[first : first + size] for name, value in (cond or {}).items()}

            def make(chosen: list[int] = chosen, given: Mapping[str, Tensor] = given) -> dict[str, np.ndarray]:
                return _piece(run, sampler, chosen, given, bar)

            pieces.append(make() if parts is None else parts.get(f"samples_{first:06d}", make))
            bar.update(min(first + size, len(seeds)) - bar.n)
    images = torch.from_numpy(np.concatenate([piece["images"] for piece in pieces]))
    return Samples(images, int(pieces[0]["network_calls"]), sum(float(piece["seconds"]) for piece in pieces))


def likelihood_times(run: Run) -> TimeSampler:
    """Return the times at which the likelihood bound of a run is computed.

    For a Markov chain, they are random times in the interval of training. For a Gaussian process, they are the T steps of its
    chain, at uniform times. If the run samples on the grid `bounded_log_snr`, they are T steps of this grid. The log-SNR of
    its schedule is infinite at t = 0 and t = 1.
    """
    return recipe.engine_of(run.config).bound_times(run.config)


def _labelled(run: Run, data: ImageData) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the clean data x_0 of images, and their labels if the network has classes.

    Raises:
        ValueError: the network has classes and the images have no labels.
    """
    x_0 = run.encode(data.images)
    if not run.config.model.num_classes:
        return x_0, {}
    if data.labels is None:
        raise ValueError("the images have no labels, expected a label for each image: the network has classes")
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
) -> BitsPerDim:
    """Compute an upper bound on the bits per dimension of images under the model of a run, with its terms and errors.

    If the network has classes, the images need labels, and guidance is not used. Runs with the same process, images, seed and
    `likelihood_times` use the same noise. So the differences between such runs are more exact than their values.

    Arguments:
        run: the run, of either engine.
        data: images with the values that the run was trained on.
        pilot: other images of the same data. The first 64 are used to learn the density of the random times.
        draws: the number of random draws for each image, an even number of at least 4. A draw is a time and the noise at this
            time.
        seed: the seed of the random numbers.
        parts: saves finished blocks until all are done, so that an interrupted call can be continued. None saves nothing.

    Raises:
        ValueError: `draws` is odd or below 4, or the network has classes and the images have no labels.
    """
    engine = recipe.engine_of(run.config)
    measures, denoiser, bits = engine.package, engine.scored(run.config, run.denoiser), []

    def piece(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return make() if parts is None else parts.get(name, make)

    total = len(data) + min(len(pilot), _PILOT)
    with progress.bar("bits per dimension", total) as bar:

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
