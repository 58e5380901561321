"""The record of the images of a run: their number, their shape and their hashes."""

from __future__ import annotations

from dataclasses import dataclass

from ctdiff.data.images import Splits, data_record
from ctdiff.records import from_json

__all__ = ["DataRecord", "ImagesRecord"]


@dataclass(frozen=True)
class ImagesRecord:
    """A set of real images.

    Arguments:
        count: the number of images.
        sha256: the hash of pixels and labels.
    """

    count: int
    sha256: str


@dataclass(frozen=True)
class DataRecord:
    """The real images that samples are compared with.

    Arguments:
        shape: channels, height and width.
        num_values: the number of values of a pixel.
        train: the training images.
        held_out: the held-out images.
    """

    shape: list[int]
    num_values: int
    train: ImagesRecord
    held_out: ImagesRecord

    @classmethod
    def of(cls, splits: Splits) -> DataRecord:
        """Make the record of the given images."""
        return from_json(cls, data_record(splits), "data")
