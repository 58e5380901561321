"""The cost of a network: parameters, arithmetic, memory and time.

The counts use a copy of the network on the meta device of torch, whose tensors have shapes but no values. So counting needs no
data and almost no memory. torch counts a multiply-accumulate as two floating-point operations, so its count is divided by two.
Activation memory is the memory that autograd keeps for the backward pass. Time is measured on the network itself.
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
from ctdiff.devices import check_device
from ctdiff.recipe.errors import ConfigError

__all__ = ["Cost", "Summary", "estimate", "summary"]

_ENOUGH = 2.0  # seconds; after this time no further pass is timed


@dataclass(frozen=True)
class Summary:
    """The size of a network and the cost of one image.

    Arguments:
        parameters: the number of parameters, including frozen ones.
        multiply_accumulates: the multiply-accumulates of one evaluation on one image.
        activation_bytes: the activation memory of one image in training, in bytes.
        forward_seconds: the time per image of a forward pass that keeps activations; None if it was not measured.
        backward_seconds: the time per image of a backward pass; None if it was not measured.
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
        training_bytes: the memory of the weights, their gradients, their moving average, the state of the optimiser, and the
            activations of one part of a batch (`training.accumulation` is the number of parts). Data, noise and the overhead
            of the allocator are not counted.
    """

    network: Summary
    training_bytes: int

    @property
    def parameters(self) -> int:
        """The number of parameters of the network."""
        return self.network.parameters

    @property
    def multiply_accumulates(self) -> int:
        """The multiply-accumulates of one evaluation of the network on one image."""
        return self.network.multiply_accumulates

    def __str__(self) -> str:
        return f"{self.network}\nestimated memory      {self.training_bytes / 2**20:,.0f} MiB to train"


def summary(backbone: nn.Module, shape: Sequence[int], runs: int = 5, batch_size: int = 1) -> Summary:
    """Measure the size of a network and its cost for one image: arithmetic, activation memory and time.

    The network is not changed. The numbers of multiply-accumulates and bytes come from a copy of the network in training
    mode. The tensors of this copy have shapes but no values.

    Arguments:
        backbone: a `Backbone` or `PixelLogits`.
        shape: the shape of one image (C, H, W).
        runs: how many times the forward and the backward pass are timed. With 0, or with a network on the meta device, no time
            is measured, and the seconds in the result are None.
        batch_size: the number of images in a timed pass.

    Returns:
        The number of parameters, and for one image: multiply-accumulates, bytes of activations, and the median seconds of a
        forward and of a backward pass.

    Raises:
        ValueError: the module is not a `Backbone` or `PixelLogits`. Or the shape is not (C, H, W), or C is not the number of
            channels of the network. Or runs < 0 or batch_size < 1.
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
    """Estimate the cost of a configuration. With `runs` = 0, no memory is allocated for the network.

    Arguments:
        config: the configuration.
        runs: how many times the passes are timed, on the device of the configuration. With 0, or if this machine does not
            have the device, no time is measured.
    """
    timed = runs and _has(config.training.device)
    network = recipe.build_network(config) if timed else recipe.build_shapes(config)
    counted = summary(network, recipe.event_shape(config), runs)
    size = -(-config.training.batch_size // config.training.accumulation)
    copies = 3 + recipe.part(config, "optimizer").copies  # the parameter, its gradient and its average first
    fixed = 4 * copies * counted.parameters
    return Cost(counted, fixed + size * counted.activation_bytes)


def _checked(backbone: nn.Module, shape: Sequence[int]) -> tuple[int, int, int]:
    if not isinstance(backbone, (Backbone, PixelLogits)):
        raise ValueError(f"backbone is a {type(backbone).__name__}, expected a Backbone or PixelLogits")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape = {tuple(shape)}, expected the shape of one image, (C, H, W)")
    if isinstance(backbone, Backbone) and shape[0] != backbone.in_channels:
        raise ValueError(f"shape = {tuple(shape)}, expected ({backbone.in_channels}, H, W): the channels of the network")
    channels, height, width = shape
    return channels, height, width


def _has(device: str) -> bool:
    """Return whether this machine has a device."""
    try:
        check_device(device)
    except ConfigError:
        return False
    return True


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _meta_copy(network: nn.Module) -> nn.Module:
    """Return a copy in training mode whose tensors have shapes but no content."""
    tensors = [*network.parameters(), *network.buffers()]
    # deepcopy does not copy the entries of its memory, so the content is never duplicated.
    memory: dict[int, object] = {id(tensor): tensor.detach().to("meta") for tensor in tensors}
    memory |= {id(p): nn.Parameter(p.detach().to("meta")) for p in network.parameters()}
    return copy.deepcopy(network, memory).train()


def _inputs(network: nn.Module, event: tuple[int, ...], batch: int) -> tuple[Tensor, Tensor]:
    """Return a batch of black images, and times 0."""
    device = _device(network)
    dtype = torch.int64 if isinstance(network, PixelLogits) else torch.float32
    return torch.zeros(batch, *event, dtype=dtype, device=device), torch.zeros(batch, device=device)


def _evaluate(network: nn.Module, x: Tensor, c: Tensor) -> Tensor:
    """Return the output of the backbone (B, C_out, H, W). For `PixelLogits`, its input and head are evaluated too."""
    if not isinstance(network, PixelLogits):
        out: Tensor = network(x, c)
        return out
    out = network.backbone(network.inputs(x, network.num_values), c)
    network.head(out, x)
    return out


def _kept_bytes(network: nn.Module, x: Tensor, c: Tensor) -> int:
    """Return the memory of all tensors that autograd keeps, including parameters. Each storage counts once."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # the tensor is held, so that no other gets its address
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
        _evaluate(network, x, c)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _seconds(network: nn.Module, event: tuple[int, ...], runs: int, batch: int) -> tuple[float, float | None]:
    """Return median times of a forward and a backward pass per image. A frozen network has no backward pass."""
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
            if run:  # the first run does not count, because it allocates memory and chooses kernels
                for times, (start, end) in zip((forward, backward), pairwise(moments), strict=False):
                    times.append((end - start) / batch)
                if moments[-1] - begun > _ENOUGH:
                    break
    return statistics.median(forward), statistics.median(backward) if learned else None


def _now(device: torch.device) -> float:
    """Wait until a device has finished its work, and return the time."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter()
