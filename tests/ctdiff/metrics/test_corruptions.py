"""Real digits, damaged in known ways: every metric sees and misses what the documentation says."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctdiff.data import Splits, embedded_mnist
from ctdiff.metrics import (
    ClassTotals,
    Features,
    KernelReference,
    Measurement,
    Moments,
    Reference,
    Statistics,
    frechet_distance,
    histogram_divergence,
    inception_score,
    mnist_cnn,
    module_extractor,
    precision_recall,
    uniform_noise,
)

N = 500


@cache
def digits() -> Splits:
    return embedded_mnist()


@cache
def reference() -> Reference:
    return Reference(mnist_cnn(), digits().train, digits().test, replicates=4)


@cache
def kernel() -> KernelReference:
    return KernelReference(reference().real.pooled)


@cache
def pixels() -> tuple[Callable[[Tensor], Statistics], Statistics]:
    """Statistics of plain pixels, and those of the training digits."""
    extractor = module_extractor("pixels", nn.Flatten(), lambda images: images.float() / 255, 784)

    def statistics(images: Tensor) -> Statistics:
        return Moments.of(extractor.features(images).pooled).statistics(extractor.label)

    return statistics, statistics(digits().train.images)


def held_out() -> Tensor:
    return digits().test.images[:N]


def labels() -> Tensor:
    assert digits().test.labels is not None
    return digits().test.labels


def rounded(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8)


def with_noise(deviation: float) -> Tensor:
    return rounded(held_out() + 255 * deviation * torch.randn(held_out().shape))


def with_salt(share: float) -> Tensor:
    return held_out().masked_fill(torch.rand(held_out().shape) < share, 255)


def with_flips(share: float) -> Tensor:
    return torch.where(torch.rand(held_out().shape) < share, 255 - held_out(), held_out())


def blurred(width: int) -> Tensor:
    return rounded(F.avg_pool2d(held_out().float(), width, 1, width // 2))


def shifted(places: int) -> Tensor:
    return held_out().roll((places, places), (2, 3))


def without(digit: int) -> Features:
    return held_out_features().select((labels() != digit).nonzero().flatten()[:1000])


def repeated(times: int) -> Tensor:
    return held_out()[: N // times].repeat(times, 1, 1, 1)


def features(images: Tensor) -> Features:
    return reference().features(images)


@cache
def held_out_features() -> Features:
    return features(digits().test.images)


def fid(found: Features) -> float:
    return frechet_distance(reference().statistics, Moments.of(found.pooled).statistics())


def kid(found: Features) -> float:
    return kernel().distance(found.pooled)


def totals(found: Features) -> ClassTotals:
    assert found.logits is not None
    return ClassTotals.of(found.logits)


def floor(n: int = N) -> dict[str, Measurement]:
    return reference().floor(n, labelled=True)


SEVERITIES: dict[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "noise": (with_noise, (0.05, 0.15, 0.3)),
    "salt": (with_salt, (0.01, 0.03, 0.1)),
    "flipped pixels": (with_flips, (0.02, 0.05, 0.15)),
    "blur": (blurred, (3, 5)),
    "shift": (shifted, (1, 2, 4)),
    "duplicates": (repeated, (2, 10, 50)),
}


@pytest.mark.parametrize("kind", SEVERITIES)
def test_distances_grow_with_the_damage(kind: str) -> None:
    damage, severities = SEVERITIES[kind]
    found = [features(damage(severity)) for severity in severities]
    for distance, real in ((fid, floor()["FID"].value), (kid, floor()["KID"].value)):
        scores = [real, *map(distance, found)]
        assert scores == sorted(scores), kind
        assert scores[-1] > 10 * max(real, 0.1)


def test_the_floor_falls_with_the_number_of_images() -> None:
    scores = {n: floor(n)["FID"].value for n in (250, 500, 1000, 2000)}
    assert sorted(scores.values(), reverse=True) == list(scores.values())
    assert scores[250] > 4 * scores[2000]
    assert abs(floor(250)["KID"].value) < 0.05 < 0.1 * scores[250], "KID has no such bias"


def test_samples_are_better_than_damage_and_noise_is_worst() -> None:
    damaged = [features(damage(severities[-1])) for damage, severities in SEVERITIES.values()]
    assert max(map(fid, damaged)) < fid(features(uniform_noise(digits().train, N)))


def test_confidence_alone_is_unsafe() -> None:
    """The classifier is surer of uniform noise than of digits; with one class for all of it the score is 1."""
    both = features(uniform_noise(digits().train, N)), held_out_features()
    noise, real = (float(x.logits.softmax(1).amax(1).mean()) for x in both if x.logits is not None)
    assert noise > 0.999 > real
    assert inception_score(totals(both[0])) < 1.01
    assert inception_score(totals(both[1])) > 9.4


def test_pixels_hardly_see_salt() -> None:
    """In pixels, salt is a better image than a shift by two; in features it is the other way round."""
    statistics, real = pixels()
    salt, moved = with_salt(0.03), shifted(2)
    assert frechet_distance(real, statistics(salt)) < 0.6 * frechet_distance(real, statistics(moved))
    assert fid(features(salt)) > 5 * fid(features(moved))


def test_a_missing_digit_is_seen_by_coverage_and_histogram_but_not_always_by_recall() -> None:
    """The loss of recall and coverage over the digit's share of the data: 1 would be all of it."""
    real = reference().real.pooled[:1000]
    assert digits().train.labels is not None
    truth = precision_recall(real, held_out_features().pooled[:1000])
    lost = []
    for digit in range(10):
        found = precision_recall(real, without(digit).pooled)
        share = float((digits().train.labels[:1000] == digit).double().mean())
        lost.append(((truth.recall - found.recall) / share, (truth.coverage - found.coverage) / share))
        assert found.precision > truth.precision - 0.03, "what is there is as good as before"
    recall, coverage = zip(*lost, strict=True)
    assert min(coverage) > 0.75
    assert sum(x < 0.5 for x in recall) >= 2, recall
    every = ClassTotals.of(torch.eye(10)[digits().train.labels])
    assert histogram_divergence(every, totals(without(3))) > 5 * floor(1000)["class-KL"].value


def test_duplicates_are_seen_by_recall_and_coverage_not_by_precision() -> None:
    real, copies = reference().real.pooled[:N], features(repeated(10)).pooled
    found = precision_recall(real, copies)
    assert found.precision > 0.9
    assert found.recall < 0.05
    assert found.coverage < 0.6


def test_memorised_digits_score_best_and_are_found_out() -> None:
    copies, near = digits().train.images[:N], digits().train.images[:N].clone()
    near[:, :, 14, 14] ^= 1
    rows = reference().measure(copies)
    for name in ("FID", "KID", "sFID"):
        assert rows[name].value < floor()[name].value, name
    assert rows["nearer-to-train"].value == rows["copies"].value == 1
    changed = reference().measure(near)
    assert (changed["nearer-to-train"].value, changed["copies"].value) == (1, 0)
    real = floor(2000)
    assert real["nearer-to-train"].value == pytest.approx(0.5, abs=0.04)
    assert real["copies"].value == 0
    half = reference().measure(torch.cat([copies[: N // 2], with_noise(0.02)[N // 2 :]]))
    assert half["copies"].value == 0.5
