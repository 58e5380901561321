"""From integer images to distributions over them: a backbone, a coding of its input, a head on its output.

A pixel has S values 0 .. S - 1; noisy images may also hold a mask, the state S. Value k is the
bin of [-1, 1] with the centre

    c_k = -1 + (2 k + 1) / S

Heads read the channels of the backbone: the categorical one has S logits a pixel; the truncated
logistic ones have a location `mu = x_c + f(x)`, so that a network that outputs 0 believes in what
it sees, and a log-scale. The scale is bounded smoothly,

    log_scale = 7 tanh(g / 7) - 2,     between exp(-9) and exp(5)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated

import torch
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
"""How many values a pixel has, or states."""


def bin_centres(x: Tensor, num_values: int) -> Tensor:
    """The centre `-1 + (2 x + 1) / S` of each value's bin, in float32; a mask, x = S, is 0.

    Arguments:
        x: integers of any shape.
        num_values: the number S of values.
    """
    centres = (2 * x.float() + 1) / num_values - 1
    return torch.where(x < num_values, centres, 0.0)


class PixelInput(nn.Module, ABC):
    """How integer images become the float images that a backbone takes.

    Arguments:
        channels: the number of channels of the integer image.
        out_channels: the number of channels of the float image.

    Raises:
        ValueError: no channels.
    """

    def __init__(self, channels: Count, out_channels: Count) -> None:
        check_arguments(PixelInput, locals())
        super().__init__()
        self.channels = channels
        self.out_channels = out_channels

    @abstractmethod
    def forward(self, x: Tensor, num_values: int) -> Tensor:
        """Code integers (B, C, H, W) as floats (B, out_channels, H, W); num_values is S, and x = S the mask."""

    @abstractmethod
    def states(self, num_values: int) -> int:
        """How many states this coding tells apart, where S of them are values."""


class OrdinalInput(PixelInput):
    """Values are numbers: bin centres in [-1, 1]; a mask is 0, with a channel more that says so.

    Arguments:
        channels: the number of channels of the integer images.
        masked: images may hold the mask, which then has channels of its own.
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
    """Values are names: one channel for each state of each channel.

    Arguments:
        channels: the number of channels of the integer images.
        num_states: the number of states of a pixel; a mask is one of them.
    """

    def __init__(self, channels: Count, num_states: NumValues) -> None:
        check_arguments(OneHotInput, locals())
        super().__init__(channels, channels * num_states)
        self.num_states = num_states

    def forward(self, x: Tensor, num_values: int) -> Tensor:
        hot = torch.zeros(*x.shape, self.num_states, device=x.device).scatter_(-1, x.long().unsqueeze(-1), 1.0)
        return _channels_first(hot)

    def states(self, num_values: int) -> int:
        return self.num_states


class EmbeddedInput(PixelInput):
    """Values are names with a learned vector each, the same for every channel.

    Arguments:
        channels: the number of channels of the integer images.
        num_states: the number of states of a pixel; a mask is one of them.
        dim: the number of learned numbers that stand for a state.
    """

    def __init__(self, channels: Count, num_states: NumValues, dim: Count = 8) -> None:
        check_arguments(EmbeddedInput, locals())
        super().__init__(channels, channels * dim)
        self.num_states = num_states
        self.table = nn.Embedding(num_states, dim)

    def forward(self, x: Tensor, num_values: int) -> Tensor:
        return _channels_first(self.table(x.long()))

    def states(self, num_values: int) -> int:
        return self.num_states


def _channels_first(features: Tensor) -> Tensor:
    """(B, C, H, W, n) -> (B, C n, H, W), the n features of a channel together."""
    return features.permute(0, 1, 4, 2, 3).flatten(1, 2)


class Head(nn.Module, ABC):
    """How the output of a backbone is read as a distribution over S values a pixel.

    Arguments:
        channels: the number of channels C of the integer image.
        num_values: the number S of values.
        in_channels: the number of channels of the backbone's output.

    Raises:
        ValueError: no channels, or num_values < 2.
    """

    def __init__(self, channels: Count, num_values: NumValues, in_channels: Count) -> None:
        check_arguments(Head, locals())
        super().__init__()
        self.channels = channels
        self.num_values = num_values
        self.in_channels = in_channels

    @abstractmethod
    def forward(self, out: Tensor, x: Tensor) -> Distribution:
        """Read the output (B, in_channels, H, W) of the backbone at the integers x (B, C, H, W)."""


class CategoricalHead(Head):
    """One logit for each value: channel `c S + k` is the logit of value k in channel c.

    Arguments:
        channels: the number of channels of the integer images.
        num_values: the number of values of a pixel.
    """

    def __init__(self, channels: Count, num_values: NumValues) -> None:
        check_arguments(CategoricalHead, locals())
        super().__init__(channels, num_values, channels * num_values)

    def forward(self, out: Tensor, x: Tensor) -> Categorical:
        return Categorical(_wide(out).unflatten(1, (self.channels, self.num_values)).movedim(2, -1))  # (B, C, H, W, S)


class TruncatedLogisticHead(Head):
    """A truncated logistic for each pixel, from two numbers: first the C channels of f, `mu = x_c + f`, then the C channels
    of the log-scale.

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
    """A mixture of J truncated logistics for each pixel, still without an axis of S values.

    A clean pixel given noisy ones is often either background or ink, which one logistic blurs. The first
    component is centred at the lowest value, the background, `mu_0 = -1 + f_0`; the others at what is
    seen, `mu_j = x_c + f_j`. The channels are J C log-weights, J C of f and J C of the log-scales,
    component by component.

    Arguments:
        channels: the number of channels of the integer images.
        num_values: the number of values of a pixel.
        components: the number of logistic distributions in the mixture of a pixel; the first is for the background.
    """

    def __init__(self, channels: Count, num_values: NumValues, components: Annotated[int, Range(least=2)] = 2) -> None:
        check_arguments(LogisticMixtureHead, locals())
        super().__init__(channels, num_values, 3 * components * channels)
        self.components = components

    def forward(self, out: Tensor, x: Tensor) -> Mixture:
        weights, f, g = _wide(out).unflatten(1, (3, self.components, self.channels)).transpose(0, 2).unbind(1)
        centres = bin_centres(x, self.num_values)
        mu = [f[0] - 1, *(centres + shift for shift in f[1:])]
        parts = [TruncatedLogistic(m, _log_scale(s), self.num_values) for m, s in zip(mu, g, strict=True)]
        return Mixture(weights, parts)


def _log_scale(g: Tensor) -> Tensor:
    return 7 * torch.tanh(g / 7) - 2


def _wide(out: Tensor) -> Tensor:
    """What enters a logarithm or a division is float32 at least, whatever the network's dtype."""
    return out.to(torch.promote_types(out.dtype, torch.float32))


class PixelLogits(nn.Module):
    """A network on integer images: what it believes of every clean pixel.

    Arguments:
        backbone: the network; takes inputs.out_channels, returns head.in_channels.
        head: how its output is read.
        inputs: how integers become its input.
        num_values: the number S of values of a clean pixel.
        num_states: the number of states of a noisy pixel: S, or S + 1 with a mask; None means S.

    Raises:
        ValueError: the parts do not fit each other.
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
        """The conditions of the backbone, with the values that mean "none"."""
        return self.backbone.conditions

    def distribution(self, x: Tensor, c: Tensor, **cond: Tensor) -> Distribution:
        """The distribution of every clean pixel.

        Arguments:
            x: integer images (B, C, H, W) with values in 0 .. num_states - 1.
            c: one real number an example (B,).
            cond: conditions of the backbone by name.

        Raises:
            TypeError: an input that is no tensor.
            ValueError: a wrong shape or dtype, or a value that is no state.
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
        """The normalised logits of every clean pixel: (B, C, H, W) integers -> (B, C, H, W, S)."""
        return self.distribution(x, c, **cond).logits
