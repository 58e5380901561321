"""Checkpoints of a training. A checkpoint is a folder that is complete or does not exist.

    checkpoints/step_0000500/model.safetensors     the network
                             ema.safetensors       its moving average
                             state.pt              optimiser, schedule, counters and random states

Every folder named `step_*` is complete, even if the process was killed (see `ctdiff.files`).

A tensor with several names in a network (tied weights) is written once, under the first name. A view of a part of another
tensor is written as a separate tensor.

No pickle is executed. Weights are safetensors files with a hash of their bytes. `state.pt` contains tensors, numbers, strings
and containers, and is read with `weights_only=True`.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ctdiff.files import discard, new_folder, write_durably
from ctdiff.hashes import tensors_hash

__all__ = [
    "CheckpointError",
    "check_weights",
    "complete_checkpoints",
    "encode_weights",
    "load_weights",
    "not_finite",
    "read_state",
    "read_weights",
    "write_checkpoint",
]

_NAME = re.compile(r"step_(\d{7,})")
_FORMAT = "ctdiff-1"


class CheckpointError(RuntimeError):
    """An error about a checkpoint that cannot be read. The message names the file."""


def complete_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return the complete checkpoints of a folder with their steps, oldest first."""
    if not folder.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return sorted((int(match.group(1)), path) for match, path in named if match)


def write_checkpoint(
    folder: Path, step: int, weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write one checkpoint, then delete all but the last `keep`.

    Arguments:
        folder: the folder of the checkpoints.
        step: the number of finished steps.
        weights: a dictionary from names of files to state dicts: {"model": {name: tensor}, ...}. A tensor with several names
            is written once.
        state: the rest of the training state, made of tensors, numbers, strings, lists and dictionaries.
        keep: the number of checkpoints that are kept.

    Raises:
        ValueError: keep is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}, expected at least 1")
    final = folder / f"step_{step:07d}"
    with new_folder(final) as building:  # it may replace a checkpoint of this step that cannot be read
        for name, tensors in weights.items():
            write_durably(building / f"{name}.safetensors", encode_weights(tensors))
        buffer = io.BytesIO()
        torch.save({**state, "format": _FORMAT, "step": step}, buffer)
        write_durably(building / "state.pt", buffer.getvalue())
    for _, path in complete_checkpoints(folder)[:-keep]:
        discard(path)
    return final


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file that `write_checkpoint` wrote.

    Raises:
        CheckpointError: the file is missing, truncated or altered, or another program wrote it.
    """
    try:
        content = path.read_bytes()
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load(content)
    except Exception as error:  # arbitrary bytes fail in arbitrary ways
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if _FORMAT not in metadata:
        raise CheckpointError(f"{path} is not part of a checkpoint of ctdiff: its metadata are {metadata or 'empty'}")
    if metadata[_FORMAT] != tensors_hash(tensors):
        raise CheckpointError(f"{path} is corrupted: its tensors do not match their hash")
    return tensors


def read_state(path: Path) -> dict[str, Any]:
    """Read the content of a `state.pt`. No pickle is executed.

    Raises:
        CheckpointError: the file is missing, truncated or altered, or another program wrote it.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not check the checksums of its archives
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

    With tied weights, one tensor has several names in the network. `write_checkpoint` writes such a tensor once, under its
    first name, and the file must contain this name.

    Raises:
        CheckpointError: the file cannot be read, or belongs to another network.
    """
    tensors, expected = read_weights(path), network.state_dict()
    first = _first_names(expected)
    odd = sorted((set(tensors) - set(expected)) | (set(first.values()) - set(tensors)))
    if odd:
        holder = "the file" if odd[0] in tensors else "the network"
        raise CheckpointError(f"{path} belongs to another network: only {holder} has {odd[0]!r} ({len(odd)} such names)")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path} belongs to another network: {name!r} has shape {tuple(tensor.shape)}, "
                f"the network expects {tuple(expected[name].shape)}"
            )
        if first[name] != name and not torch.equal(tensor, tensors[first[name]]):
            raise CheckpointError(
                f"{path} belongs to another network: {name!r} and {first[name]!r} differ, the network has one tensor for both"
            )
    network.load_state_dict({name: tensors[kept] for name, kept in first.items()})


def not_finite(network: nn.Module) -> str | None:
    """Return the first parameter with infinite numbers or NaN, and the number of others, in words. None if all are finite."""
    names = [name for name, parameter in network.named_parameters() if not bool(parameter.detach().isfinite().all())]
    return None if not names else f"{names[0]} and {len(names) - 1} more parameters" if len(names) > 1 else names[0]


def check_weights(network: nn.Module, path: Path) -> None:
    """Check that all weights of a network are finite.

    Arguments:
        network: the network with the weights.
        path: the file of the weights, for the message.

    Raises:
        CheckpointError: a parameter has an infinite number or NaN.
    """
    if (which := not_finite(network)) is not None:
        raise CheckpointError(f"{path} has weights that are not finite ({which}): the training had diverged")


def _first_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return a dictionary from every name to the first name of the same tensor. Tied weights have several names."""
    first: dict[object, str] = {}
    return {name: first.setdefault(_place(tensor) or name, name) for name, tensor in tensors.items()}


def _place(tensor: Tensor) -> tuple[object, ...] | None:
    """Return what identifies the memory of a tensor, and the order of its elements; None for an empty tensor."""
    address = tensor.data_ptr()
    return (tensor.device, address, tensor.dtype, tensor.shape, tensor.stride()) if address else None


def encode_weights(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the content of a safetensors file that `read_weights` can read. A tensor with several names is once."""
    once = {name: tensors[name] for name in dict.fromkeys(_first_names(tensors).values())}
    # Copies, because safetensors refuses tensors that share memory, such as a view and its base.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in once.items()}
    # One entry: safetensors would write several in random order, and equal weights must give equal files.
    return safetensors.torch.save(plain, metadata={_FORMAT: tensors_hash(plain)})
