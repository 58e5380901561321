"""The settings of optimisers. Called with parameters, an object of this module makes the optimiser of torch.

    AdamW(lr=2e-3)(network.parameters()) -> torch.optim.AdamW

Weight decay is for matrices and kernels only (`parameter_groups`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from torch import nn

from diffusion_core.ranges import CheckedArguments, NonNegative, Positive, Range

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "parameter_groups"]

Momentum: TypeAlias = Annotated[float, Range(least=0, below=1)]
Betas: TypeAlias = Annotated[tuple[float, float], Range(least=0, below=1)]


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups with weight decay for matrices and kernels only. Gains and biases must not shrink to zero."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim >= 2 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class Optimizer(CheckedArguments, ABC):
    """The base class of the settings of optimisers.

    A subclass sets `copies`: the number of tensors that it keeps for each parameter, besides the parameter and its gradient.

    Arguments:
        lr: the learning rate, before its schedule.
        weight_decay: the weight decay of matrices and kernels.
    """

    copies: ClassVar[int]

    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01

    @abstractmethod
    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Make the optimiser of torch for these parameters."""


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay: the weight decay is not part of the gradient.

    References:
        Decoupled weight decay regularization (Loshchilov and Hutter, 2019) | https://arxiv.org/abs/1711.05101

    Arguments:
        betas: the decay rates of the averages of the gradient and of its square.
    """

    name: ClassVar[str] = "adamw"
    copies: ClassVar[int] = 2

    betas: Betas = (0.9, 0.99)  # a shorter memory than 0.999, because a run has a few thousand steps

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameter_groups(parameters, self.weight_decay), self.lr, self.betas, fused=True)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam. The weight decay is added to the gradient.

    References:
        Adam: a method for stochastic optimization (Kingma and Ba, 2015) | https://arxiv.org/abs/1412.6980

    Arguments:
        betas: the decay rates of the averages of the gradient and of its square.
    """

    copies: ClassVar[int] = 2

    betas: Betas = (0.9, 0.99)

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameter_groups(parameters, self.weight_decay), self.lr, self.betas, fused=True)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum. The weight decay is added to the gradient.

    Arguments:
        momentum: the factor of the last step that is added to the next one; 0 is no momentum.
    """

    copies: ClassVar[int] = 1

    momentum: Momentum = 0.9

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameter_groups(parameters, self.weight_decay), self.lr, self.momentum)
