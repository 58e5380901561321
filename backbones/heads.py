"""Networks from integer images to distributions of pixels: an input coding, a backbone and an output head.

A pixel has S values 0 .. S - 1. Noisy images may also contain the mask, which is state S. The values are S equal bins
of [-1, 1]. The bin of value k has the centre

    c_k = -1 + (2 k + 1) / S

A head turns the output channels of the backbone into a distribution. The categorical head has S logits per pixel. The
truncated logistic heads have a location `mu = x_c + f(x)` and a log-scale, where x_c is the bin centre of the noisy
pixel. A network that returns 0 therefore predicts the noisy pixel. The scale is bounded by a smooth function:

    log_scale = 7 tanh(g / 7) - 2,     between exp(-9) and exp(5)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated

import torch
from einops import rearrange
from torch import Tensor, nn

from backbones.base import Backbone, check_tensors
from diffusion_core.conditions import Null
from diffusion_core.distributions import Categorical, Distribution, Mixture, TruncatedLogistic
from diffusion_core.ranges import Count, Range, check_arguments

__all__ = [
    "CategoricalHead",
    "EmbeddedInput",
    "Head",
    "LogisticMixtureHead",
    "OneHotInput",
    "OrdinalInput",
    "PixelInput",
    "PixelLogits",
    "TruncatedLogisticHead",
    "bin_centres",
]


NumValues = Annotated[int, Range(least=2)]
"""The number of values, or of states, of a pixel."""


def bin_centres(x: Tensor, num_values: int) -> Tensor:
    """Return the bin centre `-1 + (2 x + 1) / S` of each value, in float32. The mask, x = S, gives 0.

    Arguments:
        x: integers of any shape.
        num_values: the number S of values.
    """
    centres = (2 * x.float() + 1) / num_values - 1
    return torch.where(x < num_values, centres, 0.0)


class PixelInput(nn.Module, ABC):
    """The base class of input codings, which map integer images to the float images that a backbone takes.

    Arguments:
        channels: the number of channels of the integer image.
        out_channels: the number of channels of the float image.

    Raises:
        ValueError: channels or out_channels is not an integer of at least 1.
    """

    def __init__(self, channels: Count, out_channels: Count) -> None:
        check_arguments(PixelInput, locals())
        super().__init__()
        self.channels = channels
        self.out_channels = out_channels

    @abstractmethod
    def forward(self, x: Tensor, num_values: int) -> Tensor:
        """Map integers (B, C, H, W) to floats (B, out_channels, H, W). num_values is S, and x = S is the mask."""

    @abstractmethod
    def states(self, num_values: int) -> int:
        """Return the number of states that this coding can represent. The first num_values states are the values."""


class OrdinalInput(PixelInput):
    """Ordinal input coding: each pixel becomes its bin centre in [-1, 1].

    A mask becomes 0. With `masked`, extra channels are 1 where there is a mask and 0 elsewhere.

    Arguments:
        channels: the number of channels of the integer images.
        masked: whether images may contain the mask, which then has its own channels.
    """

    def __init__(self, channels: Count, masked: bool = False) -> None:
        check_arguments(OrdinalInput, locals())
        super().__init__(channels, 2 * channels if masked else channels)
        self.masked = masked

    def forward(self, x: Tensor, num_values: int) -> Tensor:
        centres = bin_centres(x, num_values)
        return torch.cat([centres, (x == num_values).to(centres.dtype)], dim=1) if self.masked else centres

    def states(self, num_values: int) -> int:
        return num_values + self.masked


class OneHotInput(PixelInput):
    """One-hot input coding: one float channel for each state of each channel.

    Arguments:
        channels: the number of channels of the integer images.
        num_states: the number of states of a pixel, including the mask if there is one.
    """

    def __init__(self, channels: Count, num_states: NumValues) -> None:
        check_arguments(OneHotInput, locals())
        super().__init__(channels, channels * num_states)
        self.num_states = num_states

    def forward(self, x: Tensor, num_values: int) -> Tensor:
        hot = torch.zeros(*x.shape, self.num_states, device=x.device).scatter_(-1, x.long().unsqueeze(-1), 1.0)
        return rearrange(hot, "b c h w s -> b (c s) h w")

    def states(self, num_values: int) -> int:
        return self.num_states


class EmbeddedInput(PixelInput):
    """Embedded input coding: a learned vector for each state, shared by all channels.

    Arguments:
        channels: the number of channels of the integer images.
        num_states: the number of states of a pixel, including the mask if there is one.
        dim: the length of the learned vector of a state.
    """

    def __init__(self, channels: Count, num_states: NumValues, dim: Count = 8) -> None:
        check_arguments(EmbeddedInput, locals())
        super().__init__(channels, channels * dim)
        self.num_states = num_states
        self.table = nn.Embedding(num_states, dim)

    def forward(self, x: Tensor, num_values: int) -> Tensor:
        vectors: Tensor = self.table(x.long())
        return rearrange(vectors, "b c h w d -> b (c d) h w")

    def states(self, num_values: int) -> int:
        return self.num_states


class Head(nn.Module, ABC):
    """The base class of heads, which turn the output of a backbone into a distribution over S values per pixel.

    Arguments:
        channels: the number of channels C of the integer image.
        num_values: the number S of values.
        in_channels: the number of channels of the backbone's output.

    Raises:
        ValueError: channels < 1, or num_values < 2.
    """

    def __init__(self, channels: Count, num_values: NumValues, in_channels: Count) -> None:
        check_arguments(Head, locals())
        super().__init__()
        self.channels = channels
        self.num_values = num_values
        self.in_channels = in_channels

    @abstractmethod
    def forward(self, out: Tensor, x: Tensor) -> Distribution:
        """Return the distribution for the backbone's output (B, in_channels, H, W) and its integer input x (B, C, H, W)."""


class CategoricalHead(Head):
    """A categorical head: output channel `c S + k` is the logit of value k in channel c.

    Arguments:
        channels: the number of channels of the integer images.
        num_values: the number of values of a pixel.
    """

    def __init__(self, channels: Count, num_values: NumValues) -> None:
        check_arguments(CategoricalHead, locals())
        super().__init__(channels, num_values, channels * num_values)

    def forward(self, out: Tensor, x: Tensor) -> Categorical:
        return Categorical(rearrange(_wide(out), "b (c s) h w -> b c h w s", c=self.channels, s=self.num_values))


class TruncatedLogisticHead(Head):
    """A truncated logistic head, with a location and a log-scale for each pixel.

    The first C channels of the backbone's output are f, the next C channels give the log-scale. The location is
    `mu = x_c + f`, where x_c is the bin centre of the noisy pixel.

    Arguments:
        channels: the number of channels of the integer images.
        num_values: the number of values of a pixel.
    """

    def __init__(self, channels: Count, num_values: NumValues) -> None:
        check_arguments(TruncatedLogisticHead, locals())
        super().__init__(channels, num_values, 2 * channels)

    def forward(self, out: Tensor, x: Tensor) -> TruncatedLogistic:
        f, g = _wide(out).chunk(2, dim=1)
        return TruncatedLogistic(bin_centres(x, self.num_values) + f, _log_scale(g), self.num_values)


class LogisticMixtureHead(Head):
    """A head with a mixture of J truncated logistics per pixel.

    The network's output has no axis of S values. Given the noisy pixels, a clean pixel is often either background or
    ink. One logistic distribution cannot represent both. The first component starts at the lowest value, the
    background: `mu_0 = -1 + f_0`. The others start at the bin centre x_c of the noisy pixel: `mu_j = x_c + f_j`. The
    output channels are J C log-weights, J C values of f and J C log-scales, component by component.

    Arguments:
        channels: the number of channels of the integer images.
        num_values: the number of values of a pixel.
        components: the number of logistic distributions in the mixture of a pixel. The first is for the background.
    """

    def __init__(self, channels: Count, num_values: NumValues, components: Annotated[int, Range(least=2)] = 2) -> None:
        check_arguments(LogisticMixtureHead, locals())
        super().__init__(channels, num_values, 3 * components * channels)
        self.components = components

    def forward(self, out: Tensor, x: Tensor) -> Mixture:
        sizes = {"parts": 3, "j": self.components, "c": self.channels}
        weights, f, g = rearrange(_wide(out), "b (parts j c) h w -> parts j b c h w", **sizes)
        centres = bin_centres(x, self.num_values)
        mu = [f[0] - 1, *(centres + shift for shift in f[1:])]
        parts = [TruncatedLogistic(m, _log_scale(s), self.num_values) for m, s in zip(mu, g, strict=True)]
        return Mixture(weights, parts)


def _log_scale(g: Tensor) -> Tensor:
    return 7 * torch.tanh(g / 7) - 2


def _wide(out: Tensor) -> Tensor:
    """Convert the output to float32 or wider, because it enters logarithms and divisions."""
    return out.to(torch.promote_types(out.dtype, torch.float32))


class PixelLogits(nn.Module):
    """A network that maps integer images to the distribution of every clean pixel.

    Arguments:
        backbone: a network with inputs.out_channels input channels and head.in_channels output channels.
        head: the module that turns the output of the backbone into a distribution.
        inputs: the module that turns integer images into the input of the backbone.
        num_values: the number S of values of a clean pixel.
        num_states: the number of states of a noisy pixel, S + 1 with a mask and S without a mask. None means S.

    Raises:
        ValueError: the channels, values or states of the parts do not match.
    """

    def __init__(
        self, backbone: Backbone, head: Head, inputs: PixelInput, num_values: int, num_states: int | None = None
    ) -> None:
        super().__init__()
        num_states = num_values if num_states is None else num_states
        if num_states not in (num_values, num_values + 1):
            raise ValueError(f"num_states = {num_states}, expected {num_values} or, with a mask, {num_values + 1}")
        for part, has, wants, needed in (
            ("backbone", "in_channels", backbone.in_channels, inputs.out_channels),
            ("backbone", "out_channels", backbone.out_channels, head.in_channels),
            ("head", "num_values", head.num_values, num_values),
            ("head", "channels", head.channels, inputs.channels),
            ("inputs", "states", inputs.states(num_values), num_states),
        ):
            if wants != needed:
                raise ValueError(f"the {part} has {has} = {wants}, expected {needed}")
        self.backbone = backbone
        self.head = head
        self.inputs = inputs
        self.channels = inputs.channels
        self.num_values = num_values
        self.num_states = num_states

    @property
    def conditions(self) -> Mapping[str, Null]:
        """A dict of the backbone's conditions, with their null values."""
        return self.backbone.conditions

    def distribution(self, x: Tensor, c: Tensor, **cond: Tensor) -> Distribution:
        """Return the distribution of every clean pixel.

        Arguments:
            x: integer images (B, C, H, W) with values in 0 .. num_states - 1.
            c: one real number per example (B,).
            cond: conditions of the backbone by name.

        Raises:
            TypeError: an input is not a tensor.
            ValueError: a wrong shape or dtype, or a value of x is not a state.
        """
        check_tensors(x=x)
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {self.channels}, H, W)")
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"x has dtype {x.dtype}, expected an integer dtype")
        if x.device.type == "cpu" and x.numel() and not torch.compiler.is_compiling():
            low, high = (int(end) for end in x.aminmax())
            if low < 0 or high >= self.num_states:
                raise ValueError(f"x has values in {low} .. {high}, expected 0 .. {self.num_states - 1}")
        distribution: Distribution = self.head(self.backbone(self.inputs(x, self.num_values), c, **cond), x)
        return distribution

    def forward(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        """Return the normalised logits of every clean pixel: (B, C, H, W) integers -> (B, C, H, W, S)."""
        return self.distribution(x, c, **cond).logits
