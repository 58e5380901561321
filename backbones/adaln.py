"""Adaptive layer norm (adaLN): a condition shifts and scales the output of a layer norm, and gates a residual branch.

References:
    Scalable diffusion models with transformers (Peebles & Xie, 2023) | https://arxiv.org/abs/2212.09748
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import zeroed

__all__ = ["EPS", "AdaLNFinalLayer", "conditions", "modulate"]

EPS = 1e-6
"""The epsilon of all layer norms, as published. The default of torch is ten times as large."""


def conditions(modulation: nn.Linear, e: Tensor, z: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Return shifts, scales and gates, each (B, 1, d), for the condition e (B, d), in the dtype of z, under autocast too."""
    modulated: Tensor = modulation(e).to(z.dtype).unsqueeze(1)
    return modulated.chunk(parts, dim=-1)


def modulate(z: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return `(1 + scale) norm(z) + shift`, with a layer norm without parameters: z (B, N, d), shift and scale (B, 1, d)."""
    return torch.addcmul(shift, F.layer_norm(z, z.shape[-1:], eps=EPS), 1 + scale)


class AdaLNFinalLayer(nn.Module):
    """The adaLN final layer, from tokens to patches: a layer norm modulated by the condition, and a linear layer.

    Shift and scale are linear in the condition. They and the linear layer are 0 at initialisation.

    Arguments:
        dim: the width of a token.
        out_features: the number of output features of a patch.
    """

    def __init__(self, dim: int, out_features: int) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(dim, 2 * dim))
        self.out = zeroed(nn.Linear(dim, out_features))

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """Map tokens to patches with the condition e (B, dim): (B, N, dim) -> (B, N, out_features)."""
        shift, scale = conditions(self.modulation, e, z, 2)
        out: Tensor = self.out(modulate(z, shift, scale))
        return out
