"""The card of a model: what the model is, how it was trained, and its measured numbers. It is the file `card.yaml`.

Each field of the dataclasses here is a key of the file. `ctdiff verify` computes the numbers again from the settings that are
stored beside them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ctdiff.data.record import DataRecord
from ctdiff.records import Environment, as_json, from_json

__all__ = ["Architecture", "Card", "Data", "Features", "Hashes", "Number", "Training", "card_text", "read_card"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_METRIC = re.compile(r"[A-Za-z][\w/.-]{0,63}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST, _DEEPEST = 2**17, 8  # bytes, and nested lists and dictionaries


def _expect(holds: bool, key: str, value: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{key} = {value!r}, expected {expected}")


@dataclass(frozen=True)
class _Part:
    """A part of a card. Its texts are single lines that can be shown on a terminal."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    _expect(bool(text.strip()) and text.isprintable(), item.name, text, "a text in one line")


@dataclass(frozen=True)
class Data(_Part):
    """The images of the training.

    Arguments:
        name: the source, the key `data.name` of the configuration.
        images: the number, the shape and the hashes of the images.
    """

    name: str
    images: DataRecord


@dataclass(frozen=True)
class Architecture(_Part):
    """The parts of a model, in words, and the default settings of its sampler.

    Arguments:
        process: the process that adds noise.
        schedule: the name of the schedule.
        parameterisation: the name of the parameterisation.
        backbone: the name of the network.
        parameters: the number of parameters.
        classes: the number of classes of the network; 0 if it has none.
        sampler: the name of the sampler.
        steps: the number of steps of the sampler.
    """

    process: str
    schedule: str
    parameterisation: str
    backbone: str
    parameters: int
    classes: int
    sampler: str
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _expect(self.parameters >= 1, "parameters", self.parameters, "at least 1")
        _expect(self.steps >= 1, "steps", self.steps, "at least 1")


@dataclass(frozen=True)
class Training(_Part):
    """How the model was trained.

    Arguments:
        command: the command that trains it.
        steps: the number of training steps.
        batch_size: the number of images in a step.
        images_seen: the number of images in all steps.
        commit: the commit of ctdiff; None if it is not known.
        seconds: the time of the training steps; None if it is not known.
        core_seconds: this time, multiplied by the number of processor cores; None if it is not known.
    """

    command: str
    steps: int
    batch_size: int
    images_seen: int
    commit: str | None = None
    seconds: float | None = None
    core_seconds: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("steps", "batch_size"):
            _expect(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        expected = f"steps x batch_size = {self.steps * self.batch_size}"
        _expect(self.images_seen == self.steps * self.batch_size, "images_seen", self.images_seen, expected)


@dataclass(frozen=True)
class Hashes:
    """The SHA-256 of files of the model, as 64 hexadecimal digits.

    Arguments:
        config: the hash of config.json.
        weights: the hash of model.safetensors.
        classes: the hash of classes.json; None if the classes have no names.
    """

    config: str
    weights: str
    classes: str | None = None

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            _expect(value is None or _SHA256.fullmatch(value) is not None, key, value, "64 hexadecimal digits")


@dataclass(frozen=True)
class Features(_Part):
    """The network whose features are compared, and the number of random halves of the samples that give standard errors.

    Arguments:
        name: the name of the network.
        hash: 8 hexadecimal digits of the hash of its weights.
        replicates: how often a random half of the samples is drawn.
    """

    name: str
    hash: str
    replicates: int


@dataclass(frozen=True)
class Number:
    """A measured number of a model, with the settings that are needed to compute it again.

    A number describes samples, or it is the bits per dimension of held-out images.

    Arguments:
        metric: the name of the metric, such as FID.
        value: its value.
        standard_error: the standard deviation of the value over other samples, or over other draws for bits per dimension.
        n: the number of samples, or of held-out images.
        first_seed: the seed of the first sample; the others have the following seeds. For bits per dimension, the only seed.
        quick: whether the number takes little time. `ctdiff verify --quick` computes only these.
        sampler: the name of the sampler.
        steps: the number of its steps.
        network_calls: the number of function evaluations (NFE) of a sample.
        draws: the number of draws of a time and noise for each held-out image.
        floor: the same metric of real held-out images instead of samples.
        goal: a value that was wanted.
    """

    metric: str
    value: float
    standard_error: float
    n: int
    first_seed: int
    quick: bool
    sampler: str | None = None
    steps: int | None = None
    network_calls: int | None = None
    draws: int | None = None
    floor: float | None = None
    goal: float | None = None

    def __post_init__(self) -> None:
        _expect(_METRIC.fullmatch(self.metric) is not None, "metric", self.metric, "a name such as FID")
        for key in ("value", "standard_error", "floor", "goal"):
            number = getattr(self, key)
            _expect(number is None or math.isfinite(number), f"{self.metric}: {key}", number, "a finite number")
        _expect(self.standard_error >= 0, f"{self.metric}: standard_error", self.standard_error, "at least 0")
        _expect(self.n >= 1, f"{self.metric}: n", self.n, "at least 1")
        _expect(self.first_seed >= 0, f"{self.metric}: first_seed", self.first_seed, "at least 0")
        of_samples = [key for key in ("sampler", "steps", "network_calls") if getattr(self, key) is not None]
        expected = "either sampler, steps and network_calls, or draws"
        _expect(len(of_samples) == (3 if self.draws is None else 0), f"{self.metric}: keys", of_samples, expected)


@dataclass(frozen=True)
class Card(_Part):
    """The card of a model.

    Arguments:
        name: the name of the model: letters, digits and the signs `.`, `_` and `-`.
        description: one sentence.
        licence: the licence of the weights.
        data: the images of the training.
        architecture: the parts of the model.
        training: how the model was trained.
        files: the hashes of the files.
        features: the network that the metrics of the numbers use.
        environment: the software and the machine that computed the numbers.
        limits: what the model cannot do, or what was not tested: a sentence each.
        numbers: the measured numbers.
    """

    FORMAT: ClassVar[str] = "ctdiff-card-1"

    name: str
    description: str
    licence: str
    data: Data
    architecture: Architecture
    training: Training
    files: Hashes
    features: Features
    environment: Environment
    limits: list[str]
    numbers: list[Number]

    def __post_init__(self) -> None:
        signs = "1 to 64 letters, digits and signs . _ -, and a letter or digit first"
        _expect(_NAME.fullmatch(self.name) is not None, "name", self.name, signs)
        super().__post_init__()
        counts = Counter((row.metric, row.steps, row.quick) for row in self.numbers)
        for row in self.numbers:
            _expect(row.sampler in (None, self.architecture.sampler), "sampler", row.sampler, repr(self.architecture.sampler))
        twice = [key for key, count in counts.items() if count > 1]
        _expect(not twice, "numbers", twice, "one number for each metric, number of steps and value of quick")

    def main(self, metric: str) -> Number | None:
        """Return the number of a metric at the steps of the model's own sampler; None if it was not measured."""
        own = (None, self.architecture.steps)
        rows = (row for row in self.numbers if row.metric == metric and not row.quick and row.steps in own)
        return next(rows, None)


def _given(content: Any) -> Any:
    """Return content without the keys whose value is None."""
    if isinstance(content, dict):
        return {key: _given(value) for key, value in content.items() if value is not None}
    return [_given(value) for value in content] if isinstance(content, list) else content


def card_text(card: Card) -> str:
    """Return a card as YAML. A number is one line. Keys without a value are left out."""
    content: str = yaml.safe_dump(
        _given(as_json(card)), sort_keys=False, default_flow_style=None, width=10_000, allow_unicode=True
    )
    return content


def read_card(path: Path) -> Card:
    """Read a card. Nothing in the file is executed.

    Raises:
        ValueError: the file cannot be read, or has missing, unknown or wrong values.
    """
    try:
        with path.open("rb") as file:
            content = _parsed(file.read(_LARGEST + 1))
        if content.get("format") != Card.FORMAT:
            raise ValueError(f"format = {content.get('format')!r}, expected {Card.FORMAT!r}")
        return from_json(Card, content, path.name)
    except (OSError, ValueError, OverflowError) as error:  # an integer may be too large for a float
        raise ValueError(f"{path} is no card of a model: {error}") from error


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads plain values. Aliases are refused, because their copies could fill the memory, and so is deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has a YAML alias, expected plain values")
        if self.depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _parsed(content: bytes) -> Mapping[str, Any]:
    """Return the content of a YAML file with plain values."""
    if len(content) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes")
    text = content.decode("utf-8")
    try:
        found = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, expected keys and values")
    return found
