"""Known positions as input channels of a backbone, for networks that complete examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from backbones.base import Backbone
from diffusion_core.conditions import Null
from diffusion_core.known import check_known

__all__ = ["KnownChannels"]


class KnownChannels(Backbone):
    """A backbone with the condition `known`: the network also gets a mask of the known positions of the example.

    The mask is appended to the image as further channels, one for each channel of the example. It is 1 at known
    positions and 0 elsewhere. The known values are already in the noisy example, because they stay clean at all times.
    The null value of `known` means that nothing is known.

    References:
        Palette: image-to-image diffusion models (Saharia et al., 2022) | https://arxiv.org/abs/2111.05826

    Arguments:
        backbone: the network. Its first input channels are for the image, the others are for the mask.
        event_shape: the shape of one example (C, H, W), which is the shape of `known`.

    Raises:
        ValueError: the network has no input channels left for an image.
    """

    def __init__(self, backbone: Backbone, event_shape: Sequence[int]) -> None:
        channels = backbone.in_channels - event_shape[0]
        if channels < 1:
            raise ValueError(
                f"the network has in_channels = {backbone.in_channels}, expected more than {event_shape[0]}, the number of "
                "channels of the mask"
            )
        super().__init__(channels, backbone.out_channels, backbone.num_classes, img_size=backbone.img_size)
        self.event_shape = tuple(event_shape)
        self.backbone = backbone

    @property
    def conditions(self) -> Mapping[str, Null]:
        """A dict of the conditions of the wrapped network and of `known`, with their null values."""
        return {**self.backbone.conditions, "known": torch.zeros(self.event_shape, dtype=torch.bool)}

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        known = cond.pop("known")
        out: Tensor = self.backbone(torch.cat([x, known.to(x.dtype)], 1), c, **cond)
        return out

    def _check_conditions(self, cond: Mapping[str, Tensor], batch: int) -> None:
        super()._check_conditions(cond, batch)
        if "known" in cond:
            check_known(cond["known"], (batch, *self.event_shape))
