"""The global generators of Python, numpy and torch: what a user's own data set or network may draw from.

The project's own noise, data order and samples have streams of their own and take nothing from them. They are seeded
when a training begins and kept in its checkpoints, so that what draws from them is repeated and resumed like the rest.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from diffusion_core import stream_seed

__all__ = ["generator_states", "kept_generators", "restore_generators", "seed_generators"]

# Streams of their own: generators of one kind and one seed would draw the same numbers.
_PYTHON, _NUMPY = 0x707974686F6E, 0x6E756D7079


def seed_generators(seed: int) -> None:
    """Seed all three: torch's with the seed, on every device, the others with what is derived from it."""
    torch.manual_seed(seed)
    random.seed(stream_seed(seed, _PYTHON))
    np.random.seed(stream_seed(seed, _NUMPY) % 2**32)  # noqa: NPY002 - a user's data set may draw from it


def generator_states() -> dict[str, Any]:
    """Where all three stand, as tensors, numbers, strings and lists."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }


def restore_generators(states: Mapping[str, Any]) -> None:
    """Put all three back to where `generator_states` found them."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002


@contextmanager
def kept_generators(seed: int | None = None) -> Iterator[None]:
    """Whatever is drawn while this context lasts, leave all three where they were.

    Arguments:
        seed: what they are seeded with inside; None leaves them.
    """
    states = generator_states()
    if seed is not None:
        seed_generators(seed)
    try:
        yield
    finally:
        restore_generators(states)
