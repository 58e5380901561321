"""Which images a data set holds, wherever it lies: their number, their shape and a hash."""

from __future__ import annotations

import hashlib
from typing import Any

from ctdiff.data.images import ImageData, Splits

__all__ = ["data_record"]


def _images_record(images: ImageData) -> dict[str, Any]:
    content = hashlib.sha256(images.images.contiguous().numpy().data)  # no copy: it may be larger than memory
    if images.labels is not None:
        content.update(images.labels.numpy().tobytes())
    return {"count": len(images), "sha256": content.hexdigest()}


def data_record(splits: Splits) -> dict[str, Any]:
    """Which real images numbers are of."""
    return {
        "shape": list(splits.train.shape),
        "num_values": splits.train.num_values,
        "train": _images_record(splits.train),
        "held_out": _images_record(splits.test),
    }
