"""What the tests of runs and commands share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from ctdiff import figures
from ctdiff.recipe import parts
from ctdiff.recipe.user_classes import user_modules


@pytest.fixture(autouse=True)
def _shared_tables(shared_tables: None) -> None:
    """Commands that build one process after the other."""


@pytest.fixture(scope="session")
def _curves() -> dict[str, bytes]:
    return {}


@pytest.fixture(autouse=True)
def _shared_curves(_curves: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings with the same losses have the same plot, which is drawn once: many tests train the same configuration."""

    def loss_curve(path: Path, records: Sequence[dict[str, Any]]) -> None:
        key = json.dumps([(record["step"], record.get("loss"), record.get("validation_loss")) for record in records])
        if key in _curves:
            figures._write(path, _curves[key])
        else:
            draw(path, records)
            _curves[key] = path.read_bytes()

    draw = figures.loss_curve
    monkeypatch.setattr(figures, "loss_curve", loss_curve)


@pytest.fixture(scope="session")
def _shapes() -> dict[str, Any]:
    return {}


@pytest.fixture(autouse=True)
def _shared_shapes(_shapes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of configurations with equal networks take the network of the first, on the meta device.

    A command checks its configuration several times, and the network takes most of the time of a check. A network that cannot
    be made is tried each time.
    """

    def shapes(config: ConfigDict) -> Any:
        if user_modules(config.to_dict()):
            return make(config)
        read = [config[section].to_dict() for section in ("data", "model", "process")]
        key = json.dumps([*read, parts._halved(config), config.training.device])
        if key not in _shapes:
            _shapes[key] = make(config)
        return _shapes[key]

    make = parts.build_shapes
    monkeypatch.setattr(parts, "build_shapes", shapes)
