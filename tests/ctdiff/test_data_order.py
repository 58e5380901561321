"""From images to batches: exact quantising, antialiasing, rotations in range, an order that can be entered anywhere."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as vision

from ctdiff.data import Batches, Flip, ImageData, Rotation, as_states, fraction, quantise, resized
from diffusion_core import PerSampleRandomness


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def some_data(n: int = 40, classes: int = 4, height: int = 6, width: int = 8) -> ImageData:
    return ImageData(pixels(n, 1, height, width), torch.arange(n) % classes)


# Transforms


@given(num_values=st.integers(2, 256))
def test_quantise_is_the_exact_floor(num_values: int) -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    data = quantise(ImageData(levels), num_values)
    assert data.images.flatten().tolist() == [x * num_values // 256 for x in range(256)]
    assert data.num_values == num_values
    assert set(data.images.flatten().tolist()) == set(range(num_values))


def test_quantise_and_states_refuse() -> None:
    data = some_data()
    for wrong in (1, 257):
        with pytest.raises(ValueError, match=f"num_values = {wrong}, expected 2"):
            quantise(data, wrong)
    with pytest.raises(ValueError, match="4 values already"):
        quantise(quantise(data, 4), 4)
    states = quantise(data, 7).images
    assert as_states(ImageData(states), 7).images.equal(states)
    with pytest.raises(ValueError, match=r"value 6, expected 0 \.\. 5"):
        as_states(ImageData(states), 6)


def test_resize_is_antialiased() -> None:
    stripes = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    stripes[..., ::2] = 200
    small = resized(ImageData(stripes), 4).images
    assert small.min() >= 90, "every pixel of the small image averages the stripes"
    assert small.max() <= 110
    data = some_data(5000, height=8, width=8)
    assert resized(data, (4, 4)).images.equal(vision.resize(data.images, [4, 4], antialias=True)), "in chunks as in one go"
    assert resized(data, 8).images is data.images
    assert resized(some_data(height=6, width=9), (4, 2)).shape == (1, 4, 2)
    with pytest.raises(ValueError, match="image_size = 0"):
        resized(data, 0)


def test_fraction_keeps_classes_and_is_nested() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 3)
    data = ImageData(torch.arange(153, dtype=torch.uint8).reshape(-1, 1, 1, 1), labels)

    def kept(share: float, seed: int = 0) -> set[int]:
        return set(fraction(data, share, seed).images.flatten().tolist())

    small = fraction(data, 0.1)
    assert small.labels is not None
    assert small.labels.bincount().tolist() == [10, 5, 1]
    assert kept(0.1) == kept(0.1)
    assert kept(0.1) != kept(0.1, seed=1)
    assert kept(0.1) < kept(0.3) < kept(0.31) < kept(1.0)
    assert len(fraction(ImageData(data.images), 0.5)) == 76
    for wrong in (0, 1.5, -1):
        with pytest.raises(ValueError, match="expected a share"):
            fraction(data, wrong)


# Rotation


def test_rotation_turns_about_the_centre() -> None:
    """Against torchvision's rotation of a smooth image that is not square, and exactly at a right angle."""
    ramp = torch.linspace(0, 200, 24).reshape(1, 1, 1, 24) + torch.linspace(0, 50, 16).reshape(1, 1, 16, 1)
    image = ramp.to(torch.uint8)

    class Fixed(PerSampleRandomness):
        def uniform(self, shape: Any, dtype: torch.dtype = torch.float32, device: Any = "cpu") -> torch.Tensor:
            return torch.ones(*shape)

    def difference(degrees: float) -> float:
        expected = vision.rotate(image.float(), degrees, interpolation=vision.InterpolationMode.BILINEAR)
        return float((Rotation(20.0)(image, Fixed([0])) - expected)[..., 5:11, 6:18].abs().max())

    assert difference(20.0) <= 0.51, "the error of rounding"
    assert difference(-20.0) > 10
    square = pixels(1, 1, 7, 7)
    assert Rotation(90.0)(square, Fixed([0])).equal(square.rot90(1, (2, 3)))


def test_rotation_keeps_the_range_and_depends_on_the_seed_alone() -> None:
    images = quantise(some_data(16), 5).images
    streams = PerSampleRandomness.keyed(1, 2, 0, 16)
    turned = Rotation(30.0)(images, streams)
    assert turned.dtype == torch.uint8
    assert turned.max() <= 4
    assert not turned.equal(images)
    alone = Rotation(30.0)(images[7:8], PerSampleRandomness.keyed(1, 2, 7, 1))
    assert alone.equal(turned[7:8])
    constant = torch.full((4, 3, 8, 8), 9, dtype=torch.uint8)
    assert Rotation(180.0)(constant, PerSampleRandomness([0, 1, 2, 3])).equal(constant), "no dark corners"
    for wrong in (0, -3, 200):
        with pytest.raises(ValueError, match=f"degrees = {wrong}"):
            Rotation(wrong)


# Batches


@pytest.mark.parametrize("batch_size", [1, 7, 10, 23])
def test_every_image_comes_once_an_epoch(batch_size: int) -> None:
    data = some_data(10)
    batches = Batches(data.images, data.labels, batch_size, seed=5)
    stream = torch.cat([batches.indices(step) for step in range(40)])
    epochs = [sorted(epoch.tolist()) for epoch in stream.split(10) if len(epoch) == 10]
    assert all(epoch == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in stream.split(10)}) > 1


def test_batches_hold_the_images_and_labels_of_their_indices() -> None:
    data = some_data(10)
    batches = Batches(data.images, data.labels, 4)
    x_0, cond = batches[3]
    assert x_0.dtype == torch.int64
    assert x_0.equal(data.images[batches.indices(3)].long())
    assert data.labels is not None
    assert set(cond) == {"y"}
    assert cond["y"].equal(data.labels[batches.indices(3)])
    assert Batches(data.images, None, 4)[3][1] == {}


@pytest.mark.parametrize("rotation", [None, Rotation(10.0)])
def test_the_order_can_be_entered_at_any_step(rotation: Rotation | None) -> None:
    data = some_data(10)
    whole = list(islice(Batches(data.images, data.labels, 4, seed=2, rotation=rotation), 12))
    for first in (0, 1, 5, 11):
        fresh = Batches(data.images, data.labels, 4, seed=2, rotation=rotation)
        for (x, cond), (x_again, cond_again) in zip(whole[first:], fresh.from_step(first), strict=False):
            assert x.equal(x_again)
            assert cond["y"].equal(cond_again["y"])
    assert not whole[0][0].equal(Batches(data.images, data.labels, 4, seed=3, rotation=rotation)[0][0])


def test_rotations_change_from_step_to_step() -> None:
    data = ImageData(pixels(1, 1, 9, 9))
    batches = Batches(data.images, None, 1, rotation=Rotation(20.0))
    assert len({tuple(batches[step][0].flatten().tolist()) for step in range(8)}) == 8


def test_batches_refuse() -> None:
    data = some_data()
    with pytest.raises(ValueError, match="batch_size = 0"):
        Batches(data.images, data.labels, 0)
    with pytest.raises(ValueError, match="step = -1"):
        Batches(data.images, data.labels, 2)[-1]
    with pytest.raises(ValueError, match=r"dtype torch\.float32"):
        Batches(data.images.float(), data.labels, 2)


# Flip


def test_flips_mirror_about_half_and_depend_on_the_seed_alone() -> None:
    images = some_data(200).images
    flipped = Flip()(images, PerSampleRandomness.keyed(1, 2, 0, 200))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 70 < int(mirrored.sum()) < 130
    assert Flip()(images[7:9], PerSampleRandomness.keyed(1, 2, 7, 2)).equal(flipped[7:9])
    data = some_data(10)
    batches = Batches(data.images, data.labels, 4, seed=2, flip=Flip())
    plain = Batches(data.images, data.labels, 4, seed=2)
    seen = [batches[step][0].equal(plain[step][0]) for step in range(6)]
    assert not all(seen)
    assert batches[5][0].equal(Batches(data.images, data.labels, 4, seed=2, flip=Flip())[5][0])
