"""Muon, against singular value decompositions in float64 and torch's AdamW."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from ctdiff.training import AdamW, Muon
from ctdiff.training.muon import is_matrix, orthogonalised


def polynomial_of_singular_values(matrix: Tensor) -> Tensor:
    """The result of five iterations, applied to the singular values of a float64 decomposition one by one."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ s.diag() @ v


def matrix_of(m: int, n: int, spread: float) -> Tensor:
    """A random matrix whose singular values fall from 1 to `spread`."""
    torch.manual_seed(m + n)
    u, _, v = torch.linalg.svd(torch.randn(m, n, dtype=torch.float64), full_matrices=False)
    return u @ torch.logspace(0, math.log10(spread), min(m, n), dtype=torch.float64).diag() @ v


# A rounding error of float32 grows as a small singular value does: by 3.4445 in each of five iterations.
ROUNDING = 8 * torch.finfo(torch.float32).eps * 3.4445**5

SHAPES = [(2, 3), (5, 5), (64, 36), (24, 576), (128, 1152), (960, 160)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [0.5, 0.03, 1e-3, 1e-6])
def test_singular_vectors_stay_and_singular_values_follow_the_polynomial(shape, spread):
    matrix = matrix_of(*shape, spread)
    exact = polynomial_of_singular_values(matrix)
    assert (orthogonalised(matrix) - exact).abs().max() < 1e-10
    for size in (1e-12, 1.0, 1e12):  # float32, gradients of any size
        found = orthogonalised((size * matrix).float())
        assert (found - exact).norm() < ROUNDING * exact.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_end_near_one(shape):
    values = torch.linalg.svdvals(orthogonalised(matrix_of(*shape, 0.1)))
    assert values.min() > 0.6
    assert values.max() < 1.21


def test_extremes_are_finite():
    assert orthogonalised(torch.zeros(3, 4)).equal(torch.zeros(3, 4))
    assert orthogonalised(torch.ones(3, 4)).isfinite().all()
    assert torch.linalg.svdvals(orthogonalised(torch.ones(3, 4)))[1] < 1e-4  # the rank stays 1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.GroupNorm(2, 6),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Flatten(),
        nn.Linear(24, 96),
        nn.Linear(96, 1),
    )


def trained(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    x = torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        (module(x) - 1).square().mean().backward()
        optimizer.step()


def test_matrices_are_kernels_that_mix_channels():
    found = {name: is_matrix(parameter) for name, parameter in network().named_parameters()}
    assert [name for name, matrix in found.items() if matrix] == ["0.weight", "4.weight"]  # not depthwise, not one row
    assert not is_matrix(torch.zeros(1, 50, 192))  # embeddings of positions
    assert not is_matrix(torch.zeros(320, 1, 4))  # a depthwise kernel of one dimension
    assert is_matrix(torch.zeros(4, 169))


@pytest.mark.parametrize("tall", [False, True])
def test_steps_are_those_of_the_formula(tall):
    """Nesterov momentum, decoupled decay, and the factor of a tall matrix, in float64 from singular values."""
    module = network()
    optimizer = Muon(0.01, 0.3, momentum=0.8, factor=2.0)(module.parameters())
    weight = (module[4] if tall else module[0]).weight
    m, n = weight.flatten(1).shape
    expected, average = weight.detach().double().flatten(1), torch.zeros(m, n, dtype=torch.float64)
    x = torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(4):
        optimizer.zero_grad()
        (module(x) - 1).square().mean().backward()
        gradient = weight.grad.double().flatten(1)
        average = 0.8 * average + 0.2 * gradient
        update = polynomial_of_singular_values(0.8 * average + 0.2 * gradient)
        expected = (1 - 0.02 * 0.3) * expected - 0.02 * max(1, m / n) ** 0.5 * update
        optimizer.step()
        assert (weight.detach().flatten(1) - expected).abs().max() < 1e-5


def test_other_parameters_are_updated_by_adamw():
    one, other = network(), network()
    trained(one, Muon(0.02, 0.3, betas=(0.8, 0.95))(one.parameters()), steps=1)
    trained(other, AdamW(0.02, 0.3, (0.8, 0.95))(other.parameters()), steps=1)
    theirs = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        assert parameter.equal(theirs[name]) is (not is_matrix(parameter))


def test_it_goes_on_from_its_state_bit_for_bit():
    one = network()
    optimizer = Muon(0.002)(one.parameters())
    trained(one, optimizer)
    other = copy.deepcopy(one)
    restored = Muon(0.002)(other.parameters())
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    trained(one, optimizer)
    trained(other, restored)
    assert all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_its_state_moves_to_the_device_of_the_parameters():
    """The fused AdamW refuses counts of steps on another device."""
    module = network()
    optimizer = Muon(0.002)(module.parameters())
    trained(module, optimizer, steps=1)
    elsewhere = network().to("meta")
    moved = Muon(0.002)(elsewhere.parameters())
    moved.load_state_dict(optimizer.state_dict())
    assert {tensor.device.type for state in moved.state.values() for tensor in state.values()} == {"meta"}


def test_parameters_without_a_gradient_stay():
    module = network()
    optimizer = Muon(0.002)(module.parameters())
    before = copy.deepcopy(module.state_dict())
    optimizer.step()
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    assert not optimizer.state


def test_a_closure_is_called():
    module = network()
    optimizer = Muon(0.002)(module.parameters())
    assert optimizer.step(lambda: 2.5) == 2.5


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"factor": 0.0}, {"betas": (0.9, 1.0)}, {"lr": -1.0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Muon(**wrong)
