"""The Inception network of the literature, as an extractor. The name `FID` alone is used only with this network.

Published FIDs are distances between 2048 features of one network: Inception-v3 in TensorFlow's version of 2015, with
TensorFlow's resizing to 299 x 299 and its pooling. The package `torch-fidelity` (which torchmetrics uses too) has this network
in PyTorch. `pip install 'ctdiff[evaluation]'` installs it. The weights (95 MB) are not part of ctdiff. They are searched in
these places, in this order:

    1. the file that is given as an argument,
    2. the file that the environment variable CTDIFF_INCEPTION names,
    3. torch's hub cache, where other programs save them too.

If they are missing, they are downloaded if the caller allows it. The hash of the file is always checked.

The file is read as plain tensors (`weights_only=True`). sFID uses the first 7 of the 192 channels of the layer that
TensorFlow calls mixed_6/conv, 17 x 17 each.

References:
    Rethinking the Inception architecture for computer vision (Szegedy et al., 2015) | https://arxiv.org/abs/1512.00567
    Generating images with sparse representations (Nash et al., 2021) | https://arxiv.org/abs/2103.03841, for sFID
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctdiff.hashes import file_hash
from ctdiff.https import fetch
from ctdiff.metrics.features import Extractor, Features

__all__ = [
    "INCEPTION_FILES",
    "INCEPTION_HASH",
    "INCEPTION_URL",
    "VARIABLE",
    "MissingWeights",
    "colour_levels",
    "find_inception",
    "hub_folder",
    "inception",
]

VARIABLE = "CTDIFF_INCEPTION"
INCEPTION_HASH = "6726825d"
"""The first digits of the SHA-256 of the file. The name of the file contains them too."""

INCEPTION_FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
"""The names of the file in torch-fidelity and in pytorch-fid."""

INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILES[0]}"
_SPATIAL_CHANNELS = 7
_WIDTH = 2048


class MissingWeights(FileNotFoundError):
    """The weights of the Inception network are missing. The message explains how to get them."""


def hub_folder() -> Path:
    """Return the folder of torch's hub for files."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _advice(expected_hash: str) -> str:
    return (
        f"put {INCEPTION_FILES[0]} (or {INCEPTION_FILES[1]}, the same file; SHA-256 {expected_hash}...) "
        f"from {INCEPTION_URL} into {hub_folder()}, or set the environment variable {VARIABLE} to its path, "
        "or allow the download (download=True)"
    )


def find_inception(path: str | Path | None = None, download: bool = False, expected_hash: str = INCEPTION_HASH) -> Path:
    """Find the file of the Inception weights and check its hash.

    Arguments:
        path: the file. None means the file that the variable CTDIFF_INCEPTION names, or the file in the hub cache.
        download: whether to download a missing file into the hub cache.
        expected_hash: the first digits of the SHA-256 of the file. The default belongs to the weights of the literature.

    Raises:
        MissingWeights: the file is missing and may not be downloaded, or the download failed.
        ValueError: the file has another hash.
    """
    named = path if path is not None else os.environ.get(VARIABLE)
    candidates = [Path(named)] if named else [hub_folder() / name for name in INCEPTION_FILES]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None and download and not named:
        found = _download(candidates[0], expected_hash)
    if found is None:
        listed = " or ".join(map(str, candidates))
        raise MissingWeights(f"the weights of Inception-v3 are not in {listed}: {_advice(expected_hash)}")
    if not (digest := file_hash(found)).startswith(expected_hash):
        raise ValueError(f"{found} has the SHA-256 {digest[:8]}..., expected {expected_hash}...: {_advice(expected_hash)}")
    return found


def _download(target: Path, expected_hash: str) -> Path:
    """Download the weights over TLS. They have another name until they are complete and verified."""
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(fetch(INCEPTION_URL))
        if not (digest := file_hash(part)).startswith(expected_hash):
            raise OSError(
                f"the download has {part.stat().st_size} bytes with SHA-256 {digest[:8]}..., expected {expected_hash}..."
            )
        part.replace(target)
    except OSError as error:  # URLError, timeouts and refused certificates are OSErrors
        part.unlink(missing_ok=True)
        raise MissingWeights(f"{INCEPTION_URL} could not be downloaded ({error}); {_advice(expected_hash)}") from error
    return target


def _network(weights: Mapping[str, Tensor]) -> nn.Module:
    """torch-fidelity's network with these weights: uint8 (B, 3, H, W) -> [features, logits].

    Raises:
        ImportError: torch-fidelity is not installed.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ImportError("Inception-v3 needs torch-fidelity: pip install 'ctdiff[evaluation]'") from error
    # The constructor reads a pickle. Give it a pickle made here, from tensors that were read with weights_only=True.
    buffer = io.BytesIO()
    torch.save(dict(weights), buffer)
    buffer.seek(0)
    network: nn.Module = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=buffer
    )
    return network


class _Inception(nn.Module):
    """The network with the middle layer that sFID needs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._spatial: Tensor | None = None
        network.get_submodule("Mixed_6d.branch1x1").register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._spatial = output[:, :_SPATIAL_CHANNELS].flatten(1)

    def forward(self, x: Tensor) -> Features:
        """Compute features, logits without bias (for the Inception score), and spatial features (B, 2023)."""
        pooled, logits = self.network(x)
        spatial, self._spatial = self._spatial, None
        return Features(pooled, logits, spatial)


def colour_levels(images: Tensor) -> Tensor:
    """Convert grey images to three equal channels, and keep colour images: uint8 (B, 3, H, W).

    The network resizes them to 299 x 299 and maps 0 .. 255 to -1 .. 1.

    Raises:
        ValueError: the number of channels is not 1 or 3.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images have {images.shape[1]} channels, expected 1 or 3")
    return images.expand(-1, 3, -1, -1)


def inception(
    path: str | Path | None = None,
    download: bool = False,
    expected_hash: str = INCEPTION_HASH,
    device: str | torch.device = "cpu",
) -> Extractor:
    """Make the extractor `inception`: 2048 features, 1008 classes and 2023 spatial features of images of any size.

    Arguments:
        path: the file of weights. None means the file that the variable CTDIFF_INCEPTION names, or the file in the hub cache.
        download: whether to download a missing file into the hub cache.
        expected_hash: the first digits of the file's SHA-256. If you use other weights than those of the literature, the
            names of metrics contain the name and the hash of the extractor.
        device: the device of the network.

    Raises:
        MissingWeights: the file is missing; the message contains its name, address and hash.
        ValueError: the file has another hash, or does not contain the weights of this network.
        ImportError: torch-fidelity is not installed.
    """
    file = find_inception(path, download, expected_hash)
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # an archive can be broken in many ways, and torch names most of them RuntimeError
        raise ValueError(f"{file} cannot be read as tensors ({type(error).__name__})") from error
    if not isinstance(weights, Mapping):
        raise ValueError(f"{file} contains a {type(weights).__name__}, expected a dictionary of the weights of Inception-v3")
    try:
        network = _network(weights)
    except RuntimeError as error:
        raise ValueError(f"{file} does not contain the weights of Inception-v3: {str(error)[:300]}") from error
    digest = file_hash(file)[:8]
    return Extractor("inception", digest, _Inception(network).to(device), colour_levels, _WIDTH, digest == INCEPTION_HASH)
