"""Settings of backbones, heads and inputs: documented one by one, small by default, one number or one per level."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import docstring_parser
import pytest
import torch
from torch import Tensor, nn

import backbones
from backbones import (
    SSM,
    Backbone,
    DiffiT,
    DiT,
    DiTBlock,
    Downsample,
    Head,
    LatentDiffiT,
    PixelInput,
    UNet,
    UNetAttention,
    UNetBlock,
    Upsample,
    UViT,
)
from backbones.resblocks import BlockFactory
from diffusion_core.ranges import range_of


def exported(*kinds: type) -> list[type]:
    """The concrete subclasses of these kinds that the package exports."""
    classes = [thing for name in backbones.__all__ if inspect.isclass(thing := getattr(backbones, name))]
    found = [cls for cls in classes if issubclass(cls, kinds) and not inspect.isabstract(cls)]
    return [cls for cls in found if "backbone" not in inspect.signature(cls).parameters]  # no wrappers


CHOICES = exported(Backbone, Head, PixelInput)


def test_everything_that_can_be_chosen_is_exported() -> None:
    counts = {Backbone: 6, Head: 3, PixelInput: 3, DiTBlock: 4, Downsample: 2, Upsample: 3, UNetBlock: 2, UNetAttention: 4}
    assert {kind: len(exported(kind)) for kind in counts} == counts


@pytest.mark.parametrize("cls", CHOICES)
def test_every_parameter_is_documented_in_the_order_of_the_constructor(cls: type) -> None:
    parsed = docstring_parser.parse(cls.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    meanings = {each.arg_name: each.description or "" for each in parsed.params}
    assert list(meanings) == list(inspect.signature(cls).parameters)
    assert all(20 < len(meaning) < 400 for meaning in meanings.values()), meanings


@pytest.mark.parametrize("cls", CHOICES)
def test_every_number_has_a_range(cls: type) -> None:
    hints = get_type_hints(cls.__init__)
    numbers = [name for name in inspect.signature(cls).parameters if "int" in str(hints[name]) or "float" in str(hints[name])]
    assert numbers
    for name in numbers:
        range_of(cls, name)  # a KeyError names the number that has none


@pytest.mark.parametrize(
    ("cls", "one", "each"),
    [
        (UNet, {"blocks": 2}, {"blocks": (2, 2)}),
        (UNet, {"blocks": 2, "up_blocks": 3}, {"blocks": (2, 2), "up_blocks": (3, 3)}),
        (UNet, {"blocks": 2, "skip_every_map": True}, {"blocks": (2, 2), "skip_every_map": True}),
        (DiffiT, {"blocks": 2}, {"blocks": (2, 2)}),
        (DiffiT, {"windows": 7}, {"windows": (7, 7)}),
        (DiffiT, {"num_heads": 2}, {"num_heads": (2, 2)}),
        *(
            (cls, {"img_size": 14, "patch_size": 1}, {"img_size": (14, 14), "patch_size": 1})
            for cls in (UViT, DiT, LatentDiffiT, SSM)
        ),
        (DiffiT, {"img_size": 28}, {"img_size": (28, 28)}),
    ],
)
def test_a_sequence_of_one_is_that_one(cls: type[nn.Module], one: dict[str, Any], each: dict[str, Any]) -> None:
    several = {name for name, value in each.items() if isinstance(value, tuple)}
    wrapped = {name: (value,) if name in several else value for name, value in one.items()}
    with torch.device("meta"):
        shapes = [
            {name: tuple(parameter.shape) for name, parameter in cls(**settings).named_parameters()}
            for settings in (each, one, wrapped)
        ]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("cls", exported(Backbone))
def test_without_arguments_a_backbone_is_the_small_one(cls: type[Backbone]) -> None:
    """One image of 28 x 28 x 1, and about as many parameters as every other."""
    network = cls()
    assert network(torch.zeros(1, 1, 28, 28), torch.zeros(1)).shape == (1, 1, 28, 28)
    assert 1.4e6 < sum(parameter.numel() for parameter in network.parameters()) < 2.1e6


class Halved(Downsample):
    """Every other pixel, and a linear map of the channels."""

    def __init__(self, in_channels: int, out_channels: int, block: BlockFactory) -> None:
        super().__init__(in_channels, out_channels, block)
        self.linear = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        out: Tensor = self.linear(x[:, :, ::2, ::2].movedim(1, -1)).movedim(-1, 1)
        return out


def test_a_layer_of_one_s_own_between_two_resolutions() -> None:
    network = UNet(1, widths=(4, 8), blocks=1, num_heads=1, downsample=Halved)
    assert isinstance(network.downsample[0], Halved)
    out = network(torch.randn(2, 1, 8, 8), torch.rand(2))
    assert out.shape == (2, 1, 8, 8)
    network.out.weight.data.normal_()
    network(torch.randn(2, 1, 8, 8), torch.rand(2)).sum().backward()
    gradient = network.downsample[0].linear.weight.grad
    assert gradient is not None
    assert gradient.any()
