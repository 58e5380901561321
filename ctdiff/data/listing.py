"""Lists the images of a folder, their classes, and which of them are test images.

    photos/a.png, b.png                      no classes
    photos/cat/a.png, dog/b.png              a class for each folder
    photos/train/cat/..., test/cat/...       with a separate test set

Links to folders are followed, except a link to a folder that contains the link. Folders that operating systems, file managers
and archive programs create, such as __MACOSX, are left out.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctdiff.data.images import split_indices
from ctdiff.data.photographs import image_suffixes

__all__ = ["ListedImage", "Listing", "list_images", "natural_order"]

_LEFT_BEHIND = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")
_TRAIN, _TEST, _VALIDATION = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")


@dataclass(frozen=True)
class ListedImage:
    """An image file. The file was not opened.

    Arguments:
        name: the path of the file, relative to the listed folder.
        size: the size of the file in bytes.
        mtime_ns: the time of its last change in nanoseconds.
        label: its class, or None.
    """

    name: str
    size: int
    mtime_ns: int
    label: int | None


@dataclass(frozen=True)
class Listing:
    """The images of a folder.

    Arguments:
        train: the training images.
        test: the test images.
        class_names: the names of the labels 0, 1, ...; empty without classes.
    """

    train: tuple[ListedImage, ...]
    test: tuple[ListedImage, ...]
    class_names: tuple[str, ...]


def natural_order(name: str) -> tuple[tuple[str | int, ...], str]:
    """Return a sort key. Numbers in a name are compared by value: 2 comes before 10. Upper and lower case are equal."""
    pieces = re.split(r"(\d+)", name)
    return tuple(int(piece) if i % 2 else piece.casefold() for i, piece in enumerate(pieces)), name


def _files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the image files of a folder and of its subfolders."""
    real = os.path.realpath(folder)
    if real in above:  # following a link to a folder that contains it would never end
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _LEFT_BEHIND:
            continue
        if path.is_dir():
            yield from _files(path, (*above, real))
        elif path.suffix.lower() in image_suffixes():
            if path.is_file() or path.is_symlink():  # opening a link to nothing raises an error with its name
                yield path
        elif path.is_symlink() and not path.exists():
            warnings.warn(f"{path} is a link to {os.readlink(path)}, which is not there: it is left out", stacklevel=2)


def _parts(root: Path, names: Sequence[str]) -> tuple[str, str | None] | None:
    """Return the folders of the training set and of the test set (None if missing); None if the folders are no such sets."""
    folders = {name.partition("/")[0] for name in names}
    if any("/" not in name for name in names):
        return None
    found = {kind: [f for f in folders if f.lower() in kind] for kind in (_TRAIN, _TEST, _VALIDATION)}
    if len(found[_TRAIN]) != 1 or any(len(each) > 1 for each in found.values()) or sum(map(len, found.values())) < len(folders):
        return None
    train, held_out = found[_TRAIN][0], [*found[_TEST], *found[_VALIDATION]]
    if len(held_out) == 2:
        warnings.warn(f"{root} has {', '.join([train, *held_out])}: {held_out[1]} is not used", stacklevel=2)
    return train, held_out[0] if held_out else None


def _classes(root: Path, part: str, names: Sequence[str]) -> list[str | None]:
    """Return the class of each image of a set: the name of its folder, or None for all images."""
    inside = [name.removeprefix(part) for name in names]
    classes = [name.partition("/")[0] if "/" in name else None for name in inside]
    if None in classes and (named := [each for each in classes if each is not None]):
        loose = root / names[classes.index(None)]
        raise ValueError(
            f"{loose} is in no class folder, but {named[0]!r} is one: expected all images in class folders, or none"
        )
    return classes


def _differing(root: Path, train: str, test: str, classes: tuple[set[str | None], set[str | None]]) -> ValueError:
    parts = []
    for part, alone in ((train, classes[0] - classes[1]), (test, classes[1] - classes[0])):
        listed = sorted((name or "images without a class" for name in alone), key=natural_order)
        if listed:
            more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
            parts.append(f"only {part} has {', '.join(listed[:5])}{more}")
    return ValueError(f"{root} has other classes in {train} than in {test}: {'; '.join(parts)}")


def list_images(root: Path, test_fraction: float, seed: int) -> Listing:
    """List the images of a folder.

    If the only subfolders are `train` and `test` (or `val`), they are the training set and the test set. If all three exist,
    `val` is not used. If there is no test set, test images are chosen at random.

    Arguments:
        root: the folder.
        test_fraction: the share of the images that becomes the test set, if the folder has none.
        seed: the seed of the random choice.

    Raises:
        FileNotFoundError: the folder does not exist, or has no image.
        ValueError: some images are in class folders and some are not, the two sets have different classes, or there are too
            few images for two sets.

    Warns:
        UserWarning: a validation set is not used, or a link to a missing file is left out.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    names = [path.relative_to(root).as_posix() for path in _files(root)]
    if not names:
        raise FileNotFoundError(f"{root} has no image ({', '.join(sorted(image_suffixes()))})")
    parts = _parts(root, names)
    if parts is None:
        return _drawn(root, names, _classes(root, "", names), test_fraction, seed)
    train, test = parts
    in_train = [name for name in names if name.startswith(f"{train}/")]
    classes = _classes(root, f"{train}/", in_train)
    if test is None:
        return _drawn(root, in_train, classes, test_fraction, seed)
    in_test = [name for name in names if name.startswith(f"{test}/")]
    held_out = _classes(root, f"{test}/", in_test)
    if set(classes) != set(held_out):
        raise _differing(root, train, test, (set(classes), set(held_out)))
    ordered = _ordered(classes)
    return Listing(_listed(root, in_train, classes, ordered), _listed(root, in_test, held_out, ordered), ordered)


def _ordered(classes: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(sorted({name for name in classes if name is not None}, key=natural_order))


def _drawn(root: Path, names: Sequence[str], classes: Sequence[str | None], test_fraction: float, seed: int) -> Listing:
    """Return a listing with a random test set."""
    ordered = _ordered(classes)
    images = _listed(root, names, classes, ordered)
    train, test = (tuple(images[i] for i in chosen.tolist()) for chosen in split_indices(len(images), test_fraction, seed))
    return Listing(train, test, ordered)


def _listed(root: Path, names: Sequence[str], classes: Sequence[str | None], ordered: Sequence[str]) -> tuple[ListedImage, ...]:
    labels = {name: label for label, name in enumerate(ordered)}
    listed = []
    for name, each in zip(names, classes, strict=True):
        path = root / name
        about = path.stat() if path.exists() else path.lstat()
        listed.append(ListedImage(name, about.st_size, about.st_mtime_ns, None if each is None else labels[each]))
    return tuple(listed)
