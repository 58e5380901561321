"""What a configuration will cost: parameters, arithmetic and memory, without data and without memory.

Networks are built on torch's meta device, whose tensors have shapes and no content. The
arithmetic is counted by torch; the memory of a training step is what is kept a parameter
(weights, gradient, two moments of Adam, average) plus what autograd keeps for the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from backbones import PixelLogits
from ctdiff import build

__all__ = ["Cost", "estimate"]

_COPIES = {"adamw": 5, "adam": 5, "sgd": 4}
"""Tensors a parameter: itself, its gradient, its average, and the moments of the optimiser."""


@dataclass(frozen=True)
class Cost:
    """The size of a model.

    Arguments:
        parameters: trainable numbers.
        multiply_accumulates: of one evaluation of the network on one image.
        training_bytes: what weights, optimiser and one batch's activations need; data, noising
            and the allocator's slack come on top.
    """

    parameters: int
    multiply_accumulates: int
    training_bytes: int

    def __str__(self) -> str:
        return (
            f"parameters            {self.parameters:,}\n"
            f"multiply-accumulates  {self.multiply_accumulates:,} an image\n"
            f"estimated memory      {self.training_bytes / 2**20:,.0f} MiB to train"
        )


def estimate(config: ConfigDict) -> Cost:
    """The cost of a configuration."""
    plain = ConfigDict(config.to_dict())
    plain.training.device = "meta"
    network = build.build_network(plain).train()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        _evaluate(network, config, 1)
    size = -(-config.training.batch_size // config.training.accumulation)
    kept = _kept_bytes(network, config, 2) - _kept_bytes(network, config, 1)  # an image's share
    return Cost(parameters, counter.get_total_flops() // 2, 4 * _COPIES[config.optimizer.name] * parameters + size * kept)


def _evaluate(network: nn.Module, config: ConfigDict, batch: int) -> None:
    shape = (batch, *build.event_shape(config))
    time = torch.zeros(batch, device="meta")
    if isinstance(network, PixelLogits):
        network.distribution(torch.zeros(shape, dtype=torch.int64, device="meta"), time)
    else:
        network(torch.zeros(shape, device="meta"), time)


def _kept_bytes(network: nn.Module, config: ConfigDict, batch: int) -> int:
    """The memory of all tensors that autograd keeps, parameters included, each storage once."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # the tensor is held, so that no other gets its address
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        _evaluate(network, config, batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
