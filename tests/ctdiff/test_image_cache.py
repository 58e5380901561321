"""Images that were read once are kept, whole or not at all, and no original is opened again."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ctdiff.data import Batches, Splits, image_folder
from ctdiff.data.image_cache import cached_images
from ctdiff.data.photographs import open_image

from .image_files import everything, grey, levels, opened, put

RNG = np.random.default_rng(0)


def cache_folder() -> Path:
    return Path(os.environ["XDG_CACHE_HOME"]) / "ctdiff" / "images"


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("an original was opened"))


def photographs(root: Path, n: int = 10) -> Path:
    for name in ("cat", "dog"):
        for i in range(n // 2):
            put(root / name / f"{i}.png", Image.fromarray(RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)))
    return root


def equal(one: Splits, other: Splits) -> bool:
    return one.class_names == other.class_names and all(
        a.images.equal(b.images) and a.labels is not None and b.labels is not None and a.labels.equal(b.labels)
        for a, b in ((one.train, other.train), (one.test, other.test))
    )


def test_a_second_start_reads_no_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photographs(tmp_path)
    first = image_folder(root, 3, (6, 5))
    whole = {path.name: opened(path, 3) for path in (root / "cat").iterdir()}
    assert len(whole) == 5
    forbid(monkeypatch)
    second = image_folder(root, 3, (6, 5))
    assert equal(first, second)
    assert second.train.shape == (3, 6, 5)
    _, cond = Batches(second.train.images, second.train.labels, batch_size=4)[0]
    assert cond["y"].shape == (4,)
    assert {path.name for path in cache_folder().rglob("*") if path.is_file()} == {"images.npy", "index.json"}
    second.train.images.zero_()  # in memory only: the file is mapped privately
    assert equal(image_folder(root, 3, (6, 5)), first)


@pytest.mark.parametrize(
    "other", [{"channels": 1}, {"image_size": 4}, {"ground": 3}, {"seed": 1}, {"test_fraction": 0.4}, {"skip_damaged": True}]
)
def test_other_settings_are_other_images(tmp_path: Path, other: dict[str, Any]) -> None:
    root = photographs(tmp_path)
    usual: dict[str, Any] = {"channels": 3, "image_size": 5}
    image_folder(root, **usual)
    image_folder(root, **{**usual, **other})
    assert len(list(cache_folder().iterdir())) == 2


def test_what_was_changed_is_read_again(tmp_path: Path) -> None:
    for i in range(4):
        put(tmp_path / f"{i}.bmp", grey(i))
    assert levels(image_folder(tmp_path)) == [0, 1, 2, 3]
    put(tmp_path / "2.bmp", grey(200))  # of the same size in bytes
    os.utime(tmp_path / "2.bmp", ns=(1, 1))
    assert levels(image_folder(tmp_path)) == [0, 1, 3, 200]
    put(tmp_path / "4.bmp", grey(4))
    assert levels(image_folder(tmp_path)) == [0, 1, 3, 4, 200]
    (tmp_path / "0.bmp").unlink()
    assert levels(image_folder(tmp_path)) == [1, 3, 4, 200]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a bit": lambda place: flip_a_bit(place / "images.npy"),
    "cut": lambda place: (place / "images.npy").write_bytes((place / "images.npy").read_bytes()[:-50]),
    "empty": lambda place: (place / "images.npy").write_bytes(b""),
    "pickle": lambda place: np.save(place / "images.npy", np.array([{}], object), allow_pickle=True),
    "floats": lambda place: np.save(place / "images.npy", np.zeros((10, 3, 5, 5))),
    "no images": lambda place: (place / "images.npy").unlink(),
    "no index": lambda place: (place / "index.json").unlink(),
    "index": lambda place: (place / "index.json").write_bytes(b"[1"),
    "list": lambda place: (place / "index.json").write_bytes(b"[1]"),
    "numbers": lambda place: (place / "index.json").write_text('{"sha256": 3, "left_out": [[1]]}'),
    "nothing": lambda place: [path.unlink() for path in place.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_caches_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    root = photographs(tmp_path)
    first = image_folder(root, 3, 5)
    first = first.map(lambda part: part.select(torch.arange(len(part))))  # a copy: the file under the map is about to change
    (place,) = cache_folder().iterdir()
    DAMAGES[damage](place)
    assert equal(image_folder(root, 3, 5), first)
    forbid(monkeypatch)
    assert equal(image_folder(root, 3, 5), first)
    assert [path.name for path in cache_folder().iterdir()] == [place.name]


def test_without_a_place_to_keep_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photographs(tmp_path / "photos")
    kept = image_folder(root, 3, 5)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert equal(image_folder(root, 3, 5), kept)
    assert [str(each.message).split(" (")[0] for each in caught] == ["the images cannot be saved for the next start"]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification of these folders says to pass that over
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    image_folder(root, 3, 5)
    assert len(list((tmp_path / "home" / ".cache" / "ctdiff" / "images").iterdir())) == 1


def test_a_full_disk_does_not_end_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photographs(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        data = image_folder(root, 3, 5)
    assert len(data.train) == 9
    assert list(cache_folder().iterdir()) == [], "nothing half written stays"


def test_what_killed_processes_left_is_deleted_after_a_day(tmp_path: Path) -> None:
    root = photographs(tmp_path)
    for name, age in (("old", 2e5), ("new", 60.0)):
        leftover = cache_folder() / f".writing_{name}"
        leftover.mkdir(parents=True)
        (leftover / "images.npy").write_bytes(b"\0")
        for path in (leftover / "images.npy", leftover):
            os.utime(path, (path.stat().st_mtime - age,) * 2)
    image_folder(root, 3, 5)
    assert [path.name for path in cache_folder().glob(".writing_*")] == [".writing_new"]


def _read(root: str, pipe: Any) -> None:
    pipe.send(int(everything(image_folder(root, 3, 5)).long().sum()))


def test_two_processes_at_once(tmp_path: Path) -> None:
    root = photographs(tmp_path)
    context = get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(3)]
    processes = [context.Process(target=_read, args=(str(root), sender)) for _, sender in pipes]
    for process in processes:
        process.start()
    sums = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join(30)
    assert sums == [int(everything(image_folder(root, 3, 5)).long().sum())] * 3
    assert len(list(cache_folder().iterdir())) == 1


def test_another_process_may_be_faster(tmp_path: Path) -> None:
    """While the images are read, the same ones appear; those stay."""
    image = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 2, 2)

    def read(left_out: dict[int, str]) -> Iterator[torch.Tensor]:
        cached_images({"a": 1}, 1, lambda left_out: iter([image]))
        yield image

    images, left_out = cached_images({"a": 1}, 1, read)
    assert (images.tolist(), left_out) == (image.tolist(), {})
    assert len(list(cache_folder().iterdir())) == 1


def test_one_original_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the decoded originals no more than one is alive when the next is opened, with and without a place to keep images."""
    root = photographs(tmp_path / "photos", 8)
    alive: list[int] = []
    sizes: list[int] = []
    decode = open_image

    def counted(*args: Any) -> torch.Tensor:
        sizes.append(len(alive))
        alive.append(1)
        image = decode(*args)
        weakref.finalize(image, alive.pop)
        return image

    monkeypatch.setattr("ctdiff.data.folders.open_image", counted)
    image_folder(root, 3, 4)
    assert len(sizes) == 8
    assert max(sizes) <= 1
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    sizes.clear()
    with pytest.warns(UserWarning, match="cannot be saved"):
        image_folder(root, 3, 4)
    assert len(sizes) == 8
    assert max(sizes) <= 1


def test_large_photographs_are_decoded_at_a_fraction_of_their_size(tmp_path: Path) -> None:
    """Against the whole decoded and averaged: a smooth image, on its side."""
    rows, columns = np.linspace(0, 1, 640)[:, None], np.linspace(0, 1, 960)[None]
    smooth = np.stack([255 * rows + 0 * columns, 255 * columns + 0 * rows, 127 + 60 * np.sin(6 * rows + 4 * columns)], -1)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = put(tmp_path / "a.jpg", Image.fromarray(smooth.astype(np.uint8)), quality=95, exif=exif)
    assert open_image(path, 3, extent=(16, 16)).shape == (1, 3, 120, 80), "an eighth, and upright"
    assert open_image(path, 3, extent=(64, 64)).shape == (1, 3, 480, 320)
    assert open_image(path, 3, extent=(16, 40)).shape == (1, 3, 240, 160)
    assert open_image(path, 3).shape == (1, 3, 960, 640)
    put(tmp_path / "b.jpg", Image.fromarray(smooth.astype(np.uint8)), quality=95, exif=exif)
    data = everything(image_folder(tmp_path, 3, 16))[0].numpy()
    upright = np.rot90(smooth, -1)[160:800]  # the centre
    means = upright.reshape(16, 40, 16, 40, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(data[:, 1:-1, 1:-1] - means[:, 1:-1, 1:-1]).max() < 3
