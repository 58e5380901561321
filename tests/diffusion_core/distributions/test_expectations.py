"""The logarithm of an expectation under each distribution, and its gradient, against sums over all values."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_core.distributions import Categorical, Distribution, Mixture, TruncatedLogistic
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates import BirthDeathRates
from discrete_diffusion.schedules import Exponential

S = 40
SHAPE = (3, 5)
Build = Callable[[list[Tensor]], Distribution]


def categorical(tensors: list[Tensor]) -> Distribution:
    return Categorical(tensors[0])


def logistic(tensors: list[Tensor]) -> Distribution:
    return TruncatedLogistic(tensors[1], tensors[2], tensors[0].shape[-1])


def mixture(tensors: list[Tensor]) -> Distribution:
    other = TruncatedLogistic(tensors[3], tensors[2] - 1, tensors[0].shape[-1])
    return Mixture(tensors[4], [logistic(tensors), categorical(tensors), other])


BUILDERS = [categorical, logistic, mixture]


def tensors(dtype: torch.dtype, size: int = S) -> list[Tensor]:
    shapes = [(*SHAPE, size), SHAPE, SHAPE, SHAPE, (3, *SHAPE)]
    return [(0.7 * torch.randn(shape, dtype=torch.float64)).to(dtype).requires_grad_() for shape in shapes]


def by_hand(distribution: Distribution, f: Tensor) -> Tensor:
    return torch.logsumexp(distribution.logits + f.log(), -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("size", [2, 3, S])
def test_expectation_and_gradient_are_those_of_the_sum(size: int, build: Build, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    given = tensors(dtype, size)
    f = torch.exp(-40 * torch.rand(*SHAPE, size, dtype=torch.float64))  # from 1 down to 4e-18
    upstream = torch.randn(SHAPE, dtype=torch.float64)
    value = build(given).log_expectation(lambda part: f[part].to(dtype))
    assert value.dtype == dtype
    (value * upstream.to(dtype)).sum().backward()
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    expected = by_hand(build(exact), f)
    (expected * upstream).sum().backward()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(value.double(), expected, atol=tolerance, rtol=tolerance)
    for found, wanted in zip(given, exact, strict=True):
        if wanted.grad is None:
            assert found.grad is None
            continue
        assert found.grad is not None
        torch.testing.assert_close(found.grad.double(), wanted.grad, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_locations_and_scales_keep_their_digits(dtype: torch.dtype) -> None:
    """Locations far outside of [-1, 1] and scales from a point to flat, where plain masses underflow."""
    mu, log_scale = torch.meshgrid(
        torch.tensor([-30.0, -1.02, -1.0, -0.3, 0.999, 1.3, 50.0], dtype=torch.float64),
        torch.tensor([-9.0, -6.0, -2.0, 1.0, 5.0], dtype=torch.float64),
        indexing="ij",
    )
    f = torch.exp(-40 * torch.linspace(0, 1, S, dtype=torch.float64).sub(0.6).square() / 0.36).expand(*mu.shape, S)
    distribution = TruncatedLogistic(mu.to(dtype), log_scale.to(dtype).requires_grad_(), S)
    value = distribution.log_expectation(lambda part: f[part].to(dtype))
    expected = by_hand(TruncatedLogistic(mu, log_scale, S), f)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4  # float32 rounds kappa times an edge, up to 8000
    torch.testing.assert_close(value.double(), expected, atol=tolerance, rtol=tolerance)
    (slope,) = torch.autograd.grad(value.sum(), distribution.log_scale)
    assert slope.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("time", [1e-4, 0.01, 0.1])
def test_confident_mistakes_of_a_birth_death_chain_cost_what_they_should(time: float, dtype: torch.dtype) -> None:
    """It reaches few levels, and where a narrow logistic believes in others, every term of the sum underflows."""
    process = CTMC(BirthDeathRates(256), Exponential(3.0, 100.0))
    f = process.kernel(torch.full((1,), time), torch.float64).columns(torch.tensor([[10]])).flatten()
    assert int((f == 0).sum()) > 150
    mesh = torch.meshgrid(torch.linspace(-1.5, 1.5, 13), torch.tensor([-11.0, -9.0, -7.0, -5.0, -3.0, 0.0]), indexing="ij")
    found, exact = ([part.flatten().to(kind).requires_grad_() for part in mesh] for kind in (dtype, torch.float64))
    value = TruncatedLogistic(*found, 256).log_expectation(lambda part: f.to(dtype).expand(len(found[0]), 256)[part])
    expected = by_hand(TruncatedLogistic(*exact, 256), f.to(dtype).double())
    assert expected.min() < -1e4
    tolerance = 1e-10 if dtype == torch.float64 else 3e-4  # float32 rounds kappa times an edge, up to 60,000
    torch.testing.assert_close(value.double(), expected, atol=tolerance, rtol=tolerance)
    value.sum().backward()
    expected.sum().backward()
    for one, other in zip(found, exact, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.double(), other.grad, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("build", BUILDERS)
def test_parameters_say_everything(build: Build) -> None:
    torch.manual_seed(0)
    distribution = build(tensors(torch.float64))
    parts = [
        distribution.with_parameters([parameter[part] for parameter in distribution.parameters()])
        for part in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(torch.cat([part.logits for part in parts]), distribution.logits)


def test_constant_weights_leave_the_mass_of_one() -> None:
    torch.manual_seed(0)
    for build in BUILDERS:
        distribution = build(tensors(torch.float64))
        value = distribution.log_expectation(lambda part: torch.full((len(range(*part.indices(3))), 5, S), 0.25).double())
        torch.testing.assert_close(value, torch.full(SHAPE, math.log(0.25), dtype=torch.float64))


@pytest.mark.parametrize("size", [2, 7, 64])
def test_gradient_of_all_logits_at_the_ends_of_the_range(size: int) -> None:
    """A fresh mixture has its background exactly at -1, where a clamp has two slopes."""
    torch.manual_seed(0)
    mu = torch.tensor([-1.0, 1.0, -1.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor([-2.0, -2.0, 0.5, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(5, size, dtype=torch.float64)
    (TruncatedLogistic(mu, log_scale, size).logits * upstream).sum().backward()
    h = 1e-6
    with torch.no_grad():
        right = (TruncatedLogistic(mu + h, log_scale, size).logits * upstream).sum(-1)
        left = (TruncatedLogistic(mu - h, log_scale, size).logits * upstream).sum(-1)
    torch.testing.assert_close(mu.grad, (right - left) / (2 * h), atol=1e-6, rtol=1e-6)


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="is NaN"):
        TruncatedLogistic(torch.tensor([math.nan]), torch.zeros(1), S).sample(torch.rand(1))
