"""The global generators of Python, numpy and torch: seeded when a training begins, and resumed with it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from ctdiff import recipe, train
from ctdiff.data import Batches, EmbeddedMNIST, data_record, from_dataset
from ctdiff.runs import RunFolder
from ctdiff.training import MetricsFile
from ctdiff.training.generators import generator_states, kept_generators, restore_generators, seed_generators

from .small import small


def draws() -> list[float]:
    """A number of each generator."""
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002


class Drawn(torch.utils.data.Dataset):
    """Ten images, each of which has a row of pixels from each of the three generators."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        rows = [[random.randrange(256) for _ in range(8)], np.random.randint(0, 256, 8), torch.randint(256, (8,))]  # noqa: NPY002
        image = torch.zeros(8, 8)
        image[:3] = torch.stack([torch.as_tensor(row) for row in rows])
        return image.to(torch.uint8)


@pytest.fixture
def source(monkeypatch):
    """A user's data set in the place of a source's, and batches that are noised from all three generators."""
    monkeypatch.setattr(EmbeddedMNIST, "load", lambda self: from_dataset(Drawn(), test_fraction=0.3))
    plain = Batches.__getitem__

    def augmented(self, step):
        x_0, y = plain(self, step)
        return x_0 + sum(draws()) / 100, y

    monkeypatch.setattr(Batches, "__getitem__", augmented)


def trained(folder):
    """The losses of a training, the images it was of, and its last weights."""
    config = small("mnist_ddpm", data__fraction=1.0, saving__preview_every=9, sampler__num_samples=1)
    train(config, folder)
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    losses = [record.get("loss", record.get("validation_loss")) for record in MetricsFile.read(folder / "metrics.jsonl")]
    return losses, data_record(recipe.build_data(RunFolder(folder).read_config())), (newest / "ema.safetensors").read_bytes()


def test_a_training_on_data_that_are_drawn_is_repeated_and_resumed(source, tmp_path):
    first = trained(tmp_path / "first")
    draws()
    random.seed(5)
    assert trained(tmp_path / "second") == first
    other = recipe.build_data(small("mnist_ddpm", data__fraction=1.0, training__seed=1))
    assert data_record(other)["train"]["sha256"] != first[1]["train"]["sha256"]
    for path in (tmp_path / "second" / "checkpoints" / "step_0000004").iterdir():
        path.unlink()
    (tmp_path / "second" / "checkpoints" / "step_0000004").rmdir()
    draws()
    assert trained(tmp_path / "second") == first, "from step 2 on"


def test_each_generator_has_a_seed_of_its_own():
    seed_generators(7)
    first = draws()
    assert len(set(first)) == 3
    seed_generators(7)
    assert draws() == first
    seed_generators(2**40 + 7)  # numpy's takes 32 bits
    assert all(one != other for one, other in zip(draws()[:2], first[:2], strict=True)), "torch's takes the lower 32 alone"
    torch.manual_seed(7)
    assert draws()[2] == first[2], "the seed itself is torch's"


def test_states_are_put_back():
    seed_generators(3)
    random.gauss(0, 1)  # keeps its twin for the next call
    np.random.standard_normal()  # noqa: NPY002 - so does this one
    states = generator_states()
    expected = [random.gauss(0, 1), float(np.random.standard_normal()), *draws()]  # noqa: NPY002
    restore_generators(states)
    with kept_generators(9):
        inside = draws()
    with kept_generators():
        draws()
    assert [random.gauss(0, 1), float(np.random.standard_normal()), *draws()] == expected  # noqa: NPY002
    seed_generators(9)
    assert draws() == inside
