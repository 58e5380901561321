"""Hashes that files and names hold: the values stay what they are."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from ctdiff.data import ImageData, Splits, data_record
from ctdiff.hashes import bytes_hash, content_hash, file_hash, json_hash, tensors_hash, weights_hash


def test_bytes_files_and_json(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, appendix B.1
    assert bytes_hash(b"abc") == file_hash(tmp_path / "file") == expected
    text = b'{"a": "inf", "b": [1, [2, null]]}'
    assert json_hash({"b": [1, (2, None)], "a": "inf"}) == hashlib.sha256(text).hexdigest()
    assert json_hash({"a": 1, "b": 2}) == json_hash({"b": 2, "a": 1}) != json_hash({"a": 1, "b": 3})


def test_tensors_by_name():
    """As written down by hand: names in order, each with its dtype, its shape and its bytes, whatever its strides are."""
    matrix = torch.arange(6, dtype=torch.float32).reshape(2, 3).T
    tensors = {"b": matrix, "a": torch.tensor(True), "c": torch.zeros(0, 3)}
    elements = np.array([[0, 3], [1, 4], [2, 5]], dtype="<f4").tobytes()
    parts = [b"a torch.bool ()", b"\x01", b"b torch.float32 (3, 2)", elements, b"c torch.float32 (0, 3)"]
    assert tensors_hash(tensors) == hashlib.sha256(b"".join(parts)).hexdigest()
    network = torch.nn.Linear(1, 1).double()
    torch.nn.init.constant_(network.weight, 1.0)
    torch.nn.init.constant_(network.bias, 2.0)
    lines = [
        b"bias torch.float64 (1,)\n",
        np.array([2.0]).tobytes(),
        b"weight torch.float64 (1, 1)\n",
        np.array([1.0]).tobytes(),
    ]
    assert weights_hash(network) == hashlib.sha256(b"".join(lines)).hexdigest()[:8]


def test_images_and_labels():
    images, labels = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2), torch.tensor([1, 0])
    content = bytes(range(8)) + np.array([1, 0], dtype="<i8").tobytes()
    assert content_hash(images, labels) == hashlib.sha256(content).hexdigest()
    splits = Splits(ImageData(images, labels), ImageData(images[:1], labels[:1]))
    record = data_record(splits)
    assert record["train"] == {"count": 2, "sha256": hashlib.sha256(content).hexdigest()}
    assert record["held_out"]["count"] == 1
    assert (record["shape"], record["num_values"]) == ([1, 2, 2], 256)
    unlabelled = Splits(ImageData(images), ImageData(images))
    assert data_record(unlabelled)["train"]["sha256"] == hashlib.sha256(bytes(range(8))).hexdigest()
