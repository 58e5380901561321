"""A tiny model, made once and shared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ..tiny_runs import tiny_run
from .tiny_models import NAMES, Tiny, push


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("models")
    changes = {"training__steps": 2, "model__num_classes": 10, "sampler__num_samples": 4}
    run = tiny_run(folder, "run", "mnist_ddpm", **changes)
    (run / "classes.json").write_text(json.dumps(NAMES))  # an array of images has no names of classes
    path = f"--config.data.array.path={folder / 'images_0_60.npz'}"
    more = {"limits": "It is tiny; nothing was tested.", "goals": "FID=0.5,FID@2=1", "calls": "2,4", "commit": "abc1234"}
    card = push(run, folder / "tiny", overrides=["--config.sampler.steps=2", path], **more)
    return Tiny(run, folder / "tiny", card)


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the model in an empty working directory, next to the images of its training."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(tiny.model.parent / "images_0_60.npz", tmp_path / "images_0_60.npz")
    shutil.copytree(tiny.model, tmp_path / "copy")
    return tmp_path / "copy"
