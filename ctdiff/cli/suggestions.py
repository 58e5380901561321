"""What the shell suggests for an argument of a verb. It is read from the annotation of the argument.

    def sample(run: RunName, *, format: Literal["grid", "png"] = "grid", out: str | Path | None = None)

For `run`, the names of models and folders are suggested, for `format` its two values, and for `out` files and folders. For
a plain text or a number, nothing is suggested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

from ctdiff.config import preset_names
from ctdiff.model_folder import model_names
from diffusion_core.ranges import union

__all__ = ["File", "Folder", "Preset", "RunName", "Suggested", "choices", "suggested"]


@dataclass(frozen=True)
class Suggested:
    """Suggestions for a value, as the metadata of `Annotated`.

    Arguments:
        words: a function that returns words.
        paths: which paths are suggested too: all files and folders, only folders, or none.
    """

    words: Callable[[], Sequence[str]] = tuple
    paths: Literal["files", "folders", "none"] = "none"


File: TypeAlias = Annotated[str, Suggested(paths="files")]
Folder: TypeAlias = Annotated[str, Suggested(paths="folders")]
Preset: TypeAlias = Annotated[str, Suggested(preset_names, "files")]
RunName: TypeAlias = Annotated[str, Suggested(model_names, "folders")]


def choices(kind: Any) -> tuple[Any, ...]:
    """Return the values of a `Literal`, or of a union with one: empty for other types."""
    return next((get_args(each) for each in union(kind) if get_origin(each) is Literal), ())


def suggested(hint: Any) -> Suggested:
    """Return the suggestions for an annotation, with its `Annotated` metadata."""
    for each in (hint, *get_args(hint)):
        for metadata in getattr(each, "__metadata__", ()):
            if isinstance(metadata, Suggested):
                return metadata
    return Suggested(lambda: choices(hint), "files" if Path in union(hint) else "none")
