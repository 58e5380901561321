"""SHA-256 hashes of bytes, files, JSON content and tensors, as hexadecimal digits.

Hashes are stored in files and used in names. So the bytes that a function hashes must stay the same in later versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["bytes_hash", "content_hash", "file_hash", "json_hash", "tensors_hash", "weights_hash"]


def bytes_hash(content: bytes | memoryview) -> str:
    """Return the hash of bytes: 64 digits."""
    return hashlib.sha256(content).hexdigest()


def file_hash(path: Path) -> str:
    """Return the hash of a file: 64 digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_hash(content: Mapping[str, Any]) -> str:
    """Return the hash of JSON content: 64 digits. The order of the keys does not change it."""
    return bytes_hash(json.dumps(content, sort_keys=True).encode())


def content_hash(*tensors: Tensor) -> str:
    """Return one hash of the elements of several CPU tensors. Shapes and dtypes are not hashed: 64 digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)  # no copy: the tensor may be larger than memory
    return digest.hexdigest()


def tensors_hash(tensors: Mapping[str, Tensor], end: str = "") -> str:
    """Return one hash of named tensors, in the order of their names: 64 digits.

    Arguments:
        tensors: a dictionary from names to tensors. Names, dtypes, shapes and elements are hashed.
        end: a text that is hashed between the shape and the elements of each tensor.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}{end}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_hash(network: nn.Module) -> str:
    """Return the hash of the state dict of a network: 8 digits."""
    return tensors_hash(network.state_dict(), "\n")[:8]
