"""What a network costs: parameters, arithmetic, memory and time.

Shapes and counts come from a copy of the network on torch's meta device, whose tensors have
shapes and no content: neither data nor memory is needed, whatever the size. The arithmetic is
counted by torch, two floating-point operations a multiply-accumulate; activation memory is what
autograd keeps for the backward pass. Time is measured on the network as it is.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from backbones import Backbone, PixelLogits
from ctdiff import recipe

__all__ = ["Cost", "Summary", "estimate", "summary"]

_ENOUGH = 2.0  # seconds of measurement, after which no further run is begun


@dataclass(frozen=True)
class Summary:
    """The size of a network and the price of one image.

    Arguments:
        parameters: numbers that are learnt, frozen ones included.
        multiply_accumulates: of one evaluation on one image.
        activation_bytes: what autograd keeps of one image in training.
        forward_seconds: the time of an evaluation that keeps them, an image; None where it was not measured.
        backward_seconds: the time of the gradient of all parameters, an image.
    """

    parameters: int
    multiply_accumulates: int
    activation_bytes: int
    forward_seconds: float | None = None
    backward_seconds: float | None = None

    def __str__(self) -> str:
        lines = [
            f"parameters            {self.parameters:,}",
            f"multiply-accumulates  {self.multiply_accumulates:,} an image",
            f"activations           {self.activation_bytes / 2**20:,.1f} MiB an image in training",
        ]
        for name, seconds in (("forward", self.forward_seconds), ("backward", self.backward_seconds)):
            if seconds is not None:
                lines.append(f"{name:20}  {1000 * seconds:,.2f} ms an image")
        return "\n".join(lines)


@dataclass(frozen=True)
class Cost:
    """The cost of a configuration.

    Arguments:
        network: the summary of its network.
        training_bytes: what weights, optimiser and one batch's activations need; data, noising
            and the allocator's slack come on top.
    """

    network: Summary
    training_bytes: int

    @property
    def parameters(self) -> int:
        """Trainable numbers."""
        return self.network.parameters

    @property
    def multiply_accumulates(self) -> int:
        """Of one evaluation of the network on one image."""
        return self.network.multiply_accumulates

    def __str__(self) -> str:
        return f"{self.network}\nestimated memory      {self.training_bytes / 2**20:,.0f} MiB to train"


def summary(backbone: nn.Module, shape: Sequence[int], runs: int = 5, batch_size: int = 1) -> Summary:
    """Count and measure a network on images of a shape.

    The network stays as it is: it is counted on a copy without content, in training mode, and measured as given.

    Arguments:
        backbone: a `Backbone` or `PixelLogits`.
        shape: of one image (C, H, W).
        runs: measured runs, of which the median counts; 0 measures nothing, and so does a network on the meta device.
        batch_size: images in a measured run.

    Raises:
        ValueError: another module, a shape that is not (C, H, W), another number of channels, a negative number of runs.
    """
    event = _checked(backbone, shape)
    if runs < 0 or batch_size < 1:
        raise ValueError(f"runs = {runs}, batch_size = {batch_size}: expected at least 0 runs of at least 1 image")
    counted = _meta_copy(backbone)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        _evaluate(counted, *_inputs(counted, event, 1))
    kept = [_kept_bytes(counted, *_inputs(counted, event, batch)) for batch in (1, 2)]
    measured = (None, None) if runs == 0 or _device(backbone).type == "meta" else _seconds(backbone, event, runs, batch_size)
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    return Summary(parameters, counter.get_total_flops() // 2, kept[1] - kept[0], *measured)


def estimate(config: ConfigDict, runs: int = 0) -> Cost:
    """The cost of a configuration; without measured runs the network is never made in memory.

    Arguments:
        config: the configuration.
        runs: as in `summary`, on the configuration's device.
    """
    if runs:
        network = recipe.build_network(config)
    else:
        plain = ConfigDict(config.to_dict())
        plain.training.device = "meta"
        with torch.device("meta"):
            network = recipe.build_network(plain)
    counted = summary(network, recipe.event_shape(config), runs)
    size = -(-config.training.batch_size // config.training.accumulation)
    copies = 3 + recipe.part(config, "optimizer").copies  # the parameter, its gradient and its average first
    fixed = 4 * copies * counted.parameters
    return Cost(counted, fixed + size * counted.activation_bytes)


def _checked(backbone: nn.Module, shape: Sequence[int]) -> tuple[int, int, int]:
    if not isinstance(backbone, (Backbone, PixelLogits)):
        raise ValueError(f"backbone is a {type(backbone).__name__}, expected a Backbone or PixelLogits")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape = {tuple(shape)}, expected that of one image, (C, H, W)")
    if isinstance(backbone, Backbone) and shape[0] != backbone.in_channels:
        raise ValueError(f"shape = {tuple(shape)}, expected ({backbone.in_channels}, H, W): the channels of the network")
    channels, height, width = shape
    return channels, height, width


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _meta_copy(network: nn.Module) -> nn.Module:
    """A copy in training mode whose tensors have shapes and no content."""
    tensors = [*network.parameters(), *network.buffers()]
    # What the copy finds in its memory is not copied: the content is never duplicated.
    memory: dict[int, object] = {id(tensor): tensor.detach().to("meta") for tensor in tensors}
    memory |= {id(p): nn.Parameter(p.detach().to("meta")) for p in network.parameters()}
    return copy.deepcopy(network, memory).train()


def _inputs(network: nn.Module, event: tuple[int, ...], batch: int) -> tuple[Tensor, Tensor]:
    """A batch of blank images, and times 0."""
    device = _device(network)
    dtype = torch.int64 if isinstance(network, PixelLogits) else torch.float32
    return torch.zeros(batch, *event, dtype=dtype, device=device), torch.zeros(batch, device=device)


def _evaluate(network: nn.Module, x: Tensor, c: Tensor) -> Tensor:
    """The backbone's output (B, C_out, H, W); of integers, with what is read into and out of it."""
    if not isinstance(network, PixelLogits):
        out: Tensor = network(x, c)
        return out
    out = network.backbone(network.inputs(x, network.num_values), c)
    network.head(out, x)
    return out


def _kept_bytes(network: nn.Module, x: Tensor, c: Tensor) -> int:
    """The memory of all tensors that autograd keeps, parameters included, each storage once."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # the tensor is held, so that no other gets its address
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
        _evaluate(network, x, c)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _seconds(network: nn.Module, event: tuple[int, ...], runs: int, batch: int) -> tuple[float, float | None]:
    """Median times of a forward and a backward pass, an image; a frozen network has no backward pass."""
    x, c = _inputs(network, event, batch)
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    forward: list[float] = []
    backward: list[float] = []
    begun = time.perf_counter()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for run in range(runs + 1):
            moments = [_now(x.device)]
            total = _evaluate(network, x, c).float().sum()
            moments.append(_now(x.device))
            if learned:
                torch.autograd.grad(total, learned, allow_unused=True)
                moments.append(_now(x.device))
            if run:  # the first one allocates and chooses kernels: it does not count
                for times, (start, end) in zip((forward, backward), pairwise(moments), strict=False):
                    times.append((end - start) / batch)
                if moments[-1] - begun > _ENOUGH:
                    break
    return statistics.median(forward), statistics.median(backward) if learned else None


def _now(device: torch.device) -> float:
    """The time when everything asked of a device is done."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter()
