"""Shared pieces of the Gaussian engine's tests: toy networks, and randomness of known values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from continuous_diffusion import GaussianMixture
from diffusion_core import Randomness, SharedRandomness


class ToyNetwork(nn.Module):
    """A small nonlinear convolution that mixes the pixels, the time and the label."""

    def __init__(self, channels: int = 1, outputs: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 4, 3, padding=1)
        self.label = nn.Embedding(4, 4)
        self.out = nn.Conv2d(4, outputs * channels, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
        hidden = self.convolution(x) + c[:, None, None, None]
        if y is not None:
            hidden = hidden + self.label(y)[:, :, None, None]
        return self.out(torch.tanh(hidden))


class ConstantNoise(SharedRandomness):
    """Every normal number of an example is the same: what a step does to the mean (0) and to the noise (1).

    The numbers are one for all examples, or a tensor that expands to the shape of a draw.
    """

    def __init__(self, value: float | Tensor) -> None:
        super().__init__()
        self.value = value

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        return torch.as_tensor(self.value, dtype=dtype, device=device).expand(*shape)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These tensors are tiny: on a busy machine, waking a second thread costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def toy_network() -> Callable[..., ToyNetwork]:
    """A constructor of equal toy networks."""

    def build(outputs: int = 1) -> ToyNetwork:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return ToyNetwork(outputs=outputs)

    return build


@pytest.fixture
def constant_noise() -> Callable[[float | Tensor], Randomness]:
    """A constructor of randomness whose normal numbers are given, the same at every draw."""
    return ConstantNoise


@pytest.fixture
def mixture_1d() -> GaussianMixture:
    """Two unlike bumps on the line."""
    return GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-0.8], [0.5]]), torch.tensor([0.04, 0.09]))
