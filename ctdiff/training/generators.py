"""The global random generators of Python, numpy and torch. A data set or a network of the user may draw from them.

The library does not draw noise, data order or samples from these generators. A training seeds them when it begins, and saves
their states in its checkpoints. So a training can be repeated and resumed, even if code of the user draws from them.
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

# Different streams, because generators of the same kind with the same seed draw the same numbers.
_PYTHON, _NUMPY = 0x707974686F6E, 0x6E756D7079


def seed_generators(seed: int) -> None:
    """Seed all three generators. torch gets the seed, on every device. The others get numbers computed from it."""
    torch.manual_seed(seed)
    random.seed(stream_seed(seed, _PYTHON))
    np.random.seed(stream_seed(seed, _NUMPY) % 2**32)  # noqa: NPY002 - a user's data set may draw from it


def generator_states() -> dict[str, Any]:
    """Return the states of all three generators, as tensors, numbers, strings and lists."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }


def restore_generators(states: Mapping[str, Any]) -> None:
    """Restore the states that `generator_states` returned."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002


@contextmanager
def kept_generators(seed: int | None = None) -> Iterator[None]:
    """Make a context that restores the states of all three generators when it ends.

    Arguments:
        seed: the seed of the generators inside the context. None means that they are not seeded.
    """
    states = generator_states()
    if seed is not None:
        seed_generators(seed)
    try:
        yield
    finally:
        restore_generators(states)
