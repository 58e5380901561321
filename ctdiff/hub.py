"""Models on the Hugging Face Hub, written as `hub:user/name`. They need the package huggingface_hub, which is optional."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ctdiff.data.image_cache import cache_folder
from ctdiff.files import FolderError

__all__ = ["check_new", "downloaded", "hub_name", "is_on_hub", "upload"]

_HUB = "hub:"
_PART = r"[A-Za-z0-9][\w.-]*"


def is_on_hub(source: object) -> bool:
    """Return whether a text has the form `hub:...`."""
    return isinstance(source, str) and source.startswith(_HUB)


def hub_name(source: str) -> str:
    """Return `user/name` of a text `hub:user/name`.

    Raises:
        ValueError: the text has another form.
    """
    name = source.removeprefix(_HUB)
    if not re.fullmatch(f"{_PART}/{_PART}", name, re.ASCII):
        raise ValueError(f"{source!r} is no model on the hub, expected hub:user/name")
    return name


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise FolderError("hub:user/name needs the package huggingface_hub: pip install 'ctdiff[hub]'") from error
    return huggingface_hub


@contextmanager
def _named_errors(source: str, done: str) -> Iterator[None]:
    """Make a context whose errors are a FolderError with the name of the model, in one line."""
    try:
        yield
    except Exception as error:  # the library raises errors of several packages
        why = (str(error).strip() or repr(error)).splitlines()[0]
        raise FolderError(f"{source} cannot be {done}: {why}") from error


@cache
def downloaded(source: str, files: Sequence[str]) -> Path:
    """Download files of a model, and return their folder in the cache of ctdiff. A process downloads a model once.

    If the hub cannot be reached, files of an earlier download are used.

    Arguments:
        source: `hub:user/name`.
        files: the names of the files. Other files of the model are not downloaded.

    Raises:
        FolderError: huggingface_hub is missing, the model does not exist, or it cannot be downloaded.
    """
    name, library = hub_name(source), _library()
    folder = cache_folder().parent / "hub" / name
    with _named_errors(source, "downloaded"):
        # Into a folder of its own, not into the cache of the library, which has links instead of files.
        library.snapshot_download(name, allow_patterns=list(files), local_dir=folder)
    return folder


def check_new(source: str, marker: str) -> None:
    """Check that there is no model of this name.

    Arguments:
        source: `hub:user/name`.
        marker: the name of a file that every model has.

    Raises:
        FolderError: huggingface_hub is missing, the model exists, or the hub cannot be reached.
    """
    name, library = hub_name(source), _library()
    with _named_errors(source, "uploaded"):
        api = library.HfApi()
        taken = api.repo_exists(name) and api.file_exists(name, marker)
    if taken:
        raise FolderError(f"{source} exists, expected a new name; --fresh replaces its files")


def upload(folder: Path, source: str) -> None:
    """Upload the files of a folder in one commit.

    Arguments:
        folder: the folder.
        source: `hub:user/name`. The model is made if it does not exist.

    Raises:
        FolderError: huggingface_hub is missing, or the files cannot be uploaded.
    """
    name, library = hub_name(source), _library()
    with _named_errors(source, "uploaded"):
        api = library.HfApi()
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder), commit_message=f"Upload {name} from ctdiff")
