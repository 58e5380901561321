"""Images written in a test: by Pillow, or by the definition of their format where Pillow cannot write them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ctdiff.data import Splits
from ctdiff.data.photographs import open_image

__all__ = ["everything", "grey", "levels", "opened", "put", "write_png", "write_tiff"]


def grey(level: int, side: int = 4) -> Image.Image:
    return Image.new("L", (side, side), level)


def put(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def opened(path: Path, channels: int = 1, **options: Any) -> np.ndarray:
    return open_image(path, channels, **options)[0].numpy()


def everything(splits: Splits) -> torch.Tensor:
    return torch.cat([splits.train.images, splits.test.images])


def levels(splits: Splits) -> list[int]:
    return sorted(everything(splits)[:, 0, 0, 0].tolist())


def write_png(path: Path, values: np.ndarray, bits: int, transparent: tuple[int, ...] = ()) -> Path:
    """A PNG by its definition: (H, W) is grey, (H, W, 3) RGB; big-endian rows, each after a byte for no filter."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = values.astype(">u2" if bits == 16 else "u1").reshape(len(values), -1)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0 if values.ndim == 2 else 2, 0, 0, 0)
    key = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key + body + chunk(b"IEND", b""))
    return path


def write_tiff(path: Path, values: np.ndarray, bits: int, photometric: int = 1) -> Path:
    """A grey little-endian TIFF of one strip by its definition; values of 12 bits are packed, the first bit highest."""
    height, width = values.shape
    packed = "".join(f"{value:012b}" for value in values.flatten().tolist())
    content = values.astype("<u2").tobytes() if bits == 16 else int(packed, 2).to_bytes(len(packed) // 8, "big")
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: height}
    tags[279] = len(content)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + content)
    return path
