"""The interface of a backbone. Its inputs are images of a floating dtype, one real number per image, and named conditions.

A backbone does not depend on a process, a schedule or guidance. The caller chooses the meaning of the real number `c`,
for example a time in [0, 1] or a log signal-to-noise ratio. The network multiplies c by a factor (an argument of its
constructor) before it embeds c.

Conditions are tensors with names, batch first. Labels are the condition y: the classes are 0 .. num_classes - 1, and
num_classes is the null class, which means "no label". A network lists its conditions with their null values. An
omitted condition has its null value.

The base class checks the input. Some networks halve the resolution, so they need images with sides that are a multiple
of some number. For images of other sizes, the base class repeats the last row and column, and crops the output.
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
"""A dropout probability: the probability that a number is set to 0."""


def zeroed(module: ModuleT) -> ModuleT:
    """Set all parameters of a module to 0 and return the module. A residual branch that ends with this module is 0 at first."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def xavier(module: ModuleT) -> ModuleT:
    """Initialise the linear layers of a module with Xavier-uniform weights and zero biases, and return the module.

    This is the initialisation of ViT.

    References:
        Understanding the difficulty of training deep feedforward neural networks (Glorot & Bengio, 2010) |
            https://proceedings.mlr.press/v9/glorot10a.html
    """
    for layer in _linear_layers(module):
        nn.init.xavier_uniform_(layer.weight)
    return module


def normal(module: ModuleT, std: float = 0.02) -> ModuleT:
    """Initialise the linear layers of a module with normal weights and zero biases, and return the module.

    Arguments:
        module: the module with the layers.
        std: the standard deviation of the weights.
    """
    for layer in _linear_layers(module):
        nn.init.normal_(layer.weight, std=std)
    return module


def truncated_normal(module: ModuleT, std: float = 0.02) -> ModuleT:
    """Initialise the linear layers of a module with truncated normal weights and zero biases, and return the module.

    Arguments:
        module: the module with the layers.
        std: the standard deviation before truncation; weights outside [-2, 2] are drawn again.
    """
    for layer in _linear_layers(module):
        nn.init.trunc_normal_(layer.weight, std=std)
    return module


def _linear_layers(module: nn.Module) -> Iterator[nn.Linear]:
    """Set the biases of the linear layers of a module to 0, and yield the layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            yield layer


def check_tensors(**values: object) -> None:
    """Check that the values are tensors. The error names the value that is not a tensor.

    Raises:
        TypeError: a value is not a tensor.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} = {value!r}, expected a tensor")


def one_or_each(name: str, value: int | Sequence[int], number: int, each: str = "one per level") -> list[int]:
    """Convert a setting to a list of `number` integers. The setting has one integer for all, or one integer for each.

    A sequence of one integer counts as one integer for all.

    Arguments:
        name: the name of the setting, for the error message.
        value: the setting.
        number: the length of the list.
        each: the meaning of each integer, for the error message.

    Raises:
        ValueError: the setting has neither one integer nor `number` integers.
    """
    items = list(value) if isinstance(value, Sequence) else [value]
    if len(items) not in (1, number):
        raise ValueError(f"{name} = {value!r}, expected one integer or {number} integers ({each})")
    return items * number if len(items) == 1 else items


def number_of_levels(widths: Sequence[int]) -> int:
    """Return the number of levels of a network with these widths.

    Raises:
        ValueError: widths is empty.
    """
    if not widths:
        raise ValueError(f"widths = {widths!r}, expected at least one level")
    return len(widths)


def group_norm(channels: int, groups: Count) -> nn.GroupNorm:
    """Make a group norm for any number of channels.

    The number of groups is the largest number that divides `channels`, is at most `groups` and leaves at least two
    channels in each group. If there is no such number, there is one group. The reason for two channels: with one
    channel and a feature map of one pixel, the normalised value would be constant.

    Arguments:
        channels: the width of the feature map.
        groups: the largest number of groups.

    Raises:
        ValueError: groups is not an integer of at least 1.
    """
    check_arguments(group_norm, locals())
    fitting = (g for g in range(min(groups, channels // 2), 1, -1) if channels % g == 0)
    return nn.GroupNorm(next(fitting, 1), channels)


def _keeping_seeds(block: nn.Module) -> Callable[..., Tensor]:
    """Return the block with the current dropout seeds. So dropout is the same when the backward pass runs the block again."""
    seeds = current_seeds()

    def run(*inputs: Tensor | None) -> Tensor:
        with seeded(seeds):
            out: Tensor = block(*inputs)
            return out

    return block if seeds is None else run


class Backbone(nn.Module, ABC):
    """The base class of networks on images. A subclass implements `predict`.

    Arguments:
        in_channels: the number of channels C_in of x.
        out_channels: the number of channels C_out of the output; None means in_channels.
        num_classes: the number of classes; 0 means an unconditional network.
        multiple: images are padded so that H and W are multiples of this number.
        use_checkpoint: do not store the activations of the blocks that `run` evaluates; recompute these blocks in the
            backward pass.
        img_size: height and width of the images in pixels, if the network is made for one size; None means any size.

    Raises:
        ValueError: an argument is not an integer or is too small.
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
        """A dict from the names of the network's conditions to their null values.

        A null value means "no condition". It is the value for one example, without the batch axis.

        Labels are the condition y, with the null class `num_classes`. A network with other conditions overrides this
        property.
        """
        return {"y": self.num_classes} if self.num_classes else {}

    @abstractmethod
    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        """Evaluate the network on checked and padded input. `cond` has all conditions; an omitted one has its null value."""

    def forward(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        """Evaluate the network: (B, C_in, H, W) -> (B, C_out, H, W), in the network's dtype.

        Arguments:
            x: images (B, C_in, H, W) of a floating dtype.
            c: one real number per example (B,).
            cond: conditions by name, batch first. Labels y (B,) are integers in 0 .. num_classes. An omitted condition
                has its null value.

        Raises:
            TypeError: an input is not a tensor.
            ValueError: a wrong shape or dtype, a condition that the network does not take, or a label out of range.
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

    def run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        """Evaluate one block. With `use_checkpoint`, store only its inputs and recompute it in the backward pass."""
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
