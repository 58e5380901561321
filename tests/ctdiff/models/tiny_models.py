"""Makes tiny models: a conditional network of 8x8 images, trained for two steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ctdiff.card import Card, card_text, read_card
from ctdiff.models import push_run

from ..tiny_runs import random_classifier

__all__ = ["NAMES", "Tiny", "push", "rewrite"]

NAMES = [f"class {k}" for k in range(10)]


@dataclass(frozen=True)
class Tiny:
    """The run, the model that was made of it, and its card."""

    run: Path
    model: Path
    card: Card


def push(run: Path, target: Path, **changes: object) -> Card:
    settings = {"description": "A tiny model.", "licence": "MIT", "num_samples": 12, "likelihood_images": 2, "draws": 4}
    given = {**settings, "replicates": 10, **changes}
    return push_run(run, target, random_classifier(), **given)  # type: ignore[arg-type]


def rewrite(model: Path, **changes: object) -> None:
    """Write a card with other values."""
    (model / "card.yaml").write_text(card_text(replace(read_card(model / "card.yaml"), **changes)))  # type: ignore[arg-type]
