"""The contract of a backbone: float images in, float images out, one real number an example, conditions by name.

A backbone knows no process, no schedule and no guidance. `c` is whatever the caller wants the
network to be told (a time in [0, 1], a log signal-to-noise ratio); how strongly the embedding
stretches it is an argument of the network. Conditions are tensors by name, batch first. Labels are one of them:
y in 0 .. num_classes - 1, and num_classes itself is the null class, "no label". A network lists its conditions with the
values that mean "none", and a condition that is omitted has that value.

The base class refuses bad input once, in one place, and lets networks that halve the
resolution work on any image: it repeats the last row and column up to the needed multiple and
cuts them off again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_core.conditions import Null, check_conditions, check_labels, check_names, rows_of
from diffusion_core.dropout import current_seeds, seeded
from diffusion_core.ranges import Count, CountOrZero, Range, check_arguments
from diffusion_core.values import check_within

__all__ = [
    "Backbone",
    "DropoutRate",
    "check_tensors",
    "group_norm",
    "normal",
    "number_of_levels",
    "one_or_each",
    "truncated_normal",
    "xavier",
    "zeroed",
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

DropoutRate = Annotated[float, Range(least=0, below=1)]
"""The probability that a number is set to 0."""


def zeroed(module: ModuleT) -> ModuleT:
    """Set every parameter of a module to 0, and return it: a residual branch that begins as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def xavier(module: ModuleT) -> ModuleT:
    """Start every linear layer in a module as ViT does, and return it: uniform with Glorot's variance, biases 0.

    References:
        Understanding the difficulty of training deep feedforward neural networks (Glorot & Bengio, 2010) |
            https://proceedings.mlr.press/v9/glorot10a.html
    """
    for layer in _linear_layers(module):
        nn.init.xavier_uniform_(layer.weight)
    return module


def normal(module: ModuleT, std: float = 0.02) -> ModuleT:
    """Start every linear layer in a module with normal weights and biases 0, and return it.

    Arguments:
        module: what holds the layers.
        std: the standard deviation of the weights.
    """
    for layer in _linear_layers(module):
        nn.init.normal_(layer.weight, std=std)
    return module


def truncated_normal(module: ModuleT, std: float = 0.02) -> ModuleT:
    """Start every linear layer in a module as `normal` does, without weights beyond 2 in absolute value, and return it.

    Arguments:
        module: what holds the layers.
        std: the standard deviation of the weights, before those beyond 2 are drawn again.
    """
    for layer in _linear_layers(module):
        nn.init.trunc_normal_(layer.weight, std=std)
    return module


def _linear_layers(module: nn.Module) -> Iterator[nn.Linear]:
    """The linear layers of a module, with their biases set to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            yield layer


def check_tensors(**values: object) -> None:
    """Refuse inputs that are no tensors, by their names.

    Raises:
        TypeError: a value is no tensor.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} = {value!r}, expected a tensor")


def one_or_each(name: str, value: int | Sequence[int], number: int, each: str = "one a level") -> list[int]:
    """As many integers as asked for, from that many or from one for all; a sequence of one is that one.

    Arguments:
        name: what the caller calls the setting.
        value: the setting.
        number: how many integers there have to be.
        each: what they stand for.

    Raises:
        ValueError: neither one integer nor that many.
    """
    items = list(value) if isinstance(value, Sequence) else [value]
    if len(items) not in (1, number):
        raise ValueError(f"{name} = {value!r}, expected one integer, or {number} of them ({each})")
    return items * number if len(items) == 1 else items


def number_of_levels(widths: Sequence[int]) -> int:
    """The number of levels of a network with these widths.

    Raises:
        ValueError: there is none.
    """
    if not widths:
        raise ValueError(f"widths = {widths!r}, expected at least one level")
    return len(widths)


def group_norm(channels: int, groups: Count) -> nn.GroupNorm:
    """A group norm of any width: with the most groups, up to `groups`, that leave each two channels or more.

    A group of one channel would be constant where the feature map has shrunk to one pixel.

    Arguments:
        channels: the width of the feature map.
        groups: the most groups.

    Raises:
        ValueError: groups is no integer or below 1.
    """
    check_arguments(group_norm, locals())
    fitting = (g for g in range(min(groups, channels // 2), 1, -1) if channels % g == 0)
    return nn.GroupNorm(next(fitting, 1), channels)


def _keeping_seeds(block: nn.Module) -> Callable[..., Tensor]:
    """A block whose dropout is the same when it is run again in the backward pass."""
    seeds = current_seeds()

    def run(*inputs: Tensor) -> Tensor:
        with seeded(seeds):
            out: Tensor = block(*inputs)
            return out

    return block if seeds is None else run


class Backbone(nn.Module, ABC):
    """A network on images; a subclass implements `predict`.

    Arguments:
        in_channels: the number of channels C_in of x.
        out_channels: the number of channels C_out of the output; None means in_channels.
        num_classes: the number of classes; 0 is an unconditional network.
        multiple: what the network needs H and W to be a multiple of; images are padded to it.
        use_checkpoint: recompute what `run` runs in the backward pass instead of keeping what is inside.
        img_size: height and width of the images in pixels, where the network is made for one size; None is any.

    Raises:
        ValueError: one of these that is no integer or too small.
    """

    def __init__(
        self,
        in_channels: Count,
        out_channels: Count | None = None,
        num_classes: CountOrZero = 0,
        multiple: Count = 1,
        use_checkpoint: bool = False,
        img_size: Annotated[tuple[int, int], Range(least=1)] | None = None,
    ) -> None:
        check_arguments(Backbone, locals())
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = in_channels if out_channels is None else out_channels
        self.num_classes = num_classes
        self.multiple = multiple
        self.use_checkpoint = use_checkpoint
        self.img_size = img_size

    @property
    def conditions(self) -> Mapping[str, Null]:
        """The conditions that the network takes, by name, each with the value that means "none" for one example.

        Labels are the condition y, with the null class `num_classes`. A network with others adds them here.
        """
        return {"y": self.num_classes} if self.num_classes else {}

    @abstractmethod
    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        """The network on checked and padded input, with every one of its conditions."""

    def forward(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        """Evaluate the network: (B, C_in, H, W) -> (B, C_out, H, W), in the network's dtype.

        Arguments:
            x: floating images (B, C_in, H, W).
            c: one real number an example (B,).
            cond: conditions by name, batch first; labels y (B,) are integers in 0 .. num_classes. One that is omitted has
                its null value.

        Raises:
            TypeError: an input that is no tensor.
            ValueError: a wrong shape or dtype, a condition that the network does not take, a label out of range.
        """
        self._check(x, c)
        self._check_conditions(cond, len(x))
        height, width = x.shape[-2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        x = x.to(next(self.parameters()).dtype)
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        absent = {name: rows_of(null, x).contiguous() for name, null in self.conditions.items() if name not in cond}
        out = self.predict(x, c, **cond, **absent)
        return out[..., :height, :width] if bottom or right else out

    def run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        """Evaluate one block of tensors; with `use_checkpoint`, keep its inputs alone and recompute it in the backward pass."""
        saving = self.use_checkpoint and torch.is_grad_enabled()
        out: Tensor = checkpoint(_keeping_seeds(block), *inputs, use_reentrant=False) if saving else block(*inputs)
        return out

    def _check(self, x: Tensor, c: Tensor) -> None:
        check_tensors(x=x, c=c)
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {self.in_channels}, H, W)")
        if x.numel() == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected at least one image of at least one pixel")
        if not x.is_floating_point():
            raise ValueError(f"x has dtype {x.dtype}, expected a floating dtype")
        if self.img_size is not None and tuple(x.shape[2:]) != self.img_size:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (B, {x.shape[1]}, {self.img_size[0]}, {self.img_size[1]})"
            )
        if c.shape != (len(x),):
            raise ValueError(f"c has shape {tuple(c.shape)}, expected ({len(x)},)")
        if not c.is_floating_point():
            raise ValueError(f"c has dtype {c.dtype}, expected a floating dtype")

    def _check_conditions(self, cond: Mapping[str, Tensor], batch: int) -> None:
        check_names(cond, self.conditions)
        check_conditions(cond, batch)
        if (y := cond.get("y")) is None:
            return
        check_labels(y, batch)
        check_within(y, 0, self.num_classes, f"y has the value {{}}, expected 0 .. {self.num_classes} (the null class)")
