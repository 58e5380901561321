"""Initial laws: probability distributions from which tau-leaping can start instead of the prior of the process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_core.ranges import CheckedArguments, Positive
from discrete_diffusion.rates.base import RateMatrix

__all__ = ["GaussianInitialLaw", "InitialLaw", "UniformInitialLaw"]


class InitialLaw(CheckedArguments, ABC):
    """The law of x at t_max, the same for every dimension. A law is a probability distribution.

    Without such an object, sampling starts from the prior of the process, its stationary law. Another law than the
    stationary law adds an error to the samples. More steps do not remove this error.
    """

    @abstractmethod
    def __call__(self, values: int, device: torch.device) -> Tensor:
        """Return the probabilities of all values, which need not sum to 1: (values,), float64."""

    def check(self, rates: RateMatrix) -> None:
        """Raise an error if the process has a mask, because sampling must start from masks.

        Raises:
            ValueError: the rate matrix has a mask.
        """
        if rates.num_states != rates.data_states:
            raise ValueError(
                f"initial = {self}, expected None: the process has a mask (num_states = {rates.num_states}, data_states = "
                f"{rates.data_states}), so sampling must start from masks"
            )


@dataclass(frozen=True)
class UniformInitialLaw(InitialLaw):
    """A uniform law: all values have the same probability. It is the stationary law of uniform and birth-death rates."""

    name: ClassVar[str] = "uniform"

    def __call__(self, values: int, device: torch.device) -> Tensor:
        return torch.ones(values, dtype=torch.float64, device=device)


@dataclass(frozen=True)
class GaussianInitialLaw(InitialLaw):
    """A discretised Gaussian: p(x) is proportional to `exp(-(x + 1 - floor(S/2))^2 / (2 std^2))`.

    S is the number of values. If S is even and std = Q, this is the stationary law of `GaussianTargetRates`.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987

    Arguments:
        std: the standard deviation; the distance of two neighbouring values is 1. The published value is the Q of the rates.
    """

    name: ClassVar[str] = "gaussian"

    std: Positive = 512.0

    def __call__(self, values: int, device: torch.device) -> Tensor:
        x = torch.arange(values, dtype=torch.float64, device=device)
        exponent = ((x + 1 - values // 2) / self.std) ** 2 / 2  # 0 at the middle value
        return torch.exp(-exponent)
