"""Neighbour shares, scores of a classifier, memorisation and intervals, against loops and closed forms."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from ctdiff.metrics import (
    ClassTotals,
    Measurement,
    Moments,
    NeighbourDistances,
    agreement,
    frechet_distance,
    histogram_divergence,
    inception_score,
    likelihood,
    measured,
    nearer_to_train,
    nearest,
    precision_recall,
    share_at_equal_sizes,
)
from diffusion_core import BitsPerDim


def naive_neighbours(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def radius(points: np.ndarray, i: int) -> float:
        return sorted(float(np.linalg.norm(points[i] - points[j])) for j in range(len(points)) if j != i)[k - 1]

    def inside(points: np.ndarray, x: np.ndarray) -> list[bool]:
        return [float(np.linalg.norm(points[i] - x)) <= radius(points, i) for i in range(len(points))]

    in_real, in_fake = [inside(real, x) for x in fake], [inside(fake, x) for x in real]
    coverage = np.mean([any(row[i] for row in in_real) for i in range(len(real))])
    density = sum(sum(row) for row in in_real) / (k * len(fake))
    return (
        float(np.mean([any(row) for row in in_real])),
        float(np.mean([any(row) for row in in_fake])),
        density,
        float(coverage),
    )


@pytest.mark.parametrize("k", [1, 5])
def test_neighbour_shares_are_those_of_loops(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    real, fake = torch.randn(30, 2, generator=generator), torch.randn(40, 2, generator=generator) + 1
    found = precision_recall(real, fake, k)
    assert found == pytest.approx(naive_neighbours(real.double().numpy(), fake.double().numpy(), k))
    assert 0 < found.precision < 1
    assert found == pytest.approx(precision_recall(real[torch.randperm(30)], fake[torch.randperm(40)], k))
    chosen = torch.randperm(40)[:17].sort().values
    assert NeighbourDistances(real, fake, k).of(chosen) == pytest.approx(precision_recall(real, fake[chosen], k))


def test_neighbour_shares_know_copies_and_strangers() -> None:
    real = torch.randn(50, 3)
    same = precision_recall(real, real.clone())
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert precision_recall(real, real + 100) == (0, 0, 0, 0)
    collapsed = precision_recall(real, real[:1].expand(50, 3))
    assert (collapsed.precision, collapsed.recall) == (1, 1 / 50)
    far = precision_recall(real + 3000, real.clone() + 3000)  # where the product form of a distance loses copies
    assert (far.precision, far.recall, far.coverage) == (1, 1, 1)


def test_neighbour_shares_refuse_small_sets() -> None:
    for real, fake, k in [((5, 2), (9, 2), 5), ((9, 2), (5, 2), 5), ((9, 2), (9, 3), 5), ((9, 2), (9, 2), 0)]:
        with pytest.raises(ValueError, match=f"k = {k}"):
            precision_recall(torch.randn(real), torch.randn(fake), k)
    with pytest.raises(ValueError, match="3 fakes"):
        NeighbourDistances(torch.randn(9, 2), torch.randn(9, 2)).of(torch.arange(3))


def test_inception_score_is_the_closed_form() -> None:
    sure = ClassTotals.of(1e4 * torch.eye(10).repeat(3, 1))
    assert inception_score(sure) == pytest.approx(10)
    assert inception_score(ClassTotals.of(torch.zeros(7, 10))) == pytest.approx(1)
    assert inception_score(ClassTotals.of(1e4 * torch.eye(10)[[4] * 9])) == pytest.approx(1)
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]).double()
    mean = p.mean(0)
    expected = math.exp(sum(float(a * (a / b).log()) for row in p for a, b in zip(row, mean, strict=True)) / 3)
    assert inception_score(ClassTotals.of(p.log())) == pytest.approx(expected)


def test_class_totals_merge_to_the_whole() -> None:
    logits = torch.randn(50, 10)
    whole, parts = ClassTotals.of(logits), [ClassTotals.of(part) for part in logits[torch.randperm(50)].split(7)]
    merged = parts[0]
    for part in parts[1:]:
        merged = part.merge(merged)
    assert torch.equal(merged.histogram, whole.histogram)
    assert inception_score(merged) == pytest.approx(inception_score(whole), rel=1e-12)
    with pytest.raises(ValueError, match="3 classes, expected 10"):
        whole.merge(ClassTotals.of(torch.randn(2, 3)))
    with pytest.raises(ValueError, match=r"shape \(0, 10\)"):
        ClassTotals.of(logits[:0])


def test_histogram_divergence_is_the_closed_form() -> None:
    real = ClassTotals.of(torch.eye(4).repeat(5, 1))
    assert histogram_divergence(real, real) == pytest.approx(0)
    three = ClassTotals.of(torch.eye(4)[:3].repeat(7, 1))
    assert histogram_divergence(real, three) == pytest.approx(math.log(4 / 3))
    assert histogram_divergence(three, real) == math.inf
    with pytest.raises(ValueError, match="3 classes against 4"):
        histogram_divergence(real, ClassTotals.of(torch.eye(3)))


def test_agreement_counts_labels() -> None:
    assert agreement(torch.eye(3), torch.tensor([0, 1, 1])).tolist() == [True, True, False]
    with pytest.raises(ValueError, match=r"labels have shape \(2,\)"):
        agreement(torch.eye(3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"0 \.\. 3"):
        agreement(torch.eye(3), torch.tensor([0, 1, 3]))


def squares(x: Tensor, y: Tensor) -> Tensor:
    return (x.flatten(1)[:, None].long() - y.flatten(1)[None].long()).square().sum(2)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_nearest_distances_are_exact_integers(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctdiff.metrics.memorisation._CHUNK", 16)
    others = torch.randint(200, 256, (50, *shape), dtype=torch.uint8)
    images = torch.cat([others[[3, 41, 49]], torch.randint(256, (20, *shape), dtype=torch.uint8)])
    images[1, 0, 0, 0] ^= 1  # one grey level in one pixel is no copy
    expected = squares(images, others)
    assert nearest(images, others).tolist() == expected.min(1).values.tolist()
    assert nearest(images, others)[:3].tolist() == [0, 1, 0]
    among = squares(others, others).fill_diagonal_(1 << 60)
    assert nearest(others, others, skip_self=True).tolist() == among.min(1).values.tolist()


def test_nearest_refuses_what_is_no_image() -> None:
    images = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="float32"):
        nearest(images.float(), images)
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) and \(1, 4, 5\)"):
        nearest(images, torch.zeros(3, 1, 4, 5, dtype=torch.uint8))
    with pytest.raises(ValueError, match="the same set"):
        nearest(images[:2], images, skip_self=True)


def test_share_at_equal_sizes_is_a_half_for_new_data() -> None:
    for train, held_out in [(100, 100), (8000, 2000), (100, 900)]:
        assert share_at_equal_sizes(train / (train + held_out), train, held_out) == pytest.approx(0.5)
        assert share_at_equal_sizes(1.0, train, held_out) == 1
        assert share_at_equal_sizes(0.0, train, held_out) == 0
    assert share_at_equal_sizes(0.37, 50, 50) == pytest.approx(0.37)
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(10000, (5000, 4), generator=generator)  # three draws of one law, of different sizes
    train, held_out, new = points[:3000], points[3000:3600], points[3600:]
    share = float(nearer_to_train(nearest(new, train), nearest(new, held_out)).mean())
    assert share > 0.75
    assert share_at_equal_sizes(share, 3000, 600) == pytest.approx(0.5, abs=0.06)
    assert nearer_to_train(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([2.0, 1.0, 2.0])).tolist() == [1, 0, 0.5]


# Intervals


@pytest.mark.parametrize("n", [40, 41])
def test_halves_scatter_as_much_as_new_samples_do(n: int) -> None:
    """Of a mean the interval is value +- 1.96 s / sqrt(n), the textbook's."""
    x = torch.randn(n, dtype=torch.float64)
    (row,) = measured(["mean"], lambda i: [float(x[i].mean())], 0, n, replicates=4000)
    assert row.value == pytest.approx(float(x.mean()))
    assert row.high - row.value == pytest.approx(1.96 * float(x.std()) / math.sqrt(n), rel=0.05)
    assert row.value - row.low == pytest.approx(row.high - row.value)


def test_intervals_cover_and_are_repeatable() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = []
    for _ in range(200):
        x = torch.randn(60, generator=generator) * 2 + 1
        (row,) = measured(["square"], lambda i, x=x: [float(x[i].mean()) ** 2], 0, 60)  # type: ignore[misc]
        hits.append(row.low <= 1 <= row.high)
    assert 0.88 <= np.mean(hits) <= 0.99
    assert row == measured(["square"], lambda i: [float(x[i].mean()) ** 2], 0, 60)[0]
    assert row != measured(["square"], lambda i: [float(x[i].mean()) ** 2], 0, 60, seed=1)[0]


def test_intervals_of_distances_are_what_new_samples_scatter_by() -> None:
    generator = torch.Generator().manual_seed(0)
    real = Moments.of(torch.randn(2000, 4, generator=generator)).statistics()
    rows = []
    for _ in range(60):
        x = torch.randn(200, 4, generator=generator) * torch.tensor([1.0, 1.5, 0.5, 1.0]) + 0.7

        def distance(i: Tensor, x: Tensor = x) -> list[float]:
            return [frechet_distance(real, Moments.of(x[i]).statistics())]

        rows += measured(["FID"], distance, 2000, 200, replicates=30)
    claimed = np.mean([(row.high - row.low) / (2 * 1.96) for row in rows])
    assert claimed == pytest.approx(np.std([row.value for row in rows], ddof=1), rel=0.3)


def test_records_are_plain_and_carry_their_floor() -> None:
    row = Measurement("FID-cnn-1", 3.0, 2.5, 3.5, 8000, 500)
    whole = row.beside(dataclasses.replace(row, value=1.0))
    assert json.loads(json.dumps(asdict(whole)))["floor"]["value"] == 1.0
    with pytest.raises(ValueError, match="the floor of FID-cnn-1 cannot be KID"):
        row.beside(dataclasses.replace(row, name="KID"))
    for n, replicates in [(3, 50), (50, 1)]:
        with pytest.raises(ValueError, match=f"{n} samples and {replicates} replicates"):
            measured(["mean"], lambda i: [0.0], 0, n, replicates)
    strata = torch.tensor([0.8, 1.2]).repeat_interleave(2)  # two of each stratum: the error of an image is 0.2
    draws = BitsPerDim(strata.expand(64, 4), torch.full((64, 2), 0.3), torch.full((64,), 0.2), torch.ones(64, 4))
    bits = likelihood(draws)
    assert (bits.name, bits.n_real, bits.n_fake) == ("bits/dim", 64, 0)
    assert bits.value == pytest.approx(1.5)
    assert bits.high - bits.low == pytest.approx(2 * 1.96 * 0.2 / 8, rel=1e-4)
