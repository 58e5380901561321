"""Keyed dropout: its law, and that a mask depends on its example alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diffusion_core.dropout import Dropout, _kept, number_layers, seeded

SEEDS = torch.arange(400) * 7 + 2**40


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_are_independent_coins(p):
    """Of each layer, each example and each position; pairs of them are as often equal as those of coins."""
    masks = torch.stack([_kept(SEEDS, layer, 512, p) for layer in (0, 1, 17)]).double()  # (3, 400, 512)
    spread = math.sqrt(p * (1 - p))
    centred = (masks - (1 - p)) / spread
    n = masks.numel()
    assert abs(centred.mean().item()) < 4 / math.sqrt(n)
    for axis in (0, 1, 2):  # neighbours in layer, example and position
        for distance in (1, 2, 16)[: 1 if axis == 0 else 3]:
            product = centred.narrow(axis, distance, masks.shape[axis] - distance) * centred.narrow(
                axis, 0, masks.shape[axis] - distance
            )
            assert abs(product.mean().item()) < 4 / math.sqrt(product.numel())
    for axes in ((0, 1), (0, 2), (1, 2)):  # the mean of a layer, an example, a position has the variance of so many coins
        means = centred.mean(axes)
        ratio = (means.square().sum() * (n / len(means))).item()
        assert abs(ratio - len(means)) < 5 * math.sqrt(2 * len(means))


def test_a_mask_is_of_its_example_alone_and_of_every_device():
    whole = _kept(SEEDS[:12], 3, 100, 0.3)
    assert torch.equal(torch.cat([_kept(SEEDS[i : i + 5], 3, 100, 0.3) for i in (0, 5, 10)])[:12], whole)
    unseen = torch.compile(lambda seeds: _kept(seeds, 3, 100, 0.3), backend="eager", fullgraph=True)
    assert torch.equal(unseen(SEEDS[:12]), whole)


def test_the_layer():
    x = torch.randn(6, 40)
    layer = Dropout(0.25)
    with seeded(SEEDS[:3]):
        out = layer(x)
        assert torch.equal(layer(x), out)
    kept = _kept(SEEDS[:3], 0, 80, 0.25).view(6, 40)
    torch.testing.assert_close(out, torch.where(kept, x / 0.75, 0.0))
    torch.manual_seed(5)
    expected = nn.functional.dropout(x, 0.25)
    torch.manual_seed(5)
    assert torch.equal(layer(x), expected)  # outside, torch's own
    assert torch.equal(layer.eval()(x), x)
    network = nn.Sequential(Dropout(0.1), nn.Linear(40, 40), Dropout(0.0), Dropout(0.1))
    assert number_layers(network) == 2
    with seeded(SEEDS[:6]):
        assert not torch.equal(network[0](x), network[3](x))
    with seeded(SEEDS[:4]), pytest.raises(ValueError, match="a batch of 6 rows was given 4 seeds"):
        layer.train()(x)
    with pytest.raises(ValueError, match=r"p = 1\.5, expected a number in \[0, 1\]"):
        Dropout(1.5)
