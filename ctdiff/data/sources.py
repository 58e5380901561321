"""Sources of images: a class for each kind of file or folder, with a method `load`.

    Folder("~/photos", channels=3, image_size=(32, 32)).load() -> Splits

The arguments are checked when a source is made. Nothing is read before `load`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeAlias

from ctdiff.data.arrays import array_file, embedded_mnist
from ctdiff.data.download import cifar10, torchvision_fashion_mnist, torchvision_mnist
from ctdiff.data.folders import image_folder
from ctdiff.data.idx import idx_folder
from ctdiff.data.images import Splits
from ctdiff.files import expanded
from diffusion_core.ranges import CheckedArguments, Range

__all__ = ["CIFAR10", "IDX", "MNIST", "Array", "EmbeddedMNIST", "FashionMNIST", "Folder", "Source"]

TestFraction: TypeAlias = Annotated[float, Range(above=0, below=1)]


def _absolute(path: str) -> Path:
    """Return an absolute path; `~` is the home folder."""
    return expanded(path).absolute()


@dataclass(frozen=True)
class Source(CheckedArguments, ABC):
    """The base class of sources. A source gives a training set and a test set of uint8 images, with optional labels."""

    @abstractmethod
    def load(self) -> Splits:
        """Read the images into memory.

        Raises:
            FileNotFoundError: a file or folder is missing.
            ConnectionError: a download failed.
            ValueError: a file is damaged, or has another format.
        """


@dataclass(frozen=True)
class EmbeddedMNIST(Source):
    """The 10,000 MNIST digits that are part of the package: 8,000 training and 2,000 test digits, (1, 28, 28)."""

    def load(self) -> Splits:
        return embedded_mnist()


@dataclass(frozen=True)
class MNIST(Source):
    """60,000 training and 10,000 test digits, (1, 28, 28).

    Arguments:
        path: the folder that torchvision calls `root`; the files are in `MNIST/raw` below it.
        download: whether to download missing files.
    """

    path: str = "data"
    download: bool = False

    def load(self) -> Splits:
        return torchvision_mnist(_absolute(self.path), self.download)


@dataclass(frozen=True)
class FashionMNIST(Source):
    """60,000 training and 10,000 test images of clothes, (1, 28, 28).

    Arguments:
        path: the folder that torchvision calls `root`; the files are in `FashionMNIST/raw` below it.
        download: whether to download missing files.
    """

    path: str = "data"
    download: bool = False

    def load(self) -> Splits:
        return torchvision_fashion_mnist(_absolute(self.path), self.download)


@dataclass(frozen=True)
class CIFAR10(Source):
    """50,000 training and 10,000 test photographs, (3, 32, 32), in 10 classes.

    Arguments:
        path: a folder with the archive cifar-10-binary.tar.gz or with its unpacked folder, or the path of one of these.
        download: whether to download the archive (162 MB) if it is missing.
    """

    path: str = "data"
    download: bool = False

    def load(self) -> Splits:
        return cifar10(_absolute(self.path), self.download)


@dataclass(frozen=True)
class IDX(Source):
    """A folder of four IDX files with the names of the MNIST files, gzipped or not.

    Arguments:
        path: the folder.
    """

    path: str

    def load(self) -> Splits:
        return idx_folder(_absolute(self.path))


@dataclass(frozen=True)
class Array(Source):
    """Images in a .npy or .npz file, or in a .mat file of SVHN.

    Arguments:
        path: the file.
        test_fraction: the share of the images that becomes the test set, if the file has none.
    """

    path: str
    test_fraction: TestFraction = 0.1

    def load(self) -> Splits:
        return array_file(_absolute(self.path), self.test_fraction)


@dataclass(frozen=True)
class Folder(Source):
    """A folder of image files. If the images are in subfolders, each subfolder is a class.

    Arguments:
        path: the folder.
        test_fraction: the share of the images that becomes the test set, if there is no folder `test` or `val`.
        ground: the grey level behind transparent pixels. 0 is black, 255 is white.
        skip_damaged: whether to leave out images that cannot be read, with a warning.
        channels: 1 for grey, 3 for RGB; every image is converted.
        image_size: height and width; every image is cropped around its centre and resized.
    """

    path: str
    test_fraction: TestFraction = 0.1
    ground: Annotated[int, Range(least=0, most=255)] = 255
    skip_damaged: bool = False
    channels: int = field(kw_only=True)
    image_size: tuple[int, int] = field(kw_only=True)

    def load(self) -> Splits:
        return image_folder(
            _absolute(self.path),
            self.channels,
            self.image_size,
            self.test_fraction,
            ground=self.ground,
            skip_damaged=self.skip_damaged,
        )
