"""Attention layers of a U-Net: attention between the pixels of a feature map, or weights of its channels.

A layer adds an update to its input x. gamma is 1, or sqrt(1/2) to keep the variance if x and the update have equal
variances:

    out = gamma (x + update(x, label))

The updates, with `q, k, v` linear in the normalised pixels and `W` a 1x1 convolution:

    ImageAttention     W softmax(q k^T / sqrt(d)) v             quadratic in the number of pixels
    LinearAttention    W softmax_d(q) (softmax_n(k)^T v)        linear in the number of pixels
    ClassAttention     as ImageAttention, with one more key and value, which are linear in the embedding of the class
    ChannelAttention   x tanh(a / 2), where a is a convolution, along the channels, of the mean of each channel

All updates are 0 in a new layer, so a new layer returns gamma x. Softmax and means are computed in float32 or wider.

References:
    Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    Efficient attention: attention with linear complexities (Shen et al., 2021) | https://arxiv.org/abs/1812.01243
    GLIDE: towards photorealistic image generation and editing (Nichol et al., 2022) | https://arxiv.org/abs/2112.10741
    ECA-Net: efficient channel attention for deep CNNs (Wang et al., 2020) | https://arxiv.org/abs/1910.03151
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from backbones.attention import attend, check_heads
from backbones.base import group_norm, zeroed

__all__ = ["ChannelAttention", "ClassAttention", "ImageAttention", "LinearAttention", "UNetAttention"]


class UNetAttention(nn.Module, ABC):
    """The base class of attention layers of a U-Net: (B, channels, H, W) -> (B, channels, H, W).

    A subclass implements `update`. It may also override `start_as_ddpm`.

    Arguments:
        channels: the width of the feature map.
        num_heads: the number of heads, if the layer has heads; it must divide channels.
        groups: the largest number of groups of the norm; fewer are used if it does not divide channels.
        residual_scale: gamma in `gamma (x + update)`.
        label_dim: the width of the embedding of the class; None means a network without classes.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 4,
        groups: int = 8,
        residual_scale: float = 1.0,
        label_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.residual_scale = residual_scale
        self.norm = group_norm(channels, groups)

    @abstractmethod
    def update(self, x: Tensor, label: Tensor | None) -> Tensor:
        """Return the update of the feature map x, of the same shape.

        Arguments:
            x: the feature map (B, channels, H, W).
            label: the embedding of the class (B, label_dim), or None in a network without classes.
        """

    def start_as_ddpm(self) -> None:
        """Finish the initialisation as in DDPM. `resblocks.fan_averaged` calls this after it has drawn all kernels."""

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Return `gamma (x + update(x, label))`."""
        out = x + self.update(x, label)
        return out if self.residual_scale == 1 else self.residual_scale * out


class ImageAttention(UNetAttention):
    """Residual multi-head self-attention of the pixels of a feature map. A new layer returns gamma x.

    Arguments:
        channels: the width of the feature map.
        num_heads: the number of heads, which must divide channels.
        groups: the largest number of groups of the norm; fewer are used if it does not divide channels.
        residual_scale: gamma in `gamma (x + update)`; sqrt(1/2) keeps the variance if x and the update have equal variances.
        label_dim: not used.

    Raises:
        ValueError: num_heads does not divide channels, or groups < 1.
    """

    name: ClassVar[str] = "softmax"

    def __init__(
        self,
        channels: int,
        num_heads: int = 4,
        groups: int = 8,
        residual_scale: float = 1.0,
        label_dim: int | None = None,
    ) -> None:
        super().__init__(channels, num_heads, groups, residual_scale, label_dim)
        check_heads(channels, num_heads)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = zeroed(nn.Conv2d(channels, channels, 1))

    def update(self, x: Tensor, label: Tensor | None) -> Tensor:
        mixed = self.mix(*self.heads(x), label)
        projected: Tensor = self.proj(rearrange(mixed, "b (h w) c -> b c h w", h=x.shape[2]))
        return projected

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, H W, heads, d), of a feature map (B, channels, H, W)."""
        qkv = self.qkv(self.norm(x))
        q, k, v = rearrange(qkv, "b (qkv heads d) h w -> b (h w) qkv heads d", qkv=3, heads=self.num_heads).unbind(2)
        return q, k, v

    def mix(self, q: Tensor, k: Tensor, v: Tensor, label: Tensor | None) -> Tensor:
        """Return the weighted mean of the values for each query, (B, H W, heads d), before the last projection."""
        return attend(q, k, v)

    def start_as_ddpm(self) -> None:
        for part in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        zeroed(self.proj)


class LinearAttention(ImageAttention):
    """Residual self-attention of pixels with a cost that is linear in the number of pixels. A new layer returns gamma x.

    The softmax of a query is over its d features, and the softmax of the keys is over the N pixels:

        out = softmax_d(q) (softmax_n(k)^T v),      weights = softmax_d(q) softmax_n(k)^T    (N, N), never formed

    The weights of a query are positive and have the sum 1. No division by a sum of weights is needed, so there is no
    division by a number near 0, also for inputs of large magnitude. Katharopoulos et al. (2020) use `elu + 1` in place
    of both softmaxes and divide by the sum of the weights.

    References:
        Efficient attention: attention with linear complexities (Shen et al., 2021) | https://arxiv.org/abs/1812.01243

    The arguments are those of `ImageAttention`.
    """

    name: ClassVar[str] = "linear"

    def mix(self, q: Tensor, k: Tensor, v: Tensor, label: Tensor | None) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k = q.softmax(-1, dtype=wide), k.softmax(1, dtype=wide)
        context = rearrange(k, "b n heads d -> b heads d n") @ rearrange(v.to(wide), "b n heads d -> b heads n d")
        out = rearrange(q, "b n heads d -> b heads n d") @ context
        return rearrange(out, "b heads n d -> b n (heads d)").to(v.dtype)


class ClassAttention(ImageAttention):
    """Residual self-attention of pixels with the class as one more key and value. A new layer returns gamma x.

    The key and the value of the class are linear functions of its embedding. Each layer has its own weights for them.
    So the attention map of every pixel depends on the class. GLIDE adds the tokens of a text in the same way, after a
    transformer has processed the text. Imagen, another model that draws images from a text, also normalises the tokens.
    Neither step is needed here, because the vector of a class is learned.

    References:
        GLIDE: towards photorealistic image generation and editing (Nichol et al., 2022) | https://arxiv.org/abs/2112.10741

    Arguments:
        channels: the width of the feature map.
        num_heads: the number of heads, which must divide channels.
        groups: the largest number of groups of the norm; fewer are used if it does not divide channels.
        residual_scale: gamma in `gamma (x + update)`; sqrt(1/2) keeps the variance if x and the update have equal variances.
        label_dim: the width of the embedding of the class.

    Raises:
        ValueError: label_dim is None, num_heads does not divide channels, or groups < 1.
    """

    name: ClassVar[str] = "class"

    def __init__(
        self,
        channels: int,
        num_heads: int = 4,
        groups: int = 8,
        residual_scale: float = 1.0,
        label_dim: int | None = None,
    ) -> None:
        if label_dim is None:
            raise ValueError("num_classes = 0, expected at least 1: attention = ClassAttention uses the class as a key")
        super().__init__(channels, num_heads, groups, residual_scale, label_dim)
        self.label = nn.Linear(label_dim, 2 * channels)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, label: Tensor | None) -> Tensor:
        key, value = rearrange(self.label(label), "b (kv heads d) -> kv b 1 heads d", kv=2, heads=self.num_heads)
        return attend(q, torch.cat([k, key], dim=1), torch.cat([v, value], dim=1))


class ChannelAttention(UNetAttention):
    """Efficient channel attention: multiply each channel by a gate, which is computed from the means of nearby channels.

        m = mean of each channel of norm(x),      a = convolution of m along the channels,      x + update = 2 sigmoid(a) x

    For C channels the kernel has k weights. k is the odd number nearest to `log2(C) / 2 + 1/2`. If two odd numbers are
    equally near, k is the larger one, as in the authors' code.

    The published gate is sigmoid(a) and is inside the residual branch of a block. Here the layer follows the block, and its
    gate must be 1 at initialisation, so that it changes nothing. Therefore the gate is `2 sigmoid(a) = 1 + tanh(a / 2)`, and
    the kernel is 0 at initialisation. The authors compute the means after a batch norm. This layer computes them after its
    group norm.

    References:
        ECA-Net: efficient channel attention for deep CNNs (Wang et al., 2020) | https://arxiv.org/abs/1910.03151

    Arguments:
        channels: the width C of the feature map.
        num_heads: not used.
        groups: the largest number of groups of the norm; fewer are used if it does not divide channels.
        residual_scale: gamma in `gamma (x + update)`; sqrt(1/2) keeps the variance if x and the update have equal variances.
        label_dim: not used.
    """

    name: ClassVar[str] = "channel"

    def __init__(
        self,
        channels: int,
        num_heads: int = 4,
        groups: int = 8,
        residual_scale: float = 1.0,
        label_dim: int | None = None,
    ) -> None:
        super().__init__(channels, num_heads, groups, residual_scale, label_dim)
        size = 2 * int((math.log2(channels) + 1) / 4) + 1
        self.conv = zeroed(nn.Conv1d(1, 1, size, padding=size // 2, bias=False))

    def update(self, x: Tensor, label: Tensor | None) -> Tensor:
        means = self.norm(x).mean(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        a = self.conv(means.to(self.conv.weight.dtype).unsqueeze(1)).squeeze(1)
        return x * torch.tanh(a / 2)[:, :, None, None].to(x.dtype)

    def start_as_ddpm(self) -> None:
        zeroed(self.conv)
