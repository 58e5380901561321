"""What users bring that is no folder of images: data sets, array files and IDX files under the names that others give them."""

from __future__ import annotations

import gzip
import itertools
import re
import struct
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch.utils.data import IterableDataset, TensorDataset

from ctdiff.data import Splits, array_file, from_dataset, idx_folder, read_idx, torchvision_mnist
from ctdiff.data.images import as_images

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


def labels_of(splits: Splits) -> tuple[list[int], list[int]]:
    assert splits.train.labels is not None
    assert splits.test.labels is not None
    return splits.train.labels.tolist(), splits.test.labels.tolist()


def both(*labels: Any) -> Splits:
    """Data sets whose images carry their place: a training set with these labels, and a test set with the same."""
    items = list(zip(IMAGES, labels, strict=False))
    return from_dataset(items, items)


# Labels of data sets


@pytest.mark.parametrize(
    "convert",
    [
        int,
        np.uint8,
        np.int64,
        torch.tensor,
        np.array,
        lambda label: np.array([label]),  # MedMNIST's
        lambda label: torch.tensor([label], dtype=torch.uint8),
    ],
)
def test_integers_are_classes(convert: Any) -> None:
    splits = both(*map(convert, (3, 0, 1, 12)))
    assert labels_of(splits) == ([3, 0, 1, 12], [3, 0, 1, 12])
    assert splits.num_classes == 13
    assert labels_of(both(False, True)) == ([0, 1], [0, 1])


def test_strings_are_classes_in_their_natural_order() -> None:
    assert labels_of(both("10", "2", "1", "2"))[0] == [2, 1, 0, 1]
    assert labels_of(both("dog", np.str_("cat"), np.array("10"), "9"))[0] == [3, 2, 1, 0]
    assert labels_of(both("a10b", "a9b", "a", "a9"))[0] == [3, 2, 0, 1]
    assert labels_of(both("02", "2", "1"))[0] == [1, 2, 0], "different names of one number are two classes"
    assert both("10", "2", "1", "2").class_names == ("1", "2", "10")
    assert both(1, 2).class_names == ()
    train, test = [(IMAGES[0], "b"), (IMAGES[1], "d")], [(IMAGES[2], "c"), (IMAGES[3], "b")]
    assert labels_of(from_dataset(train, test)) == ([0, 2], [1, 0]), "one order for both sets"
    assert from_dataset(train, test).class_names == ("b", "c", "d")
    halves = from_dataset([(image, "even" if i % 2 == 0 else "odd") for i, image in enumerate(IMAGES)], test_fraction=0.5)
    for part in (halves.train, halves.test):
        assert part.labels is not None
        places = [int((image.numpy() == IMAGES).all((1, 2)).argmax()) for image in part.images.squeeze(1)]
        assert [place % 2 for place in places] == part.labels.tolist()


@pytest.mark.parametrize(
    ("label", "found"),
    [
        (0.7, r"0\.7 of type float"),
        (2.0, r"2\.0 of type float"),
        (np.float32(1), rf"{re.escape(repr(np.float32(1)))} of type float32"),
        (torch.tensor(0.7), r"tensor\(0\.7000\) of type Tensor"),
        (torch.tensor([0, 1, 0]), r"tensor\(\[0, 1, 0\]\) of type Tensor"),
        (np.array([0.0, 1.0]), r"array\(\[0\., 1\.\]\) of type ndarray"),
        ([0, 1], r"\[0, 1\] of type list"),
        ({"class": 1}, r"{'class': 1} of type dict"),
        (b"cat", r"b'cat' of type bytes"),
        (-1, "-1 of type int, expected an integer of at least 0"),
        (1j, "1j of type complex"),
    ],
)
def test_other_labels_are_one_error_that_names_the_item(label: Any, found: str) -> None:
    with pytest.raises(ValueError, match=rf"^dataset\[1\] has the label {found}.*string.*a one-hot row .* argmax$") as error:
        both(0, label)
    assert "\n" not in str(error.value)


def test_kinds_of_labels_do_not_mix() -> None:
    with pytest.raises(ValueError, match=r"^dataset\[2\] has the label 'cat' and dataset\[0\] has 0, expected only integers"):
        both(0, 1, "cat")
    with pytest.raises(ValueError, match="one set are strings and those of another are integers"):
        from_dataset([(IMAGES[0], "a")], [(IMAGES[1], 0)])
    with pytest.raises(ValueError, match="only one"):
        from_dataset([(IMAGES[0], 0)], [IMAGES[1]])


@pytest.mark.parametrize("image", ["image", "img", "pixel_values"])
@pytest.mark.parametrize("label", ["label", "labels", "target"])
def test_items_may_be_dictionaries(image: str, label: str) -> None:
    items = [{image: pixels, label: i % 3, "id": f"no. {i}"} for i, pixels in enumerate(IMAGES)]
    splits = from_dataset(items, items[:2])
    assert splits.train.images.squeeze(1).numpy().tolist() == IMAGES.tolist()
    assert labels_of(splits) == ([0, 1, 2, 0, 1, 2], [0, 1])
    assert from_dataset([{image: pixels} for pixels in IMAGES]).train.labels is None
    assert from_dataset([{image: pixels, label: None} for pixels in IMAGES]).train.labels is None


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"picture": IMAGES[0]}], r"dataset\[0\] has the keys \['picture'\], expected one of image, img, pixel_values and"),
        ([{"image": IMAGES[0], "img": IMAGES[0]}], r"keys \['image', 'img'\], expected one of"),
        ([{"image": IMAGES[0], "label": 0, "target": 1}], "at most one of label, labels, target"),
        ([(IMAGES[0], 0, 1)], r"dataset\[0\] is a tuple of 3, expected an image or \(image, label\)"),
        ([()], r"dataset\[0\] is a tuple of 0"),
        ([{"image": 3}], r"dataset\[0\] is a int, expected a PIL image"),
    ],
)
def test_other_items_are_refused(items: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dataset(items)


def test_data_sets_are_map_style() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(IMAGES)

    for wrong in (Stream(), iter(IMAGES), 3):
        with pytest.raises(TypeError, match=rf"dataset is a {type(wrong).__name__}, expected a map-style data set"):
            from_dataset(wrong)
    with pytest.raises(TypeError, match=r"test is a dict of several .* expected one of them: test\['train'\], test\['val'\]"):
        from_dataset(IMAGES, {"train": IMAGES, "val": IMAGES})
    alone = TensorDataset(torch.from_numpy(IMAGES))
    assert from_dataset(alone, IMAGES).train.images.equal(from_dataset(IMAGES, alone).train.images)


# Pixels of other dtypes


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", ">i4"])
def test_integers_that_fit_are_converted(dtype: str) -> None:
    values = np.array([0, 1, 100, 127 if dtype == "int8" else 255])
    array = values.astype(dtype).reshape(1, 2, 2)
    assert as_images(array, "a").flatten().tolist() == values.tolist()
    if dtype[0] != ">":
        assert as_images(torch.from_numpy(array), "a").flatten().tolist() == values.tolist()
    assert as_images(array, "a").dtype == torch.uint8


def test_booleans_are_black_and_white() -> None:
    array = np.array([[[False, True], [True, True]]])
    for given in (array, torch.from_numpy(array), torch.from_numpy(array)[:, :, ::1]):
        assert as_images(given, "a").flatten().tolist() == [0, 255, 255, 255]


UNIT = ([0.0, 0.2, 0.5, 1.0], [0, 51, 128, 255])
SYMMETRIC = ([-1.0, -0.2, 0.0, 1.0], [0, 102, 128, 255])
WHOLE = ([0.0, 1.0, 128.0, 255.0], [0, 1, 128, 255])
ADVISED = [
    (*UNIT, "float64"),
    (*UNIT, "float32"),
    (*UNIT, "float16"),
    (*SYMMETRIC, "float64"),
    (*SYMMETRIC, "float32"),
    (*SYMMETRIC, "float16"),
    (*WHOLE, "float64"),
    (*WHOLE, "float32"),
    (*WHOLE, "float16"),
    ([0.0, 1.0, 1.0, 0.0], [0, 255, 255, 0], "float32"),  # black and white in [0, 1]
    ([0, 257, 32896, 65535], [0, 1, 128, 255], "uint16"),
]


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize(("values", "expected", "dtype"), ADVISED)
def test_the_line_that_an_error_advises_gives_the_right_pixels(
    kind: str, values: list[float], expected: list[int], dtype: str
) -> None:
    array = np.array(values, dtype).reshape(1, 2, 2)
    x = array if kind == "numpy" else torch.from_numpy(array)
    with pytest.raises(ValueError, match=rf"^mine: pixels have dtype {x.dtype}, expected uint8") as error:
        as_images(x, "mine")
    assert f"the values are in {min(values)} .. {max(values)}: " in str(error.value)
    line = re.search(r"convert them with (.*\))", str(error.value))
    assert line is not None
    converted = eval(line.group(1), {"x": x, "torch": torch})
    assert as_images(converted, "mine").flatten().tolist() == expected


def test_bfloat16_is_advised_too() -> None:
    x = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]], dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(ValueError, match=r"torch\.bfloat16.* in 0\.0 \.\. 1\.0: convert them with \(255 \* x\)\.round\(\)\.to"):
        as_images(x, "a")
    assert as_images((255 * x).round().to(torch.uint8), "a").flatten().tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.array([0.0, 254.5]), r"float64, .*; the values are in 0\.0 \.\. 254\.5$"),
        (np.array([-2.1, 2.6], np.float32), r"float32, .*; the values are in -2\.1 \.\. 2\.6$"),
        (np.array([0, 1.0000001]), r"float64, .*; the values are in 0\.0 \.\. 1\.0000001$"),
        (np.array([-3, 255]), r"int64, .*; the values are in -3 \.\. 255$"),
        (np.array([0, 256]), r"int64, .*; the values are in 0 \.\. 256$"),
        (np.array([0, 2**63], np.uint64), r"uint64, .*; the values are in 0 \.\. 9223372036854775808$"),
        (np.array([0, np.nan]), r"float64, .*; the values are in 0\.0 \.\. 0\.0, and 1 of them are not finite$"),
        (np.array([0.0, 0.0]), r"float64, .*; the values are in 0\.0 \.\. 0\.0$"),  # black, whatever white is
        (np.array([np.inf, np.nan]), "float64, .*; no value is finite$"),
        (np.array([1j, 0]), "complex128, expected uint8 .*booleans$"),
        (np.array(["a", "b"]), "<U1, expected uint8 .*booleans$"),
    ],
)
def test_other_pixels_are_refused_with_what_was_found(array: np.ndarray, found: str) -> None:
    with pytest.raises(ValueError, match=rf"^a: pixels have dtype {found}"):
        as_images(array.reshape(1, 1, 2), "a")


# Array files


SETS = [
    (("x_train", "y_train"), ("x_test", "y_test"), ("x_val", "y_val")),
    (("train_images", "train_labels"), ("test_images", "test_labels"), ("val_images", "val_labels")),
]


@pytest.mark.parametrize(("train", "test", "validation"), SETS)
@pytest.mark.parametrize("column", [False, True])
def test_files_of_keras_and_medmnist(tmp_path: Path, train: Any, test: Any, validation: Any, column: bool) -> None:
    path = tmp_path / "a.NPZ"
    arrays = {
        train[0]: COLOURS[:4],
        train[1]: np.array([2, 0, 1, 2], np.uint8),
        test[0]: COLOURS[4:],
        test[1]: np.array([1, 0]),
    }
    if column:
        arrays |= {key: arrays[key][:, None] for key in (train[1], test[1])}
    with path.open("wb") as file:
        np.savez(file, **arrays)
    splits = array_file(path)
    assert splits.train.images.permute(0, 2, 3, 1).numpy().tolist() == COLOURS[:4].tolist()
    assert splits.test.images.permute(0, 2, 3, 1).numpy().tolist() == COLOURS[4:].tolist()
    assert labels_of(splits) == ([2, 0, 1, 2], [1, 0])
    with path.open("wb") as file:
        np.savez(file, **arrays, **dict.fromkeys(validation, np.zeros(3)))
    assert array_file(path).train.images.equal(splits.train.images), "the validation set is not used"
    with path.open("wb") as file:
        np.savez(file, **{key: arrays[key] for key in (train[0], test[0])})
    assert array_file(path).train.labels is None


def test_arrays_without_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", IMAGES, np.arange(6)[:, None])
    named = tmp_path / "b.npz"
    np.savez(named, images=IMAGES, labels=np.arange(6))
    one, other = array_file(tmp_path / "a.npz"), array_file(named)
    assert one.train.images.equal(other.train.images)
    assert labels_of(one) == labels_of(other)
    np.savez(tmp_path / "a.npz", IMAGES)
    assert array_file(tmp_path / "a.npz").train.labels is None
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "a.npy").rename(tmp_path / "B.NPY")
    assert array_file(tmp_path / "B.NPY").train.images.equal(other.train.images)


def test_strings_in_array_files_are_classes(tmp_path: Path) -> None:
    names = np.array(["10", "9", "cat", "9"])
    np.savez(tmp_path / "a.npz", x_train=IMAGES[:4], y_train=names, x_test=IMAGES[4:], y_test=np.array(["bee", "10"]))
    assert labels_of(array_file(tmp_path / "a.npz")) == ([1, 0, 3, 0], [2, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": IMAGES, "y_train": np.arange(6)}, r"keys \['x_train', 'y_train'\], expected images, labels; or arr_0"),
        ({"arr_0": IMAGES, "arr_1": np.arange(6), "arr_2": IMAGES}, "or x_train, y_train, x_test, y_test"),
        ({"x_train": IMAGES, "test_images": IMAGES}, "has the keys"),
        ({"arr_0": IMAGES, "arr_1": np.eye(6, dtype=int)}, r"arr_1: labels have shape \(6, 6\).*\(6, 1\).*labels\.argmax\(1\)"),
        ({"images": IMAGES, "labels": np.zeros((6, 1))}, "labels: labels have dtype float64, expected integers or strings"),
        ({"images": IMAGES, "labels": np.array([0, 1, -1, 2, -1, 0])}, "labels: label 2 is -1, expected 0 or more"),
        ({"x_train": IMAGES / 255, "x_test": IMAGES}, r"x_train: pixels have dtype float64.*\(255 \* x\)\.round\(\)"),
    ],
)
def test_other_array_files_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        array_file(tmp_path / "a.npz")


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train_32x32.mat"
    labels = np.array([10, 1, 9, 10, 5, 2], np.uint8)[:, None]
    savemat(path, {"X": np.moveaxis(COLOURS, 0, 3), "y": labels})
    splits = array_file(path, test_fraction=0.5)
    images = torch.cat([splits.train.images, splits.test.images]).permute(0, 2, 3, 1).numpy().tolist()
    found = dict(zip(map(str, images), itertools.chain(*labels_of(splits)), strict=True))
    assert [found[str(image.tolist())] for image in COLOURS] == [0, 1, 9, 0, 5, 2]
    savemat(path, {"X": np.moveaxis(COLOURS, 0, 3), "y": np.array([10, 0, 11, 1, 2, 3])})
    assert sorted(itertools.chain(*labels_of(array_file(path)))) == [0, 1, 2, 3, 10, 11], "not SVHN's numbers: as they are"
    savemat(path, {"X": np.moveaxis(COLOURS, 0, 3)})
    assert array_file(path).train.labels is None
    savemat(path, {"X": IMAGES})
    with pytest.raises(ValueError, match=r"X has shape \(6, 5, 4\), expected \(H, W, C, N\)"):
        array_file(path)
    savemat(path, {"data": IMAGES})
    with pytest.raises(ValueError, match=r"keys \['data'\], expected the keys of SVHN: X, and optionally y"):
        array_file(path)
    for content in (path.read_bytes()[:150], b"", b"no file of MATLAB at all, but long enough to be one" * 9):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"truncated or not a MATLAB file .*: {len(content)} bytes found"):
            array_file(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"train_32x32\.mat"):
        array_file(path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ModuleNotFoundError, match=r"train_32x32\.mat can only be read if scipy is installed"):
        array_file(path)


# IDX files


IDX = {
    "train-images": IMAGES,
    "train-labels": np.arange(6, dtype=np.uint8),
    "t10k-images": IMAGES[:2],
    "t10k-labels": np.arange(2, dtype=np.uint8),
}


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("end", ["-idx{}-ubyte", ".idx{}-ubyte", "-idx{}.ubyte", "-idx{}", ".idx{}"])
@pytest.mark.parametrize("gzipped", [False, True])
def test_idx_files_by_their_common_names(tmp_path: Path, end: str, gzipped: bool) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for stem, array in IDX.items():
        name, content = stem + end.format(array.ndim), idx_bytes(array)
        (folder / (name + ".gz" * gzipped)).write_bytes(gzip.compress(content) if gzipped else content)
    if end != "-idx{}-ubyte":
        (folder / "train-images-idx3-ubyte").mkdir()  # what some archives unpack to, beside the file
    for splits in (idx_folder(folder), torchvision_mnist(tmp_path)):
        assert splits.train.images.squeeze(1).numpy().tolist() == IMAGES.tolist()
        assert labels_of(splits) == ([0, 1, 2, 3, 4, 5], [0, 1])


@pytest.mark.parametrize(("name", "zipped"), [("a.gz", False), ("a", True), ("a.GZ", True), ("a-idx3-ubyte.gz", False)])
def test_content_says_whether_it_is_gzipped(tmp_path: Path, name: str, zipped: bool) -> None:
    content = idx_bytes(IMAGES)
    (tmp_path / name).write_bytes(gzip.compress(content) if zipped else content)
    assert read_idx(tmp_path / name).tolist() == IMAGES.tolist()


class Counted:
    """A data set of large images that says how many of them are alive."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[np.ndarray]] = []
        self.most = 0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        if not 0 <= i < 12:
            raise IndexError(i)
        self.most = max(self.most, sum(each() is not None for each in self.seen))
        image = np.full((300, 300), 20 * i, np.uint8)
        self.seen.append(weakref.ref(image))
        return image, i % 3


def test_one_original_of_a_data_set_is_in_memory_at_a_time():
    dataset = Counted()
    splits = from_dataset(dataset, Counted(), image_size=4)
    assert dataset.most <= 2
    assert splits.train.images[:, 0, 0, 0].tolist() == [20 * i for i in range(12)]
    assert splits.train.labels is not None
    assert splits.train.labels.tolist() == [0, 1, 2] * 4
