"""Data: sources of images, transforms and batches.

    source -> Splits -> resized -> quantise (or as_states) -> fraction -> Batches -> (x_0, cond)

Images are uint8 in memory, with values 0 .. S - 1. A source (`EmbeddedMNIST`, `Folder`, ..., or the function that it calls)
reads `Splits` of `ImageData`. A transform is a function from `Splits` to `Splits` or from `ImageData` to `ImageData`.
`Batches` gives the batch of any step.
"""

from ctdiff.data.arrays import array_file, embedded_mnist
from ctdiff.data.batches import Batches, Flip, Rotation
from ctdiff.data.cifar import read_cifar10
from ctdiff.data.datasets import from_dataset
from ctdiff.data.download import cifar10, torchvision_fashion_mnist, torchvision_mnist
from ctdiff.data.folders import image_folder
from ctdiff.data.idx import idx_folder, read_idx
from ctdiff.data.images import ImageData, Splits, data_record, split
from ctdiff.data.preparation import Preparation
from ctdiff.data.sources import CIFAR10, IDX, MNIST, Array, EmbeddedMNIST, FashionMNIST, Folder, Source
from ctdiff.data.transforms import as_states, fraction, quantise, resized

__all__ = [
    "CIFAR10",
    "IDX",
    "MNIST",
    "Array",
    "Batches",
    "EmbeddedMNIST",
    "FashionMNIST",
    "Flip",
    "Folder",
    "ImageData",
    "Preparation",
    "Rotation",
    "Source",
    "Splits",
    "array_file",
    "as_states",
    "cifar10",
    "data_record",
    "embedded_mnist",
    "fraction",
    "from_dataset",
    "idx_folder",
    "image_folder",
    "quantise",
    "read_cifar10",
    "read_idx",
    "resized",
    "split",
    "torchvision_fashion_mnist",
    "torchvision_mnist",
]
