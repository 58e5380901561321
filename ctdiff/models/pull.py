"""Copies the folder of a model after checking it."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from ctdiff.files import expanded, new_folder, write_durably
from ctdiff.model_folder import CARD, FILES, GRID, ModelError, ModelFolder, model_folder
from ctdiff.runs import pretrained

__all__ = ["check_target", "copy_model", "pull_model"]


def pull_model(model: str, *, out: str | Path | None = None, fresh: bool = False) -> Path:
    """Copy a model, from the Hugging Face Hub or from a folder, and return the path of the copy.

    The model is checked before the copy gets its name: the files are compared with the hashes in the card, and the model is
    loaded. Only the files of a model are copied, and only plain files, no links.

    Arguments:
        model: `hub:user/name`, the path of a folder, or the name of a model of the package.
        out: the folder of the copy. None means `models/NAME`, where NAME is the name in the card.
        fresh: replace an existing model in this folder.

    Raises:
        ModelError: there is no such model, it is damaged or was altered, or `out` exists.
        FolderError: the model cannot be downloaded.
        CheckpointError: the weights cannot be read, or belong to another network.
        ConfigError: the configuration cannot be used, or it names a class of a module that is not trusted.
    """
    source = model_folder(model)
    target = expanded(Path("models") / source.card.name if out is None else out)
    check_target(target, fresh)
    copy_model(source, target)
    return target


def check_target(target: Path, fresh: bool) -> None:
    """Check that the folder of a model can be written.

    Raises:
        ModelError: the path exists, and is not an empty folder. With `fresh`, it may also be a folder with a model and without
            other files.
    """
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise ModelError(f"{target} exists and is no folder, expected a new name")
    names = {path.name for path in target.iterdir()}
    if not names:
        return
    if CARD not in names or not fresh:
        more = "; --fresh replaces the model" if CARD in names else ": it has no model"
        raise ModelError(f"{target} exists, expected a new folder{more}")
    if others := sorted(names - {*FILES}):
        raise ModelError(f"{target} has files that are no part of a model: {', '.join(others)}. Nothing was deleted")


def copy_model(source: ModelFolder, target: Path) -> None:
    """Copy the files of a model to a folder, which gets its name only if the copy is complete and can be loaded.

    Raises:
        RunError, CheckpointError, ConfigError: the model is damaged or was altered, or cannot be loaded.
    """
    for path in (source.path / name for name in FILES):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ModelError(f"{path} is no plain file, expected a file of a model: links and folders are not copied")
    contents = {CARD: (source.path / CARD).read_bytes(), GRID: _picture(source.path / GRID)}
    contents |= {name: source.read(name) for name in source.hashes()}
    _check(source)
    with new_folder(target) as hidden:
        for name, content in contents.items():
            write_durably(hidden / name, content)


def _picture(path: Path) -> bytes:
    """Return the content of a PNG file."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.verify()
    except Exception as error:  # arbitrary bytes fail in arbitrary ways
        raise ModelError(f"{path} is no PNG picture: {error}") from error
    return content


def _check(model: ModelFolder) -> None:
    """Check that a model can be loaded, and that it has the number of parameters in the card."""
    run = pretrained(model.path)
    model.read_classes()
    count = sum(parameter.numel() for parameter in run.denoiser.parameters())
    if count != (expected := model.card.architecture.parameters):
        raise ModelError(f"{model.path} has {count} parameters, the card has {expected}")
