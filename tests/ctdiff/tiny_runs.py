"""Runs of both engines on 8x8 images, trained for a few steps, and extractors that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctdiff import train
from ctdiff.metrics import Extractor, Features, GreyImages, module_extractor

from .small import small

__all__ = ["Linear", "images", "pixels", "random_classifier", "tiny_run"]

ENGINES = ("mnist", "mnist_ddpm")


def images(folder: Path, count: int = 60, seed: int = 0) -> dict[str, Any]:
    """A file of labelled images, as the value of data.* keys."""
    path, rng = folder / f"images_{seed}_{count}.npz", np.random.default_rng(seed)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=rng.integers(0, 256, (count, 8, 8), dtype=np.uint8), labels=np.arange(count) % 10)
    array = {"data__name": "array", "data__array__path": str(path), "data__array__test_fraction": 0.4}
    return {**array, "data__fraction": 1.0}


def tiny_run(folder: Path, name: str, preset: str, **changes: Any) -> Path:
    """Train a preset for 4 steps; the folder `name`."""
    settings = {
        **images(folder),
        "saving__validation_images": 2,
        "saving__preview_every": 9,
        "sampler__num_samples": 1,
        **changes,
    }
    train(small(preset, **settings), folder / name)
    return folder / name


class Linear(nn.Module):
    """A random classifier of 8x8 images in as many classes as is said."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layer, self.head = nn.Linear(64, 6), nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Features:
        pooled = self.layer(x.flatten(1)).tanh()
        return Features(pooled, self.head(pooled))


def random_classifier(classes: int = 10) -> Extractor:
    return module_extractor("random", Linear(classes), GreyImages(8, 8), 6)


def pixels() -> Extractor:
    return module_extractor("pixels", nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), GreyImages(8, 8), 4)
