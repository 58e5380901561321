"""The models of the package: as lines for `ctdiff models`, and as sections for docs/models.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctdiff.card import Card, Number
from ctdiff.evaluation.tables import BETTER, number
from ctdiff.model_folder import CARD, GRID, MODELS, ModelFolder, model_folder, model_names
from ctdiff.recipe.tables import replaced

__all__ = ["BEGIN", "END", "listed_models", "section", "sections", "with_models"]

BEGIN, END = "<!-- generated: the models -->", "<!-- end of the models -->"
"""The lines of a document before and after the models."""

_WIDTH = 118


def listed_models() -> list[dict[str, Any]]:
    """Return the name, the size, the process, the FID with its standard error, and more of each model of the package."""
    return [_listed(model_folder(name).card) for name in model_names()]


def _listed(card: Card) -> dict[str, Any]:
    fid = card.main("FID")
    return {
        "name": card.name,
        "parameters": card.architecture.parameters,
        "process": card.architecture.process,
        "FID": None if fid is None else fid.value,
        "standard_error": None if fid is None else fid.standard_error,
        "description": card.description,
        "licence": card.licence,
    }


def sections(folder: Path = MODELS) -> str:
    """Return a section for each model in a folder, as Markdown for docs/models.md."""
    cards = [path.parent for path in sorted(folder.glob(f"*/{CARD}"))]
    return "\n".join(section(path) for path in cards) if cards else "The package has no models yet.\n"


def section(path: Path) -> str:
    """Return the section of a model: its picture, its description, its numbers, and how it was trained."""
    card = ModelFolder(path).card
    parts, training, images = card.architecture, card.training, card.data.images
    classes = f" with {parts.classes} classes" if parts.classes else ""
    spent = [f"{training.steps:,} steps with {training.batch_size} images each, {training.images_seen:,} images in all"]
    spent += [] if training.seconds is None else [f"{training.seconds:,.0f} seconds"]
    spent += [] if training.core_seconds is None else [f"{training.core_seconds:,.0f} core-seconds"]
    about = [
        f"Process: {parts.process}; schedule {parts.schedule}; parameterisation {parts.parameterisation}.",
        f"Network: {parts.backbone}{classes}, {parts.parameters:,} parameters. Sampler: {parts.sampler}, {parts.steps} steps.",
        f"Data: {card.data.name}, {images.train.count:,} training images and {images.held_out.count:,} held-out images; "
        f"SHA-256 of the training images: {images.train.sha256[:16]}...",
        f"Training: {', '.join(spent)}; commit {training.commit or 'not known'}.",
        f"Licence of the weights: {card.licence}.",
        *(f"Limit: {text}" for text in card.limits),
    ]
    blocks = [
        f"### {card.name}",
        f"![samples of {card.name}](../ctdiff/models/{path.name}/{GRID})",
        _wrapped(card.description),
        "\n".join(_wrapped(text, "- ") for text in about),
        f"```sh\n{training.command}\n```",
        "\n".join(_table(card)),
    ]
    return "\n\n".join(blocks) + "\n"


def _wrapped(text: str, bullet: str = "") -> str:
    indent = " " * len(bullet)
    lines = textwrap.wrap(text, _WIDTH, initial_indent=bullet, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines)


def _table(card: Card) -> Iterator[str]:
    """Yield the lines of the table of all numbers that are not quick."""
    yield "| metric | better | value | standard error | goal | floor | n | network calls |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in card.numbers:
        if not row.quick:
            yield f"| {' | '.join(_cells(row))} |"


def _cells(row: Number) -> list[str]:
    optional = ["" if value is None else number(value) for value in (row.goal, row.floor)]
    calls = "" if row.network_calls is None else str(row.network_calls)
    return [
        row.metric, BETTER.get(row.metric, ""), number(row.value), number(row.standard_error), *optional, f"{row.n:,}", calls
    ]  # fmt: skip


def with_models(text: str, folder: Path = MODELS) -> str:
    """Return a document with its sections of models updated.

    Raises:
        ValueError: the document has no lines `BEGIN` and `END`.
    """
    return replaced(text, BEGIN, END, sections(folder))
