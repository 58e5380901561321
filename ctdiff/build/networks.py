"""Networks: backbones, heads, inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

from backbones import (
    AdaLNBlock,
    AdaLNZeroBlock,
    Backbone,
    CategoricalHead,
    CrossAttentionBlock,
    DiT,
    DiTBlock,
    EmbeddedInput,
    Head,
    InContextBlock,
    LogisticMixtureHead,
    OneHotInput,
    OrdinalInput,
    PixelInput,
    PixelLogits,
    TruncatedLogisticHead,
    UNet,
    UViT,
)
from backbones.diffit import DiffiT, LatentDiffiT
from backbones.resblocks import NearestConv, Resampling, ResidualDown, ResidualUp, ShuffledConv, StridedConv
from ctdiff.build.processes import is_gaussian
from ctdiff.build.shapes import image_size
from ctdiff.training.precision import HalfPrecision, resolved_precision

__all__ = ["BACKBONES", "CLASSES", "HEADS", "IMAGE_SIZED", "INPUTS", "build_network"]

BACKBONES: dict[str, type[Backbone]] = {
    "unet": UNet,
    "uvit": UViT,
    "dit": DiT,
    "diffit": DiffiT,
    "latent_diffit": LatentDiffiT,
}

IMAGE_SIZED = ("uvit", "dit", "diffit", "latent_diffit")
"""Backbones that are made for one size of images, which the data say."""

_CONDITIONINGS: dict[str, type[DiTBlock]] = {
    "in_context": InContextBlock,
    "cross_attention": CrossAttentionBlock,
    "adaln": AdaLNBlock,
    "adaln_zero": AdaLNZeroBlock,
}
_DOWNSAMPLES: dict[str, Resampling] = {"strided_conv": StridedConv, "residual": ResidualDown}
_UPSAMPLES: dict[str, Resampling] = {"shuffled_conv": ShuffledConv, "nearest_conv": NearestConv, "residual": ResidualUp}

CLASSES: dict[str, dict[str, Any]] = {
    "unet.downsample": _DOWNSAMPLES,
    "unet.upsample": _UPSAMPLES,
    "dit.conditioning": _CONDITIONINGS,
}
"""Arguments of backbones that are classes, and what they are called."""

HEADS: dict[str, Callable[[int, ConfigDict], Head]] = {
    "categorical": lambda channels, c: CategoricalHead(channels, c.data.num_values),
    "truncated_logistic": lambda channels, c: TruncatedLogisticHead(channels, c.data.num_values),
    "logistic_mixture": lambda channels, c: LogisticMixtureHead(channels, c.data.num_values, c.model.components),
}
INPUTS: dict[str, Callable[[ConfigDict, int, bool], PixelInput]] = {
    "ordinal": lambda c, states, masked: OrdinalInput(c.data.channels, masked),
    "one_hot": lambda c, states, masked: OneHotInput(c.data.channels, states),
    "embedded": lambda c, states, masked: EmbeddedInput(c.data.channels, states, c.model.embedding),
}


def _build_backbone(config: ConfigDict, in_channels: int, out_channels: int) -> Backbone:
    name = config.model.name
    given = dict(config.model[name])
    arguments = {key: CLASSES[f"{name}.{key}"][value] if f"{name}.{key}" in CLASSES else value for key, value in given.items()}
    if name == "unet":
        arguments["head_width"] = given["head_width"] or None
    if name in IMAGE_SIZED:
        arguments["img_size"] = image_size(config.data)
    backbone = BACKBONES[name](
        in_channels=in_channels, out_channels=out_channels, num_classes=config.model.num_classes, **arguments
    )
    return HalfPrecision(backbone) if _half(config) else backbone


def _half(config: ConfigDict) -> bool:
    return resolved_precision(config.training.precision, config.training.device) == "bfloat16"


def build_network(config: ConfigDict) -> nn.Module:
    """The network, freshly initialised from torch's global random state."""
    channels, values = config.data.channels, config.data.num_values
    if is_gaussian(config):
        network: nn.Module = _build_backbone(config, channels, channels * (2 if config.model.learned_variance else 1))
    else:
        masked = config.process.name == "absorbing"
        inputs = INPUTS[config.model.inputs](config, values + masked, masked)
        head = HEADS[config.model.head](channels, config)
        backbone = _build_backbone(config, inputs.out_channels, head.in_channels)
        network = PixelLogits(backbone, head, inputs, values, values + masked)
    # Convolutions in float32 on a CPU are fastest with the channels innermost; those in bfloat16 are not.
    layout = torch.contiguous_format if _half(config) else torch.channels_last
    return network.to(config.training.device).to(memory_format=layout)
