"""Computes the numbers of a card again, and compares them with the card.

Each number is computed twice:

    repeated   with the seeds of the card. The value must be the same, except for rounding on another processor. Rounding can
               change single pixels of a sample, so a difference of half a standard error is allowed.
    fresh      with other seeds. The two values are independent, so their difference has a standard error. It must be within
               3.29 of these standard errors, the 99.9 % interval of a normal distribution.

The hashes of the files, the parts of the network and the network calls have no randomness. They must be equal. The floor is
compared like a repeated value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from ctdiff import config as configuration
from ctdiff.card import Card, Number
from ctdiff.evaluation import build_extractor, run_splits
from ctdiff.evaluation.tables import aligned, number
from ctdiff.metrics.features import Extractor
from ctdiff.metrics.measurement import Measurement
from ctdiff.model_folder import ModelError, ModelFolder, model_folder
from ctdiff.models.measuring import BITS, Measurer, Setting, architecture_of
from ctdiff.recipe.errors import closest
from ctdiff.runs import Run, pretrained
from diffusion_core.ranges import CountOrZero

__all__ = ["Check", "Verification", "verification_table", "verify_model"]

_ROUNDING = 0.5  # of a standard error
_INTERVAL = NormalDist().inv_cdf(1 - 0.001 / 2)  # standard errors

_WORDS = "process", "backbone"  # described in words, which may change with the version of ctdiff

OK, REPEATED, FRESH = "ok", "repeated value differs", "fresh value differs"
CALLS, FLOOR = "network calls differ", "floor differs"


@dataclass(frozen=True)
class Check:
    """One number of a card and the values that were computed again.

    Arguments:
        name: the name of the number: a metric, a part of the network, or a file whose hash is compared.
        card: the value in the card.
        repeated: the value with the seeds of the card.
        fresh: the value with other seeds; None if the number has no randomness.
        standard_error: the standard error in the card; None if the number has no randomness.
        fresh_standard_error: the standard error of the fresh value.
        verdict: `ok`, or which value differs.
        n: the number of samples or held-out images.
        steps: the number of steps of the sampler.
        quick: whether the number is quick.
    """

    name: str
    card: float | str | None
    repeated: float | str | None
    fresh: float | None = None
    standard_error: float | None = None
    fresh_standard_error: float | None = None
    verdict: str = OK
    n: int | None = None
    steps: int | None = None
    quick: bool = True


@dataclass(frozen=True)
class Verification:
    """The result of the comparison of a model with its card.

    Arguments:
        model: the name of the model.
        checks: the numbers.
        passed: whether all verdicts are `ok`.
    """

    model: str
    checks: list[Check]
    passed: bool


def verify_model(
    model: str,
    extractor: Extractor | None,
    *,
    quick: bool = False,
    metrics: Sequence[str] | None = None,
    seed: CountOrZero | None = None,
    device: str = "cpu",
    overrides: Sequence[str] = (),
) -> Verification:
    """Compute the numbers of the card of a model again, and compare them with the card.

    If a file does not match its hash, nothing else is computed. If the function is interrupted, the next call continues.

    Arguments:
        model: the name of a model of the package, the path of a folder, or `hub:user/name`.
        extractor: the network of the metrics. None means that it is made by the name in the card.
        quick: compute only the numbers that the card marks as quick.
        metrics: compute only these metrics, such as FID,bits/dim. None means all.
        seed: the first seed of the fresh values. None means the first seed that the number in the card does not use.
        device: the device that computes, such as cpu, cuda, cuda:1 or mps.
        overrides: changes of the place of the images, such as "--config.data.array.path=images.npz".

    Raises:
        ModelError: there is no such model, it is damaged, or its card was made with another extractor.
        RunError: the images differ from those of the training.
        ValueError: the card does not have a metric, or no number is left to compute.
    """
    folder = model_folder(model)
    card = folder.card
    plan = [(row, _fresh(row, seed)) for row in _chosen(card, quick, metrics)]
    checks = _hash_checks(folder)
    if all(check.verdict == OK for check in checks):
        run = pretrained(folder.path, device)
        configuration.override(run.config, overrides, sections=("data",))
        splits = run_splits(run.config, None, folder)
        made = build_extractor(card.features.name, device) if extractor is None else extractor
        if (made.name, made.hash) != (card.features.name, card.features.hash):
            found, expected = f"{made.name}-{made.hash}", f"{card.features.name}-{card.features.hash}"
            raise ModelError(f"{folder.path}: the extractor is {found}, the card was made with {expected}")
        measurer = Measurer(run, splits, made, card.features.replicates, run.path / "verify")
        checks += [*_architecture_checks(card, run), *(_check(row, fresh, measurer) for row, fresh in plan)]
        measurer.clear()
    return Verification(card.name, checks, all(check.verdict == OK for check in checks))


def _chosen(card: Card, quick: bool, metrics: Sequence[str] | None) -> list[Number]:
    """Return the numbers of the card to compute. The quick numbers come first."""
    known = list(dict.fromkeys(row.metric for row in card.numbers))
    for name in metrics or ():
        if name not in known:
            raise ValueError(f"metrics = {name!r}, expected some of {', '.join(known)}{closest(name, known)}")
    rows = [row for row in card.numbers if (row.quick or not quick) and (metrics is None or row.metric in metrics)]
    if not rows and card.numbers:
        raise ValueError(f"the card of {card.name} has no such quick number, expected quick = False")
    return sorted(rows, key=lambda row: not row.quick)


def _hash_checks(folder: ModelFolder) -> list[Check]:
    return [_exact(name, expected, folder.found_hash(name)) for name, expected in folder.hashes().items()]


def _architecture_checks(card: Card, run: Run) -> list[Check]:
    found = vars(architecture_of(run))
    return [_exact(key, expected, found[key]) for key, expected in vars(card.architecture).items() if key not in _WORDS]


def _exact(name: str, expected: float | str, found: float | str | None) -> Check:
    return Check(name, expected, found, verdict=OK if expected == found else REPEATED)


def _fresh(row: Number, seed: int | None) -> Setting:
    """Return the setting of a row with other seeds."""
    used = 1 if row.metric == BITS else row.n
    first = row.first_seed + used if seed is None else seed
    if abs(first - row.first_seed) < used:
        raise ValueError(f"seed = {seed}, expected at least {row.first_seed + used}: the card uses the seeds before")
    return replace(Setting.of(row), first_seed=first)


def _check(row: Number, other: Setting, measurer: Measurer) -> Check:
    """Compute a number with the seeds of the card and with fresh seeds."""
    again = measurer.measure(Setting.of(row))
    repeated, fresh = again.metrics.get(row.metric), measurer.measure(other).metrics.get(row.metric)
    if repeated is None or fresh is None:
        raise ValueError(f"{row.metric} cannot be computed: {measurer.evaluator.refused or 'the extractor has no such metric'}")
    error = math.hypot(row.standard_error, fresh.standard_error)
    wrong = [REPEATED] * (not abs(repeated.value - row.value) <= _ROUNDING * row.standard_error)
    wrong += [FRESH] * (not abs(fresh.value - row.value) <= _INTERVAL * error)
    wrong += [CALLS] * (row.network_calls != again.network_calls)
    wrong += [FLOOR] * (row.floor is not None and not _is_floor(row.floor, repeated.floor))
    return Check(
        name=row.metric,
        card=row.value,
        repeated=repeated.value,
        fresh=fresh.value,
        standard_error=row.standard_error,
        fresh_standard_error=fresh.standard_error,
        verdict=", ".join(wrong) or OK,
        n=row.n,
        steps=row.steps,
        quick=row.quick,
    )


def _is_floor(value: float, found: Measurement | None) -> bool:
    return found is not None and abs(found.value - value) <= _ROUNDING * found.standard_error


def verification_table(found: Verification) -> str:
    """Return the table that `ctdiff verify` prints."""
    rows = [["number", "n", "steps", "card", "+-", "repeated", "fresh", "+-", "verdict"]]
    for check in found.checks:
        values = [check.card, check.standard_error, check.repeated, check.fresh, check.fresh_standard_error]
        cells = ["" if each is None else str(each) for each in (check.n, check.steps)]
        rows.append([check.name, *cells, *map(_cell, values), check.verdict])
    count = sum(check.verdict != OK for check in found.checks)
    differ = f"{count} number{'s differ' if count > 1 else ' differs'} from the card"
    return f"{aligned(rows)}\n\n{found.model}: {differ if count else 'every number agrees with the card'}"


def _cell(value: float | str | None) -> str:
    """Write a value. Of a hash, the first digits are enough."""
    if isinstance(value, str):
        return value[:12]
    return "" if value is None else str(value) if isinstance(value, int) else number(value)
