"""The data: every source reads what was written and refuses what is damaged; the order can be entered anywhere."""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import tarfile
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as vision

from ctdiff import https
from ctdiff.data import (
    ImageData,
    Splits,
    array_file,
    arrays,
    cifar10,
    download,
    embedded_mnist,
    from_dataset,
    idx_folder,
    image_folder,
    quantise,
    read_cifar10,
    read_idx,
    split,
    torchvision_fashion_mnist,
    torchvision_mnist,
)

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def some_data(n: int = 40, classes: int = 4, height: int = 6, width: int = 8) -> ImageData:
    return ImageData(torch.from_numpy(pixels(n, 1, height, width)), torch.arange(n) % classes)


def write_idx(path: Path, array: np.ndarray, kind: int = 0x08) -> None:
    content = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_idx_set(folder: Path, suffix: str = "", n: int = 12) -> dict[str, np.ndarray]:
    arrays = {
        "train-images-idx3-ubyte": pixels(n, 5, 4),
        "train-labels-idx1-ubyte": np.arange(n, dtype=np.uint8) % 3,
        "t10k-images-idx3-ubyte": pixels(4, 5, 4),
        "t10k-labels-idx1-ubyte": np.arange(4, dtype=np.uint8) % 3,
    }
    for name, array in arrays.items():
        write_idx(folder / (name + suffix), array)
    return arrays


# The embedded digits


def test_embedded_digits_are_the_genuine_ones() -> None:
    digits = embedded_mnist()
    assert (len(digits.train), len(digits.test), digits.train.shape, digits.num_classes) == (8000, 2000, (1, 28, 28), 10)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.images.min() == 0
    assert digits.train.images.max() == 255
    assert digits.train.images.float().mean() / 255 == pytest.approx(0.1307, abs=0.002)  # MNIST's well-known mean
    assert digits.train.labels is not None
    assert digits.train.labels.bincount().min() > 600
    both = torch.cat([digits.train.images, digits.test.images]).flatten(1)
    assert len(both.unique(dim=0)) == len(both), "the test set shares no digit with the training set"


def test_damaged_embedded_digits_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(arrays.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mnist-10k\.npz"):
        embedded_mnist()
    (tmp_path / "mnist-10k.npz").write_bytes(b"PK\x03\x04" + bytes(1000))
    with pytest.raises(ValueError, match=r"mnist-10k\.npz.*1004 bytes found"):
        embedded_mnist()
    np.savez(tmp_path / "mnist-10k.npz", train_images=pixels(5, 28, 28), test_images=pixels(5, 28, 28))
    with pytest.raises(ValueError, match=r"contains \(5, 5, .* expected 8000"):
        embedded_mnist()


# ImageData and Splits


@pytest.mark.parametrize(
    ("images", "labels", "num_values", "message"),
    [
        (torch.rand(3, 1, 4, 4), None, 256, r"dtype torch\.float32, expected torch\.uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), None, 256, r"shape \(3, 4, 4\)"),
        (torch.zeros(3, 2, 4, 4, dtype=torch.uint8), None, 256, r"\(3, 2, 4, 4\).*C = 1 or 3"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), None, 256, "no side of 0"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), None, 1, "num_values = 1, expected 2"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), None, 257, "num_values = 257"),
        (torch.full((3, 1, 4, 4), 9, dtype=torch.uint8), None, 9, r"value 9, expected 0 \.\. 8"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3), 256, "labels have dtype"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.arange(4), 256, r"shape \(4,\), expected \(3,\)"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, -1, 2]), 256, "value -1"),
    ],
)
def test_image_data_refuses(images: torch.Tensor, labels: torch.Tensor | None, num_values: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageData(images, labels, num_values)


def test_splits_must_match() -> None:
    data = some_data()
    with pytest.raises(ValueError, match=r"differ in shape: \(1, 6, 8\) and \(1, 8, 8\)"):
        Splits(data, some_data(height=8))
    with pytest.raises(ValueError, match="differ in num_values: 256 and 4"):
        Splits(data, quantise(data, 4))
    with pytest.raises(ValueError, match="only one"):
        Splits(data, ImageData(data.images))
    assert Splits(data, data).map(lambda part: quantise(part, 4)).test.num_values == 4


def test_split_is_a_partition_and_repeatable() -> None:
    data = some_data(50)
    parts, again, other = split(data, 0.3, seed=1), split(data, 0.3, seed=1), split(data, 0.3, seed=2)
    assert (len(parts.train), len(parts.test)) == (35, 15)
    rows = Counter(tuple(row) for row in torch.cat([parts.train.images, parts.test.images]).flatten(1).tolist())
    assert rows == Counter(tuple(row) for row in data.images.flatten(1).tolist())
    assert parts.test.images.equal(again.test.images)
    assert not parts.test.images.equal(other.test.images)
    assert len(split(data, 0.001).test) == 1
    assert len(split(data, 0.999).train) == 1
    with pytest.raises(ValueError, match=r"test_fraction = 1\.0"):
        split(data, 1.0)
    with pytest.raises(ValueError, match="at least 2"):
        split(data.select(torch.tensor([0])))


# IDX files


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folder_reads_what_was_written(tmp_path: Path, suffix: str) -> None:
    arrays = write_idx_set(tmp_path, suffix)
    data = idx_folder(tmp_path)
    assert data.train.images.squeeze(1).numpy().tolist() == arrays["train-images-idx3-ubyte"].tolist()
    assert data.test.images.squeeze(1).numpy().tolist() == arrays["t10k-images-idx3-ubyte"].tolist()
    assert data.train.labels is not None
    assert data.train.labels.tolist() == arrays["train-labels-idx1-ubyte"].tolist()
    data.train.images[0] = 0  # a copy of the file's bytes, which may be written


def test_idx_errors_name_the_file_and_the_sizes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        idx_folder(tmp_path / "nowhere")
    write_idx_set(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for content, message in [
        (whole[:100], r"train-images-idx3-ubyte is truncated: 100 bytes found, expected 256 for shape \(12, 5, 4\)"),
        (whole + b"x", "too long: 257 bytes found, expected 256"),
        (whole[:9], "truncated: 9 bytes found, expected a header of 16"),
        (b"\0\0\x0d\x03" + whole[4:], "type 0x0d, expected 0x08"),
        (b"hello, world", r"not an IDX file: it begins with '68 65 6c 6c'"),
        (b"", "not an IDX file"),
    ]:
        images.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            idx_folder(tmp_path)
    images.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no train-images-idx3-ubyte \(gzipped or not\)"):
        idx_folder(tmp_path)
    write_idx(images, pixels(12, 20))
    with pytest.raises(ValueError, match=r"shape \(12, 20\), expected \(N, H, W\)"):
        idx_folder(tmp_path)
    write_idx(images, pixels(11, 5, 4))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte has shape \(12,\), expected \(11,\)"):
        idx_folder(tmp_path)


def test_damaged_gzip_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    write_idx(path, pixels(40, 5, 5))
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    with pytest.raises(ValueError, match=r"images\.gz is truncated: \d+ bytes found, expected 1016"):
        read_idx(path)
    path.write_bytes(b"no gzip at all")
    with pytest.raises(ValueError, match=r"images\.gz is not an intact gzip file .* 14 bytes found"):
        read_idx(path)
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
    with pytest.raises(ValueError, match=r"images\.gz"):
        read_idx(path)


# torchvision's sets


@pytest.mark.parametrize(("source", "name"), [(torchvision_mnist, "MNIST"), (torchvision_fashion_mnist, "FashionMNIST")])
def test_torchvision_folder_is_read_and_absence_explained(tmp_path: Path, source: Any, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{name}.raw: put train-images-idx3-ubyte\.gz, .*download=True"):
        source(tmp_path)
    arrays = write_idx_set(tmp_path / name / "raw")
    assert source(tmp_path).test.images.squeeze(1).numpy().tolist() == arrays["t10k-images-idx3-ubyte"].tolist()
    assert source(tmp_path, download=True).num_classes == 3, "complete: nothing is downloaded"
    (tmp_path / name / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"put t10k-labels-idx1-ubyte\.gz \(gzipped or not\) into"):
        source(tmp_path)


@pytest.mark.parametrize("source", [torchvision_mnist, torchvision_fashion_mnist])
def test_download_without_a_network_is_one_clear_error(tmp_path: Path, source: Any) -> None:
    with pytest.raises(
        ConnectionError, match=r"https://.*train-images-idx3-ubyte\.gz could not be downloaded .* without a network"
    ):
        source(tmp_path, download=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


class Response(io.BytesIO):
    """The response of a server, with its length, as `http.client.HTTPResponse` has it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.length = len(content)


def test_download_checks_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real data set arrives through a replaced opener, and something else in its place is refused."""
    import torchvision.datasets

    write_idx_set(tmp_path / "server", ".gz")
    contexts: list[Any] = []

    class Opener:
        def open(self, url: str, timeout: float) -> Any:
            return Response((tmp_path / "server" / url.rsplit("/", 1)[1]).read_bytes())

    def build_opener(handler: Any, *others: Any) -> Opener:
        contexts.append(handler._context)
        return Opener()

    monkeypatch.setattr(urllib.request, "build_opener", build_opener)
    with pytest.raises(ConnectionError, match=r"bytes with checksum [0-9a-f]{32}, expected f68b3c2d"):
        torchvision_mnist(tmp_path, download=True)
    served = sorted((tmp_path / "server").iterdir())
    sums = [(path.name, download.hashlib.md5(path.read_bytes()).hexdigest()) for path in served]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    assert len(torchvision_mnist(tmp_path, download=True).train) == 12
    assert all(context.check_hostname and context.verify_mode.name == "CERT_REQUIRED" for context in contexts)


def test_download_is_not_redirected_to_plain_http() -> None:
    with pytest.raises(ValueError, match=r"http://example\.org/a, expected an https address"):
        https.fetch("http://example.org/a")
    request = urllib.request.Request("https://example.org/a")
    arguments: tuple[Any, ...] = (request, None, 302, "moved", {})
    assert https._OnlyTLS().redirect_request(*arguments, "https://example.org/b") is not None
    with pytest.raises(urllib.error.URLError, match="expected an https address"):
        https._OnlyTLS().redirect_request(*arguments, "http://example.org/b")


# Arrays


@pytest.mark.parametrize("shape", [(10, 6, 5), (10, 1, 6, 5), (10, 6, 5, 1), (10, 3, 6, 5), (10, 6, 5, 3)])
def test_array_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = pixels(*shape)
    np.save(tmp_path / "a.npy", array)
    data = array_file(tmp_path / "a.npy", test_fraction=0.2)
    assert data.train.shape == ((3 if 3 in shape else 1), 6, 5)
    assert data.train.labels is None
    channels_first = array[:, None] if array.ndim == 3 else array if shape[1] in (1, 3) else np.moveaxis(array, 3, 1)
    rows = torch.cat([data.train.images, data.test.images]).flatten(1).tolist()
    assert sorted(rows) == sorted(channels_first.reshape(10, -1).tolist())


def test_npz_with_labels_and_with_splits(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    images, labels = pixels(10, 4, 4), np.arange(10, dtype=np.int32)
    np.savez_compressed(path, images=images, labels=labels)
    data = array_file(path, seed=3)
    assert data.train.labels is not None
    assert data.train.images.squeeze(1).numpy().tolist() == images[data.train.labels.numpy()].tolist(), (
        "labels stay with images"
    )
    np.savez(path, train_images=images[:7], train_labels=labels[:7], test_images=images[7:], test_labels=labels[7:])
    assert [len(part) for part in (array_file(path).train, array_file(path).test)] == [7, 3]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((5, 4, 4))}, r"images: pixels have dtype float64, expected uint8 .*255"),
        ({"images": np.full((5, 4, 4), 256)}, r"dtype int64, .*the values are in 256 \.\. 256$"),
        ({"images": np.zeros((5, 4), np.uint8)}, r"shape \(5, 4\)"),
        ({"images": np.zeros((5, 2, 4, 4), np.uint8)}, r"shape \(5, 2, 4, 4\)"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "no side of 0"),
        ({"pictures": np.zeros((5, 4, 4), np.uint8)}, r"keys \['pictures'\], expected images"),
        ({"images": np.zeros((5, 4, 4), np.uint8), "labels": np.zeros(5)}, "labels have dtype float64"),
        ({"images": np.zeros((5, 4, 4), np.uint8), "labels": np.arange(4)}, r"labels have shape \(4,\), expected \(5,\)"),
        ({"images": np.array([{}], object)}, "not a NumPy file of plain numbers"),
    ],
)
def test_array_file_refuses(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        array_file(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_truncated_array_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    array = pixels(10, 6, 6)
    if suffix == ".npy":
        np.save(path, array)
    else:
        np.savez(path, images=array)
    for kept in (300, 5, 0):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ValueError, match=rf"a\{suffix} is truncated or not .* {kept} bytes found"):
            array_file(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"a\{suffix}"):
        array_file(path)
    with pytest.raises(ValueError, match=r"suffix '\.csv', expected \.npy, \.npz or \.mat"):
        array_file(tmp_path / "a.csv")


# Folders of images and data sets


def test_image_folder_with_classes(tmp_path: Path) -> None:
    for name, level in (("cat", 10), ("dog", 200)):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(np.full((6, 5), level + i, np.uint8)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    data = image_folder(tmp_path, test_fraction=0.2)
    assert (len(data.train), len(data.test), data.train.shape, data.num_classes) == (8, 2, (1, 6, 5), 2)
    for part in (data.train, data.test):
        assert part.labels is not None
        assert (part.images[:, 0, 0, 0] >= 200).long().equal(part.labels)
    assert image_folder(tmp_path, channels=3).train.shape == (3, 6, 5)
    Image.fromarray(pixels(6, 5)).save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"loose\.png is in no class folder"):
        image_folder(tmp_path)


def test_image_folder_brings_all_to_one_size(tmp_path: Path) -> None:
    colour = pixels(12, 16, 3)
    Image.fromarray(colour).save(tmp_path / "a.png")
    Image.fromarray(pixels(20, 8)).convert("P").save(tmp_path / "b.png")
    Image.fromarray(pixels(9, 9, 3)).save(tmp_path / "c.JPG")
    with pytest.raises(ValueError, match=r"c\.JPG has shape \(1, 9, 9\), expected \(1, 20, 8\) as .*b\.png.*image_size"):
        image_folder(tmp_path)
    data = image_folder(tmp_path, channels=3, image_size=8)
    assert data.train.shape == (3, 8, 8)
    assert data.train.labels is None
    square = torch.from_numpy(colour[:, 2:14].copy()).permute(2, 0, 1)[None]  # the centre, 12 x 12
    expected = vision.resize(square, [8, 8], antialias=True)
    everything = torch.cat([data.train.images, data.test.images])
    assert any(image.equal(expected[0]) for image in everything)
    assert image_folder(tmp_path, image_size=(4, 8)).train.shape == (1, 4, 8)


def test_image_folder_refuses(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no image"):
        image_folder(tmp_path)
    with pytest.raises(ValueError, match="channels = 2, expected 1"):
        image_folder(tmp_path, channels=2)
    Image.fromarray(pixels(30, 30)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="1 image cannot be split"):
        image_folder(tmp_path)
    Image.fromarray(pixels(30, 30)).save(tmp_path / "b.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:200])
    with pytest.raises(ValueError, match=r"a\.png is damaged or not an image .* 200 bytes found"):
        image_folder(tmp_path)
    (tmp_path / "a.png").unlink()
    Image.fromarray(np.zeros((4, 4), np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif has mode 'I' \(integers of 32 bits\), expected at most 16"):
        image_folder(tmp_path)


class Listed(torch.utils.data.Dataset[Any]):
    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def test_from_dataset_takes_every_kind_of_item() -> None:
    array = pixels(4, 6, 5)
    conversions = (
        lambda a: a,
        torch.from_numpy,
        Image.fromarray,
        lambda a: a[None],
        lambda a: a[..., None],
        lambda a: a[..., None][..., ::-1],  # one channel reversed, as of BGR: the array counts as contiguous
        lambda a: a[::-1].copy()[::-1],
    )
    for convert in conversions:
        data = from_dataset(Listed(*[(convert(a), i) for i, a in enumerate(array)]), test_fraction=0.5)
        assert data.train.labels is not None
        assert data.train.images.squeeze(1).numpy().tolist() == array[data.train.labels.numpy()].tolist()
    colour = pixels(6, 5, 3)
    data = from_dataset(Listed(colour, colour), Listed(Image.fromarray(colour)))
    assert data.test.images[0].permute(1, 2, 0).numpy().tolist() == colour.tolist()
    assert data.train.labels is None
    assert from_dataset(Listed(Image.fromarray(colour)), Listed(Image.fromarray(colour)), channels=1).train.shape == (1, 6, 5)
    assert from_dataset(Listed(colour, pixels(9, 9, 3)), image_size=4).train.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "dataset is empty"),
        ([torch.rand(1, 4, 4), torch.rand(1, 4, 4)], r"dataset\[0\]: pixels have dtype torch\.float32, expected uint8"),
        ([pixels(4, 4), pixels(5, 5)], r"dataset\[1\] has shape \(1, 5, 5\), expected \(1, 4, 4\)"),
        ([pixels(4, 4), (pixels(4, 4), 1)], "1 of 2 items have a label"),
        (["a.png", "b.png"], r"dataset\[0\] is a str"),
    ],
)
def test_from_dataset_refuses(items: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dataset(Listed(*items))


# CIFAR-10


def write_cifar10(folder: Path, n: int = 4) -> dict[str, np.ndarray]:
    """The six files with n random records each: labels and images."""
    folder.mkdir(parents=True, exist_ok=True)
    records = {name: pixels(n, 3073) for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")}
    for name, array in records.items():
        array[:, 0] %= 10
        (folder / name).write_bytes(array.tobytes())
    return records


def write_archive(path: Path, folder: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname="cifar-10-batches-bin")


def test_cifar10_is_read_from_folder_and_archive(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    records = write_cifar10(folder)
    write_archive(tmp_path / "cifar-10-binary.tar.gz", folder)
    train = np.concatenate([records[f"data_batch_{i}.bin"] for i in range(1, 6)])
    for path in (tmp_path, folder, tmp_path / "cifar-10-binary.tar.gz"):
        data = cifar10(path)
        assert data.train.shape == (3, 32, 32)
        assert data.train.images.flatten(1).numpy().tolist() == train[:, 1:].tolist()
        assert data.train.labels is not None
        assert data.train.labels.tolist() == train[:, 0].tolist()
        assert data.test.images.flatten(1).numpy().tolist() == records["test_batch.bin"][:, 1:].tolist()
    # Byte 1 is the red of the upper left pixel, byte 2 its neighbour's on the right, byte 1025 its green.
    first = data.train.images[0]
    assert [int(first[0, 0, 0]), int(first[0, 0, 1]), int(first[1, 0, 0])] == [int(train[0, i]) for i in (1, 2, 1025)]
    data.train.images[0] = 0  # a copy, which may be written
    assert read_cifar10(folder).train.images[0].any()
    shutil.rmtree(folder)
    assert len(cifar10(tmp_path, download=True).train) == 20, "the archive is there: nothing is downloaded"


def test_cifar10_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10 is not in .*: put cifar-10-binary\.tar\.gz .*download=True"):
        cifar10(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder or archive"):
        read_cifar10(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"has no data_batch_1\.bin, .*: expected the binary version"):
        read_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n")
    with pytest.raises(FileNotFoundError, match="the binary version"):
        cifar10(tmp_path)
    write_cifar10(tmp_path)
    for content, message in (
        (bytes(3072), r"data_batch_2\.bin is truncated or too long: 3072 bytes found, expected a multiple of 3073"),
        (b"", "0 bytes found"),
        (b"\x0b" + bytes(3072), r"data_batch_2\.bin is not a file of CIFAR-10: it has the label 11"),
    ):
        (tmp_path / "data_batch_2.bin").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            cifar10(tmp_path)
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no data_batch_2\.bin:"):
        cifar10(tmp_path)


def test_a_damaged_archive_of_cifar10(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "files")
    path = tmp_path / "cifar-10-binary.tar.gz"
    write_archive(path, tmp_path / "files")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:999] + bytes([whole[999] ^ 255]) + whole[1000:], b"no archive"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"not an intact tar archive .*{len(content)} bytes found"):
            cifar10(tmp_path)


def test_download_of_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError, match=r"cifar-10-binary\.tar\.gz could not be downloaded .* without a network, put"):
        cifar10(tmp_path / "root", download=True)
    write_cifar10(tmp_path / "files")
    write_archive(tmp_path / "served.tar.gz", tmp_path / "files")
    opener = SimpleNamespace(open=lambda url, timeout: Response((tmp_path / "served.tar.gz").read_bytes()))
    monkeypatch.setattr(urllib.request, "build_opener", lambda *handlers: opener)
    with pytest.raises(ConnectionError, match=r"bytes with checksum [0-9a-f]{32}, expected c32a1d4a"):
        cifar10(tmp_path / "root", download=True)
    assert list((tmp_path / "root").iterdir()) == []
    md5 = download.hashlib.md5((tmp_path / "served.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(download, "_CIFAR10_MD5", md5)
    assert len(cifar10(tmp_path / "root", download=True).test) == 4
