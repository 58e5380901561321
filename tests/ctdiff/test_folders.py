"""Folders of images as people have them: deep, hidden, linked, in two sets, with names; and runs that keep these."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict
from PIL import Image

from ctdiff import config as configuration
from ctdiff import recipe
from ctdiff.data import ImageData, Splits, fraction, image_folder, quantise, resized
from ctdiff.data.listing import natural_order
from ctdiff.runs import RunError, RunFolder
from ctdiff.trainer import train

from .image_files import everything, grey, levels, put
from .small import small

RNG = np.random.default_rng(0)


def named(splits: Splits) -> dict[str, list[int]]:
    """The grey levels of each class."""
    found: dict[str, list[int]] = {name: [] for name in splits.class_names}
    for part in (splits.train, splits.test):
        assert part.labels is not None
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            found[splits.class_names[label]].append(int(image[0, 0, 0]))
    return {name: sorted(each) for name, each in found.items()}


# What lies around, links


def test_what_systems_leave_behind_is_no_image(tmp_path: Path) -> None:
    for name, level in (("cat", 10), ("dog", 20)):
        for i in range(2):
            put(tmp_path / name / f"{i}.png", grey(level + i))
        put(tmp_path / name / ".ipynb_checkpoints" / "0-checkpoint.png", grey(200))
        (tmp_path / name / "._0.png").write_bytes(b"\0\x05\x16\x07 a fork of a Mac")
        (tmp_path / name / "Thumbs.db").write_bytes(b"\0")
    for hidden in (".thumbnails", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "__MACOSX/cat"):
        put(tmp_path / hidden / "a.png", grey(200))
        (tmp_path / hidden / "._b.png").write_bytes(b"no image")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "desktop.ini").write_text("[.ShellClassInfo]")
    assert named(image_folder(tmp_path)) == {"cat": [10, 11], "dog": [20, 21]}
    inside = tmp_path / "cat" / ".ipynb_checkpoints"  # who names a hidden folder means it
    put(inside / "b.png", grey(201))
    assert levels(image_folder(inside)) == [200, 201]


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    for name, level in (("cat", 10), ("dog", 20)):
        for i in range(2):
            put(tmp_path / "store" / name / f"{i}.png", grey(level + i))
    root = tmp_path / "root"
    root.mkdir()
    (root / "cat").symlink_to(tmp_path / "store" / "cat")
    (root / "hound").symlink_to(tmp_path / "store" / "dog")
    (root / "kitten").mkdir()
    (root / "kitten" / "0.png").symlink_to(tmp_path / "store" / "cat" / "0.png")
    (root / "kitten" / "again").symlink_to(root)  # a loop
    (root / "kitten" / "self").symlink_to(root / "kitten")
    expected = {"cat": [10, 11], "hound": [20, 21], "kitten": [10]}
    assert named(image_folder(root)) == expected
    (tmp_path / "link").symlink_to(root)
    assert named(image_folder(tmp_path / "link")) == expected
    (root / "lost").symlink_to(tmp_path / "nowhere")
    with pytest.warns(UserWarning, match=r"lost is a link to .*nowhere, which is not there: it is left out"):
        assert named(image_folder(root)) == expected
    (root / "lost").unlink()
    (root / "cat" / "9.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"9\.png is damaged or not an image \(.*No such file"):
        image_folder(root)


# The two sets


def two_sets(root: Path, *parts: str, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for p, part in enumerate(parts):
        for c, name in enumerate(classes):
            put(root / part / name / "0.png", grey(100 * p + 10 * c))


@pytest.mark.parametrize(
    ("train_name", "test_name"), [("train", "test"), ("Train", "val"), ("train", "valid"), ("training", "validation")]
)
def test_folders_of_two_sets(tmp_path: Path, train_name: str, test_name: str) -> None:
    two_sets(tmp_path, train_name, test_name)
    data = image_folder(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 10]
    assert data.test.images[:, 0, 0, 0].tolist() == [100, 110]
    for part in (data.train, data.test):
        assert part.labels is not None
        assert part.labels.tolist() == [0, 1]


def test_of_three_sets_that_for_validation_is_left_alone(tmp_path: Path) -> None:
    two_sets(tmp_path, "train", "test", "val")
    with pytest.warns(UserWarning, match="has train, test, val: val is not used"):
        data = image_folder(tmp_path)
    assert levels(data) == [0, 10, 100, 110]


def test_sets_without_classes_and_a_set_alone(tmp_path: Path) -> None:
    put(tmp_path / "a" / "train" / "x.png", grey(1))
    put(tmp_path / "a" / "test" / "y.png", grey(2))
    data = image_folder(tmp_path / "a")
    assert (data.train.images.max(), data.test.images.max(), data.class_names, data.train.labels) == (1, 2, (), None)
    two_sets(tmp_path / "b", "train")
    data = image_folder(tmp_path / "b", test_fraction=0.5)
    assert (len(data.train), len(data.test), data.class_names) == (1, 1, ("cat", "dog"))
    two_sets(tmp_path / "c", "train", "bus")  # vehicles
    assert image_folder(tmp_path / "c").class_names == ("bus", "train")


def test_two_sets_have_the_same_classes(tmp_path: Path) -> None:
    two_sets(tmp_path, "train", classes=("cat", "dog", "fox2", "fox10"))
    two_sets(tmp_path, "test", classes=("cat", "emu"))
    message = "other classes in train than in test: only train has dog, fox2, fox10; only test has emu"
    with pytest.raises(ValueError, match=message):
        image_folder(tmp_path)
    shutil.rmtree(tmp_path / "test")
    put(tmp_path / "test" / "0.png", grey(1))
    with pytest.raises(ValueError, match="only test has images without a class"):
        image_folder(tmp_path)


# Classes by name


def test_numbers_in_names_are_in_order_of_their_values(tmp_path: Path) -> None:
    names = ["10", "2", "1", "class 12", "Class 3", "a10b2", "a10b10", "a9", "02"]
    order = ["1", "02", "2", "10", "a9", "a10b2", "a10b10", "Class 3", "class 12"]
    assert sorted(names, key=natural_order) == order
    for i, name in enumerate(names):
        put(tmp_path / name / "a.png", grey(i))
    data = image_folder(tmp_path)
    assert data.class_names == tuple(order)
    assert named(data) == {name: [i] for i, name in enumerate(names)}
    assert data.num_classes == data.train.num_classes == data.test.num_classes == 9


def test_class_names_stay_with_the_images() -> None:
    images = torch.arange(16, dtype=torch.uint8).reshape(4, 1, 2, 2)
    data = ImageData(images, torch.tensor([0, 1, 1, 0]), class_names=("cat", "dog"))
    changed = (quantise(data, 8), resized(data, 4), fraction(data, 0.5), data.select(torch.tensor([0])))
    assert {each.class_names for each in changed} == {("cat", "dog")}
    assert ImageData(images, torch.zeros(4, dtype=torch.int64)).class_names == ()
    with pytest.raises(ValueError, match="value 1, expected less than the 1 class_names"):
        ImageData(images, data.labels, class_names=("cat",))
    with pytest.raises(ValueError, match="there are 2 class_names and no labels"):
        ImageData(images, class_names=("cat", "dog"))
    with pytest.raises(ValueError, match="differ in class_names"):
        Splits(data, ImageData(images, data.labels, class_names=("dog", "cat")))


def folder_config(path: Path, **changes: Any) -> ConfigDict:
    changes = {"data__fraction": 1.0, "training__steps": 2, "optimizer__schedule__warmup": 0, **changes}
    return small("mnist", data__name="folder", data__folder__path=str(path), **changes)


def data_of(names: tuple[str, ...]) -> Splits:
    """A data set of two images of each class; without names, without labels."""
    labels = torch.arange(4) % 2 if names else None
    data = ImageData(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), labels, class_names=names)
    return Splits(data, data)


def test_a_run_keeps_the_names_of_its_classes(tmp_path: Path) -> None:
    photos, path = tmp_path / "photos", tmp_path / "run"
    for name in ("n10", "n2"):
        for i in range(4):
            put(photos / name / f"{i}.png", Image.fromarray(RNG.integers(0, 256, (8, 8), dtype=np.uint8)))
    lines: list[str] = []
    train(folder_config(photos), path, say=lines.append)
    assert lines.count("2 classes: 0 n2, 1 n10") == 1
    assert json.loads((path / "classes.json").read_text(encoding="utf-8")) == ["n2", "n10"]
    assert RunFolder(path).read_classes() == ("n2", "n10")
    train(folder_config(photos), path)  # only pictures
    assert RunFolder(path).read_classes() == ("n2", "n10")
    (photos / "n2").rename(photos / "n3")
    with pytest.raises(RunError, match="trained with other classes: 2 before and 2 now, missing: n2, new: n3"):
        RunFolder(path).prepare(folder_config(photos), data_of(("n3", "n10")))
    RunFolder(path).prepare(folder_config(photos), data_of(()), fresh=True)
    assert RunFolder(path).read_classes() == ()
    (path / "classes.json").write_text('{"a": 1}')
    with pytest.raises(RunError, match=r"classes\.json is damaged"):
        RunFolder(path).read_classes()


def test_settings_of_a_folder(tmp_path: Path) -> None:
    opacity = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)
    for i in range(6):
        put(tmp_path / f"{i}.png", Image.fromarray(np.stack([0 * opacity, opacity], -1)))
    (tmp_path / "7.png").write_bytes(b"no image")
    settings = {
        "data__folder__ground": 100,
        "data__num_values": 256,
        "data__image_size": (2, 3),
        "process__rates__gaussian_target__scale": 47.8,
    }
    with pytest.raises(ValueError, match=r"7\.png is damaged"):
        recipe.build_data(folder_config(tmp_path, **settings))
    with pytest.warns(UserWarning, match=r"1 of 7 images .* are left out: .*7\.png is damaged"):
        data = recipe.build_data(folder_config(tmp_path, **settings, data__folder__skip_damaged=True))
    assert everything(data)[0, 0, 0].tolist() == [100, 80, 60]
    with pytest.raises(
        configuration.ConfigError, match=r"config\.data\.folder\.ground = 256, expected an integer in \[0, 255\]"
    ):
        folder_config(tmp_path, data__folder__ground=256)
    old = folder_config(tmp_path)
    del old.data.folder["ground"], old.data.folder["skip_damaged"]
    assert configuration.from_json(configuration.to_json(old)).data.folder.ground == 255


# Settings


def test_damaged_files_are_left_out_on_request(tmp_path: Path) -> None:
    for i in range(20):
        put(tmp_path / f"{i:02}.png", grey(i))
    before = image_folder(tmp_path, skip_damaged=True)
    for i in (3, 7, 11, 15):
        (tmp_path / f"{i:02}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"(03|07|11|15)\.png is damaged or not an image .*; 8 bytes found"):
        image_folder(tmp_path)
    for _ in range(2):  # the second time from what was kept
        with pytest.warns(UserWarning, match=r"^4 of 20 images of .* are left out: (.*(03|07|11|15)\.png.*; ){3}and 1 more$"):
            data = image_folder(tmp_path, skip_damaged=True)
        gone = {3, 7, 11, 15}
        assert levels(data) == [i for i in range(20) if i not in gone]
        for part, whole in ((data.train, before.train), (data.test, before.test)):  # the others stay in their sets
            assert part.images[:, 0, 0, 0].tolist() == [i for i in whole.images[:, 0, 0, 0].tolist() if i not in gone]
    for path in tmp_path.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of 20 images can be read. The first error is: .*\.png is damaged"):
        image_folder(tmp_path, skip_damaged=True)
