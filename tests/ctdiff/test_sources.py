"""Sources as classes: each loads what its function reads, from a path with a tilde too, and refuses what is out of range."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctdiff import data
from ctdiff.data import Source, Splits

from .image_files import put
from .test_data import pixels, write_cifar10, write_idx_set

KINDS = {"CIFAR10", "IDX", "MNIST", "Array", "EmbeddedMNIST", "FashionMNIST", "Folder"}


def same(one: Splits, other: Splits) -> bool:
    parts = [(getattr(one, name), getattr(other, name)) for name in ("train", "test")]
    return one.class_names == other.class_names and all(
        a.images.equal(b.images) and (a.labels is b.labels is None or a.labels.equal(b.labels)) for a, b in parts
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a data set of every kind."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MNIST", "FashionMNIST"):
        write_idx_set(tmp_path / name / "raw")
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    np.savez(tmp_path / "a.npz", images=pixels(10, 6, 5), labels=np.arange(10))
    for kind in ("cat", "dog"):
        for i in range(3):
            image = Image.fromarray(pixels(9, 7, 4), "RGBA")  # its transparent pixels show the ground
            put(tmp_path / "photos" / kind / f"{i}.png", image)
    return tmp_path


def test_each_source_loads_what_its_function_reads(home: Path) -> None:
    folder = {"channels": 3, "image_size": (8, 6), "test_fraction": 0.5, "ground": 7}
    pairs = [
        (data.EmbeddedMNIST(), data.embedded_mnist()),
        (data.MNIST("~"), data.torchvision_mnist(home)),
        (data.FashionMNIST("~"), data.torchvision_fashion_mnist(home)),
        (data.CIFAR10("~"), data.cifar10(home)),
        (data.IDX("~/MNIST/raw"), data.idx_folder(home / "MNIST" / "raw")),
        (data.Array("~/a.npz", test_fraction=0.3), data.array_file(home / "a.npz", 0.3)),
        (data.Folder("~/photos", **folder), data.image_folder(home / "photos", **folder)),
    ]
    assert {type(source).__name__ for source, _ in pairs} == KINDS
    for source, expected in pairs:
        assert same(source.load(), expected), source
    assert not same(data.MNIST("~").load(), data.FashionMNIST("~").load())
    assert not same(data.Folder("~/photos", **{**folder, "ground": 255}).load(), pairs[-1][1])


def test_what_is_public_is_all_that_there_is() -> None:
    public = {name for name in data.__all__ if inspect.isclass(getattr(data, name)) and issubclass(getattr(data, name), Source)}
    assert public == {*KINDS, "Source"}
    assert inspect.isabstract(Source)


def test_downloads_are_made_on_request_alone(home: Path) -> None:
    for source, path in ((data.MNIST, "MNIST"), (data.FashionMNIST, "FashionMNIST"), (data.CIFAR10, "CIFAR-10")):
        with pytest.raises(FileNotFoundError, match=rf"{path} is not .*{home / 'absent'}.*download=True"):
            source("~/absent").load()
        with pytest.raises(ConnectionError, match="could not be downloaded"):
            source("~/absent", download=True).load()


def test_damaged_images_are_left_out_on_request(home: Path) -> None:
    (home / "photos" / "cat" / "0.png").write_bytes(b"no image")
    source = data.Folder("~/photos", test_fraction=0.5, channels=1, image_size=(4, 4))
    with pytest.raises(ValueError, match=r"0\.png is damaged"):
        source.load()
    with pytest.warns(UserWarning, match=r"1 of 6 images"):
        splits = data.Folder("~/photos", test_fraction=0.5, skip_damaged=True, channels=1, image_size=(4, 4)).load()
    assert len(splits.train) + len(splits.test) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_fraction": 0.0}, r"test_fraction = 0.0, expected a number in \(0, 1\)"),
        ({"test_fraction": 1.0}, r"test_fraction = 1.0, expected a number in \(0, 1\)"),
        ({"ground": 256}, r"ground = 256, expected an integer in \[0, 255\]"),
        ({"ground": -1}, "ground = -1, expected an integer"),
        ({"ground": 7.5}, "ground = 7.5, expected an integer"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_read(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.Folder("absent", channels=1, image_size=(4, 4), **arguments)
    if "test_fraction" in arguments:
        with pytest.raises(ValueError, match=message):
            data.Array("absent", **arguments)
