"""MNIST and Fashion-MNIST in the folders that torchvision uses, and CIFAR-10 beside them.

torchvision knows the names and checksums of the files and where they belong
(`ROOT/MNIST/raw`); a folder filled by it is read as it is. Nothing is downloaded unless asked
for, and then over TLS only, with certificates checked: torchvision's own downloader falls
back to plain HTTP, so it is not used. Its copy of CIFAR-10 is a set of pickles, which nothing
here executes: the same images are read from the binary archive of the same authors.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ctdiff.data.cifar import CIFAR10_ARCHIVE, CIFAR10_FOLDER, read_cifar10
from ctdiff.data.idx import find_idx, idx_folder
from ctdiff.data.images import Splits
from ctdiff.https import fetch

__all__ = ["cifar10", "torchvision_fashion_mnist", "torchvision_mnist"]

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION_MNIST = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
_CIFAR10 = "https://www.cs.toronto.edu/~kriz/"
_CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # of the archive, as its page says


def _fetch(url: str, target: Path, md5: str) -> None:
    """Download a file to `target`: under another name until its checksum has been verified."""
    content = fetch(url)
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise OSError(f"{len(content)} bytes with checksum {found} arrived, expected {md5}")
    part = target.with_name(target.name + ".part")
    part.write_bytes(content)
    os.replace(part, target)


def _read(root: str | Path, name: str, mirror: str, download: bool) -> Splits:
    """The set `name` (a class of torchvision.datasets) from ROOT/name/raw."""
    import torchvision.datasets  # here, because it is slow to import and most runs do not need it

    folder = Path(root).expanduser() / name / "raw"
    missing = find_idx(folder)[1]
    files = [(file, md5) for file, md5 in getattr(torchvision.datasets, name).resources if Path(file).stem in missing]
    by_hand = f"put {', '.join(file for file, _ in files)} (gzipped or not) into {folder}"
    if files and not download:
        raise FileNotFoundError(f"{name} is not complete in {folder}: {by_hand}, or allow the download (download=True)")
    for file, md5 in files:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(mirror + file, folder / file, md5)
        except OSError as error:  # URLError, timeouts and refused certificates are OSErrors
            raise ConnectionError(f"{mirror}{file} could not be downloaded ({error}); without a network, {by_hand}") from error
    return idx_folder(folder)


def torchvision_mnist(root: str | Path, download: bool = False) -> Splits:
    """MNIST, 60,000 training and 10,000 test digits (1, 28, 28), from ROOT/MNIST/raw.

    Arguments:
        root: the folder that torchvision calls `root`.
        download: fetch the files that are missing.

    Raises:
        FileNotFoundError: files are missing and download is False.
        ConnectionError: a download failed.
        ValueError: a file is damaged.
    """
    return _read(root, "MNIST", _MNIST, download)


def torchvision_fashion_mnist(root: str | Path, download: bool = False) -> Splits:
    """Fashion-MNIST, 60,000 training and 10,000 test images (1, 28, 28), from ROOT/FashionMNIST/raw.

    Arguments and errors are those of `torchvision_mnist`.

    References:
        Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms (Xiao et al., 2017)
        | https://arxiv.org/abs/1708.07747
    """
    return _read(root, "FashionMNIST", _FASHION_MNIST, download)


def cifar10(root: str | Path, download: bool = False) -> Splits:
    """CIFAR-10, 50,000 training and 10,000 test images (3, 32, 32), 10 classes.

    Read from the binary version: the archive cifar-10-binary.tar.gz, or the folder cifar-10-batches-bin that
    is in it. Where torchvision is told the same `root`, both live side by side.

    Arguments:
        root: the folder that holds the archive or that folder; or one of the two itself.
        download: fetch the archive (162 MB) if neither is there.

    References:
        Learning multiple layers of features from tiny images (Krizhevsky, 2009)
        | https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf

    Raises:
        FileNotFoundError: neither is there and download is False, or a file is missing.
        ConnectionError: the download failed.
        ValueError: a file is damaged.
    """
    root = Path(root).expanduser()
    if root.is_file() or any(root.glob("*_batch*.bin")):
        return read_cifar10(root)
    folder, archive = root / CIFAR10_FOLDER, root / CIFAR10_ARCHIVE
    found = next((path for path in (folder, archive) if path.exists()), None)
    if found is not None:
        return read_cifar10(found)
    by_hand = f"put {CIFAR10_ARCHIVE} (of {_CIFAR10}cifar.html, the binary version) into {root}"
    if not download:
        raise FileNotFoundError(f"CIFAR-10 is not in {root}: {by_hand}, or allow the download (download=True)")
    root.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(_CIFAR10 + CIFAR10_ARCHIVE, archive, _CIFAR10_MD5)
    except OSError as error:  # URLError, timeouts and refused certificates are OSErrors
        raise ConnectionError(
            f"{_CIFAR10}{CIFAR10_ARCHIVE} could not be downloaded ({error}); without a network, {by_hand}"
        ) from error
    return read_cifar10(archive)
