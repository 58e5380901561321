"""Checkpoints: folders that are there completely or not at all.

    checkpoints/step_0000500/model.safetensors     the network
                             ema.safetensors       its moving average
                             state.pt              optimiser, schedule, counters and random states

A checkpoint is written under another name, every file and the folder are flushed to the disk,
and then the folder is renamed: one step for the file system. Whatever moment the process is
killed at, the folders named `step_*` are whole. What is old is renamed before it is deleted,
for the same reason.

A tensor that a network has under several names (tied weights) is written once, under the first of them. A view of a part of
another tensor is written beside it.

Nothing here executes a pickle: weights are safetensors with a hash of their bytes, and
`state.pt` holds tensors, numbers, strings and containers, read with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

__all__ = [
    "CheckpointError",
    "check_weights",
    "complete_checkpoints",
    "discard",
    "load_weights",
    "not_finite",
    "read_state",
    "read_weights",
    "remove_leftovers",
    "write_atomically",
    "write_checkpoint",
]

_NAME = re.compile(r"step_(\d{7,})")
_FORMAT = "ctdiff-1"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read; the message names the file."""


def complete_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a folder with their steps, oldest first; unfinished ones are not among them."""
    if not folder.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return sorted((int(match.group(1)), path) for match, path in named if match)


def write_checkpoint(
    folder: Path, step: int, weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write one checkpoint, then drop all but the last `keep`.

    Arguments:
        folder: where the checkpoints of a run are.
        step: how many steps are done.
        weights: parameters by file name: {"model": {name: tensor}, ...}; one tensor of several names is written once.
        state: what else continues a training: tensors, numbers, strings, lists, dictionaries.
        keep: how many checkpoints stay.

    Raises:
        ValueError: keep is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}, expected at least 1")
    final = folder / f"step_{step:07d}"
    building = folder / f".writing_{final.name}_{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for name, tensors in weights.items():
        _write(building / f"{name}.safetensors", _encode_weights(tensors))
    buffer = io.BytesIO()
    torch.save({**state, "format": _FORMAT, "step": step}, buffer)
    _write(building / "state.pt", buffer.getvalue())
    _flush(building)
    discard(final)  # only there if it could not be read: a training continues from the newest readable one
    building.rename(final)
    _flush(folder)
    for _, path in complete_checkpoints(folder)[:-keep]:
        discard(path)
    return final


def discard(path: Path) -> None:
    """Delete a folder; it loses its name first."""
    if path.exists():
        doomed = path.with_name(f".deleting_{path.name}_{os.getpid()}")
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the folders and files that a killed process left half written or half deleted."""
    for pattern in (".writing_*", ".deleting_*"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file that `write_checkpoint` wrote.

    Raises:
        CheckpointError: missing, truncated, altered, or written by something else.
    """
    try:
        content = path.read_bytes()
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load(content)
    except Exception as error:  # arbitrary bytes fail in arbitrary ways
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if _FORMAT not in metadata:
        raise CheckpointError(f"{path} is not of a checkpoint of ctdiff: its metadata are {metadata or 'empty'}")
    if metadata[_FORMAT] != _digest(tensors):
        raise CheckpointError(f"{path} is corrupted: its tensors do not match their hash")
    return tensors


def read_state(path: Path) -> dict[str, Any]:
    """The content of a `state.pt`; no pickle is executed.

    Raises:
        CheckpointError: missing, truncated, altered, or written by something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums of the archive it writes
            altered = archive.testzip()
        state = None if altered else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # arbitrary bytes fail in arbitrary ways
        raise CheckpointError(f"{path} cannot be read: {(str(error) or repr(error)).splitlines()[0]}") from error
    if altered:
        raise CheckpointError(f"{path} is corrupted: {altered} does not match its checksum")
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of ctdiff")
    return state


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a safetensors file into a network.

    Where the network has one tensor under several names, the file has to have it under the first of them, as
    `write_checkpoint` writes it.

    Raises:
        CheckpointError: the file cannot be read, or is of another network.
    """
    tensors, expected = read_weights(path), network.state_dict()
    first = _first_names(expected)
    odd = sorted((set(tensors) - set(expected)) | (set(first.values()) - set(tensors)))
    if odd:
        holder = "the file" if odd[0] in tensors else "the network"
        raise CheckpointError(f"{path} is of another network: only {holder} has {odd[0]!r} ({len(odd)} such names)")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path} is of another network: {name!r} has shape {tuple(tensor.shape)}, "
                f"the network expects {tuple(expected[name].shape)}"
            )
        if first[name] != name and not torch.equal(tensor, tensors[first[name]]):
            raise CheckpointError(
                f"{path} is of another network: {name!r} and {first[name]!r} differ, the network has one tensor for both"
            )
    network.load_state_dict({name: tensors[kept] for name, kept in first.items()})


def not_finite(network: nn.Module) -> str | None:
    """Which parameters hold an infinite number or NaN, in words; None where none does."""
    names = [name for name, parameter in network.named_parameters() if not bool(parameter.detach().isfinite().all())]
    return None if not names else f"{names[0]} and {len(names) - 1} more parameters" if len(names) > 1 else names[0]


def check_weights(network: nn.Module, path: Path) -> None:
    """Refuse weights that nothing can be computed with.

    Arguments:
        network: the network that has the weights.
        path: where they are from, for the message.

    Raises:
        CheckpointError: a parameter holds an infinite number or NaN.
    """
    if (which := not_finite(network)) is not None:
        raise CheckpointError(f"{path} holds weights that are not finite ({which}): the training had diverged")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content: a reader, or a crash, sees the old or the new one, never a part."""
    building = path.with_name(f".writing_{path.name}_{os.getpid()}")
    _write(building, content)
    building.replace(path)
    _flush(path.parent)


def _first_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Of every name, the first name of the same tensor: of tied weights, both names have one."""
    first: dict[object, str] = {}
    return {name: first.setdefault(_place(tensor) or name, name) for name, tensor in tensors.items()}


def _place(tensor: Tensor) -> tuple[object, ...] | None:
    """Where in memory the elements of a tensor are, and in what order; None where there are none."""
    address = tensor.data_ptr()
    return (tensor.device, address, tensor.dtype, tensor.shape, tensor.stride()) if address else None


def _encode_weights(tensors: Mapping[str, Tensor]) -> bytes:
    once = {name: tensors[name] for name in dict.fromkeys(_first_names(tensors).values())}
    # Copies, for safetensors refuses tensors that share memory, as a view and what it is a view of do.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in once.items()}
    # One entry: safetensors orders several at random, and equal weights are to be equal files.
    return safetensors.torch.save(plain, metadata={_FORMAT: _digest(plain)})


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Make the names in a folder durable; some systems cannot open folders, and need not."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
