"""Codings and heads by hand, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

from backbones import (
    CategoricalHead,
    EmbeddedInput,
    LogisticMixtureHead,
    OneHotInput,
    OrdinalInput,
    PixelLogits,
    TruncatedLogisticHead,
    UNet,
    bin_centres,
)
from diffusion_core.distributions import Categorical, TruncatedLogistic


def test_ordinal_input_is_bin_centres():
    x = torch.tensor([0, 1, 3]).view(1, 1, 1, 3)
    assert OrdinalInput(1)(x.to(torch.uint8), 4).flatten().tolist() == [-0.75, -0.25, 0.75]
    masked = OrdinalInput(1, masked=True)
    assert masked.out_channels == 2
    coded = masked(torch.tensor([0, 4, 3]).view(1, 1, 1, 3), 4)
    assert coded[0, 0, 0].tolist() == [-0.75, 0.0, 0.75]
    assert coded[0, 1, 0].tolist() == [0.0, 1.0, 0.0]


def test_one_hot_and_embedded_inputs_keep_the_features_of_a_channel_together():
    x = torch.randint(4, (2, 3, 5, 6), dtype=torch.uint8)
    hot = OneHotInput(3, 4)
    coded = hot(x, 4)
    assert coded.shape == (2, hot.out_channels, 5, 6)
    assert torch.equal(coded.unflatten(1, (3, 4)).argmax(2), x.long())
    assert torch.equal(coded.unflatten(1, (3, 4)).sum(2), torch.ones(2, 3, 5, 6))
    embedded = EmbeddedInput(3, 4, 7)
    coded = embedded(x, 4)
    assert coded.shape == (2, embedded.out_channels, 5, 6)
    assert torch.equal(coded[1, 7:14, 2, 3], embedded.table.weight[int(x[1, 1, 2, 3])])


def test_categorical_head_layout():
    out = torch.randn(2, 3 * 4, 5, 6)
    distribution = CategoricalHead(3, 4)(out, torch.zeros(2, 3, 5, 6))
    assert isinstance(distribution, Categorical)
    assert torch.equal(distribution.unnormalised[1, 2, 3, 5], out[1, 8:12, 3, 5])


def test_logistic_head_of_zero_believes_what_it_sees():
    x = torch.randint(256, (2, 3, 4, 4))
    distribution = TruncatedLogisticHead(3, 256)(torch.zeros(2, 6, 4, 4), x)
    assert isinstance(distribution, TruncatedLogistic)
    assert torch.equal(distribution.mode(), x)
    assert torch.equal(distribution.mu, bin_centres(x, 256))
    assert (distribution.log_scale == -2).all()


def test_logistic_head_layout_and_bounds():
    x, out = torch.randint(8, (2, 3, 4, 4)), 100 * torch.randn(2, 6, 4, 4)
    distribution = TruncatedLogisticHead(3, 8)(out.bfloat16(), x)
    assert distribution.mu.dtype == torch.float32
    torch.testing.assert_close(distribution.mu, bin_centres(x, 8) + out[:, :3].bfloat16().float())
    torch.testing.assert_close(distribution.log_scale, 7 * torch.tanh(out[:, 3:].bfloat16().float() / 7) - 2)


def test_mixture_head_layout():
    x, out = torch.randint(8, (2, 3, 4, 4)), torch.randn(2, 3 * 2 * 3, 4, 4)
    blend = LogisticMixtureHead(3, 8, components=2)(out, x)
    weights, f, g = out.view(2, 3, 2, 3, 4, 4).unbind(1)  # (B, J, C, H, W)
    torch.testing.assert_close(blend.log_weights, weights.log_softmax(1).transpose(0, 1))
    background, ink = blend.components
    torch.testing.assert_close(background.mu, f[:, 0] - 1)
    torch.testing.assert_close(ink.mu, bin_centres(x, 8) + f[:, 1])
    torch.testing.assert_close(ink.log_scale, 7 * torch.tanh(g[:, 1] / 7) - 2)
    with pytest.raises(ValueError, match="components = 1, expected an integer of at least 2"):
        LogisticMixtureHead(1, 8, components=1)


def test_a_mask_sits_in_the_middle():
    assert bin_centres(torch.tensor([3, 4]), 4).tolist() == [0.75, 0.0]


def backbone(in_channels: int = 1, out_channels: int = 4) -> UNet:
    return UNet(in_channels, out_channels, widths=(4,), blocks=1, num_heads=1)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((backbone(2), CategoricalHead(1, 4), OrdinalInput(1), 4), "the backbone has in_channels = 2, expected 1"),
        ((backbone(1, 5), CategoricalHead(1, 4), OrdinalInput(1), 4), "the backbone has out_channels = 5, expected 4"),
        ((backbone(), CategoricalHead(1, 4), OrdinalInput(1), 5), "the head has num_values = 4, expected 5"),
        ((backbone(), CategoricalHead(2, 2), OrdinalInput(1), 2), "the head has channels = 2, expected 1"),
        ((backbone(), CategoricalHead(1, 4), OrdinalInput(1), 4, 5), "the inputs has states = 4, expected 5"),
        ((backbone(3), CategoricalHead(1, 4), OneHotInput(1, 3), 4), "the inputs has states = 3, expected 4"),
        ((backbone(), CategoricalHead(1, 4), OrdinalInput(1), 4, 6), "num_states = 6, expected 4 or, with a mask, 5"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        PixelLogits(*parts)


def test_bad_images_get_one_clear_error():
    model = PixelLogits(backbone(), CategoricalHead(1, 4), OrdinalInput(1), 4)
    x, c = torch.zeros(2, 1, 4, 4, dtype=torch.int64), torch.zeros(2)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4, 4\), expected \(B, 1, H, W\)"):
        model(x.expand(2, 3, 4, 4), c)
    with pytest.raises(ValueError, match=r"x has dtype torch.float32, expected an integer dtype"):
        model(x.float(), c)
    with pytest.raises(ValueError, match=r"x has values in 0 .. 4, expected 0 .. 3"):
        model(x + 4 * torch.eye(4, dtype=torch.int64), c)
    with pytest.raises(ValueError, match=r"x has values in -1 .. -1"):
        model(x - 1, c)
    with pytest.raises(ValueError, match=r"num_values = 1, expected an integer of at least 2"):
        CategoricalHead(1, 1)
