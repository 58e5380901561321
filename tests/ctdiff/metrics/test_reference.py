"""All metrics together: names, numbers of images, floors, and what does not change them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ctdiff.data import ImageData, fraction
from ctdiff.metrics import (
    Extractor,
    Features,
    GreyImages,
    Moments,
    Reference,
    frechet_distance,
    kernel_distance,
    module_extractor,
    precision_recall,
    uniform_noise,
)


class Classifier(nn.Module):
    """A random network with every kind of feature."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layer, self.head = nn.Linear(36, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Features:
        pooled = self.layer(x.flatten(1)).tanh()
        return Features(pooled, self.head(pooled), x.flatten(1)[:, :8])


def images(n: int, seed: int, num_values: int = 256) -> ImageData:
    generator = torch.Generator().manual_seed(seed)
    grey = (torch.rand(n, 1, 6, 6, generator=generator) * torch.rand(n, 1, 1, 1, generator=generator) * num_values).to(
        torch.uint8
    )
    return ImageData(grey, torch.randint(3, (n,), generator=generator), num_values)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return module_extractor("random", Classifier(), GreyImages(6, 6), 6)


@pytest.fixture(scope="module")
def reference(extractor: Extractor) -> Reference:
    return Reference(extractor, images(300, 0), images(80, 1), replicates=10)


NAMES = ["FID", "sFID", "KID", "precision", "recall", "density", "coverage", "IS", "class-KL"]


def test_every_metric_has_its_name_numbers_interval_and_floor(reference: Reference, extractor: Extractor) -> None:
    samples = images(60, 2)
    rows = reference.measure(samples.images, samples.labels)
    assert list(rows) == [*NAMES, "agreement", "nearer-to-train", "copies"]
    for name, row in rows.items():
        assert row.name == (name if name in ("nearer-to-train", "copies") else f"{name}-{extractor.label}")
        assert row.low <= row.value <= row.high
        assert row.floor is not None
        assert (row.n_fake, row.floor.n_fake) == (60, 60)
        assert row.n_real == row.floor.n_real == {"agreement": 0}.get(name, 60 if name in NAMES[3:7] else 300)
        assert row.floor.floor is None


def test_values_are_those_of_the_pure_functions(reference: Reference, extractor: Extractor) -> None:
    samples = images(60, 2)
    found, real = extractor.features(samples.images), extractor.features(reference.train.images)
    rows = reference.measure(samples.images, features=found)
    distance = frechet_distance(Moments.of(real.pooled).statistics(), Moments.of(found.pooled).statistics())
    assert rows["FID"].value == pytest.approx(distance)
    assert rows["KID"].value == pytest.approx(kernel_distance(real.pooled, found.pooled), abs=1e-12)
    chosen = real.pooled[torch.randperm(300, generator=torch.Generator().manual_seed(0))[:60]]
    shares = precision_recall(chosen, found.pooled)
    assert [rows[name].value for name in NAMES[3:7]] == list(shares)
    assert "agreement" not in rows
    alone = reference.memorisation(samples.images)
    assert {name: row.value for name, row in alone.items()} == {
        name: rows[name].value for name in ("nearer-to-train", "copies")
    }


def test_order_does_not_matter_and_repetition_is_exact(reference: Reference) -> None:
    samples = images(60, 2)
    once, again = (reference.measure(samples.images, samples.labels) for _ in range(2))
    assert once == again
    order = torch.randperm(60)
    shuffled = reference.measure(samples.images[order], samples.labels[order] if samples.labels is not None else None)
    for name, row in once.items():
        assert shuffled[name].value == pytest.approx(row.value, rel=1e-5, abs=1e-7)


def test_floors_stop_at_the_held_out_images(reference: Reference) -> None:
    rows = reference.measure(images(100, 4).images)
    assert all(row.n_fake == 100 and row.floor is not None and row.floor.n_fake == 80 for row in rows.values())


def test_a_floor_is_what_fresh_images_score(reference: Reference) -> None:
    """Held-out images are compared with the other held-out ones, not with themselves."""
    floor = reference.floor(80)
    fresh = reference.measure(images(80, 5).images)
    assert floor["nearer-to-train"].value == pytest.approx(fresh["nearer-to-train"].value, abs=0.25)
    assert 0.2 < floor["nearer-to-train"].value < 0.8
    assert reference.measure(reference.held_out.images)["nearer-to-train"].value == 0


def test_features_of_ranks_are_measured_together(reference: Reference) -> None:
    samples = images(60, 2).images
    ranks = [reference.features(samples[rank::2]) for rank in range(2)]
    joined = reference.measure(torch.cat([samples[rank::2] for rank in range(2)]), features=Features.cat(ranks))
    assert joined["FID"].value == pytest.approx(reference.measure(samples)["FID"].value, rel=1e-5)


def test_fewer_values_and_extractors_without_classes() -> None:
    pixels = module_extractor("pixels", nn.Flatten(), GreyImages(6, 6), 36)
    four = Reference(pixels, images(100, 0, 4), images(40, 1, 4), replicates=2)
    rows = four.measure(uniform_noise(four.train, 30).long())
    assert list(rows) == ["FID", *NAMES[2:7], "nearer-to-train", "copies"]
    assert all(math.isfinite(row.value) for row in rows.values())
    with pytest.raises(ValueError, match="pixels has no classes"):
        four.measure(uniform_noise(four.train, 30), torch.zeros(30, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"0 \.\. 4, expected 0 \.\. 3"):
        four.measure(torch.tensor([0, 4]).repeat(18 * 30).reshape(30, 1, 6, 6))


def test_what_cannot_be_compared_is_refused(reference: Reference, extractor: Extractor) -> None:
    with pytest.raises(ValueError, match=r"\(60, 1, 5, 6\), expected \(N, 1, 6, 6\)"):
        reference.measure(torch.zeros(60, 1, 5, 6, dtype=torch.uint8))
    with pytest.raises(ValueError, match="11 images, expected more than 11"):
        reference.measure(images(11, 0).images)
    with pytest.raises(ValueError, match="features of 20 images, expected 30"):
        reference.measure(images(30, 0).images, features=reference.features(images(20, 0).images))
    with pytest.raises(ValueError, match="4 values, held-out ones"):
        Reference(extractor, images(30, 0, 4), images(30, 0))
    with pytest.raises(ValueError, match="11 real images, expected more than 11"):
        Reference(extractor, images(30, 0), images(11, 1))


def test_noise_is_fixed_by_its_seed_and_uses_every_value() -> None:
    like = fraction(images(40, 0, 16), 0.5)
    noise = uniform_noise(like, 50, seed=1)
    assert noise.shape == (50, 1, 6, 6)
    assert noise.unique().tolist() == list(range(16))
    assert torch.equal(noise, uniform_noise(like, 50, seed=1))
