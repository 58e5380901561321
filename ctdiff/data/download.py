"""MNIST and Fashion-MNIST in the folders of torchvision, and CIFAR-10.

The names, the checksums and the folder (`ROOT/MNIST/raw`) of the files are those of torchvision. So files that torchvision has
downloaded can be read. Files are downloaded only if the caller allows it, over TLS and with checked certificates. The
downloader of torchvision is not used, because it may use plain HTTP. torchvision reads CIFAR-10 from pickles, which can execute
code. Here, the images are read from the binary archive of the same authors.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ctdiff.data.cifar import CIFAR10_ARCHIVE, CIFAR10_FOLDER, read_cifar10
from ctdiff.data.idx import find_idx, idx_folder
from ctdiff.data.images import Splits
from ctdiff.files import expanded
from ctdiff.https import fetch

__all__ = ["cifar10", "torchvision_fashion_mnist", "torchvision_mnist"]

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION_MNIST = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
_CIFAR10 = "https://www.cs.toronto.edu/~kriz/"
_CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # of the archive, from its web page


def _fetch(url: str, target: Path, md5: str) -> None:
    """Download a file to `target`. It has another name until its checksum is verified."""
    content = fetch(url)
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise OSError(f"the download has {len(content)} bytes with checksum {found}, expected {md5}")
    part = target.with_name(target.name + ".part")
    part.write_bytes(content)
    os.replace(part, target)


def _read(root: str | Path, name: str, mirror: str, download: bool) -> Splits:
    """Read the data set `name` (a class of torchvision.datasets) from ROOT/name/raw."""
    import torchvision.datasets  # here, because it is slow to import and most runs do not need it

    folder = expanded(root) / name / "raw"
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
    """Read MNIST, 60,000 training and 10,000 test digits (1, 28, 28), from ROOT/MNIST/raw.

    Arguments:
        root: the folder that torchvision calls `root`.
        download: whether to download missing files.

    Raises:
        FileNotFoundError: files are missing and download is False.
        ConnectionError: a download failed.
        ValueError: a file is damaged.
    """
    return _read(root, "MNIST", _MNIST, download)


def torchvision_fashion_mnist(root: str | Path, download: bool = False) -> Splits:
    """Read Fashion-MNIST, 60,000 training and 10,000 test images (1, 28, 28), from ROOT/FashionMNIST/raw.

    The arguments and the errors are those of `torchvision_mnist`.

    References:
        Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms (Xiao et al., 2017)
        | https://arxiv.org/abs/1708.07747
    """
    return _read(root, "FashionMNIST", _FASHION_MNIST, download)


def cifar10(root: str | Path, download: bool = False) -> Splits:
    """Read CIFAR-10, 50,000 training and 10,000 test images (3, 32, 32), 10 classes.

    The binary version is read: the archive cifar-10-binary.tar.gz, or its unpacked folder cifar-10-batches-bin. `root` can be
    the root folder of torchvision.

    Arguments:
        root: a folder with the archive or with the unpacked folder, or the path of one of these.
        download: whether to download the archive (162 MB) if both are missing.

    References:
        Learning multiple layers of features from tiny images (Krizhevsky, 2009)
        | https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf

    Raises:
        FileNotFoundError: the archive and the folder are missing and download is False, or one of their files is missing.
        ConnectionError: the download failed.
        ValueError: a file is damaged.
    """
    root = expanded(root)
    if root.is_file() or any(root.glob("*_batch*.bin")):
        return read_cifar10(root)
    folder, archive = root / CIFAR10_FOLDER, root / CIFAR10_ARCHIVE
    found = next((path for path in (folder, archive) if path.exists()), None)
    if found is not None:
        return read_cifar10(found)
    by_hand = f"put {CIFAR10_ARCHIVE} (from {_CIFAR10}cifar.html, the binary version) into {root}"
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
