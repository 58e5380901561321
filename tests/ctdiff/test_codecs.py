"""Codecs: a pixel that is encoded and decoded is the same pixel."""

from __future__ import annotations

import pytest
import torch

from ctdiff import codecs, recipe
from ctdiff.config import load

PRESETS = {"discrete": "mnist", "gaussian": "mnist_ddpm"}


@pytest.mark.parametrize("engine", list(recipe.engines()))
def test_decoding_an_encoded_pixel_gives_this_pixel(engine):
    config = load(PRESETS[engine])
    codec: codecs.Codec = recipe.build_pixels(config)
    k = torch.arange(config.data.num_values).repeat(2, 1, 4, 1)
    decoded = codec.decode(codec.encode(k))
    assert decoded.dtype == torch.int64
    assert torch.equal(decoded, k)


def test_every_engine_has_its_own_codec():
    assert len({type(recipe.build_pixels(load(PRESETS[engine]))) for engine in recipe.engines()}) == len(PRESETS)
