"""Frechet and kernel distances against other implementations and closed forms on normal laws."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from ctdiff.metrics import KernelReference, Statistics, frechet_distance, kernel_distance, kernel_subsets


def normal(n: int, mean: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, len(mean), generator=generator, dtype=torch.float64) + mean


def random_law(width: int, rank: int, seed: int) -> Statistics:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(width, rank, generator=generator, dtype=torch.float64)
    return Statistics(torch.randn(width, generator=generator, dtype=torch.float64), factor @ factor.T)


def test_frechet_is_the_closed_form_where_covariances_commute() -> None:
    a, b = torch.tensor([4.0, 9.0, 0.25]).double(), torch.tensor([1.0, 0.0, 2.25]).double()
    one, other = Statistics(torch.zeros(3).double(), a.diag()), Statistics(torch.tensor([1.0, 2.0, -2.0]).double(), b.diag())
    expected = 9 + float((a.sqrt() - b.sqrt()).square().sum())
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-12)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    turned = [Statistics(turn @ law.mean, turn @ law.covariance @ turn.T) for law in (one, other)]
    assert frechet_distance(*turned) == pytest.approx(expected, rel=1e-7)  # the root of a zero eigenvalue's rounding


@pytest.mark.parametrize("rank", [12, 5])
def test_frechet_is_that_of_a_general_matrix_root(rank: int) -> None:
    """Also of singular covariances, as N features of a greater width have."""
    one, other = random_law(12, 12, 0), random_law(12, rank, 1)
    product = one.covariance.numpy() @ other.covariance.numpy()
    root = np.trace(scipy.linalg.sqrtm(product + 1e-12 * np.eye(12)).real)
    traces = one.covariance.trace() + other.covariance.trace()
    expected = float((one.mean - other.mean).square().sum() + traces) - 2 * root
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-5)


def test_frechet_of_a_law_with_itself_is_nothing() -> None:
    for rank in (3, 12):
        law = random_law(12, rank, 2)
        assert frechet_distance(law, law) < 1e-6
        assert frechet_distance(law, Statistics(law.mean + 1e-3, law.covariance)) == pytest.approx(12e-6, abs=2e-6)


def test_laws_that_cannot_be_compared_are_refused() -> None:
    law = random_law(3, 3, 0)
    with pytest.raises(ValueError, match="2 features against 3"):
        frechet_distance(law, random_law(2, 2, 0))
    one, other = (Statistics(law.mean, law.covariance, 9, name) for name in ("cnn-1", "cnn-2"))
    with pytest.raises(ValueError, match="cnn-2 against cnn-1"):
        frechet_distance(one, other)


def naive_kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    within = [np.mean([k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (x, y)]
    return float(sum(within) - 2 * np.mean([k(a, b) for a in x for b in y]))


def test_kernel_distance_is_the_sum_over_pairs() -> None:
    x, y = normal(23, torch.zeros(4), 0), normal(31, torch.full((4,), 0.7), 1)
    expected = naive_kernel_distance(x.numpy(), y.numpy())
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(y[torch.randperm(31)], x) == pytest.approx(expected, rel=1e-10)
    reference = KernelReference(x)
    cross = torch.cat([reference.cross(part) for part in y.split(7)])
    assert reference.distance(y, cross) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_of_normal_laws_is_the_closed_form() -> None:
    """x ~ N(0, I), y ~ N(mu, I), m = |mu|^2: moments of x^T y / D to the third order."""
    width, n = 4, 1500
    mu = torch.tensor([0.5, -0.5, 0.25, 0.0])
    m = float(mu.square().sum())
    within_x = 1 + 3 / width
    third = m**3 + 3 * m * (2 * m + width) + 6 * m
    within_y = third / width**3 + 3 * (m**2 + 2 * m + width) / width**2 + 3 * m / width + 1
    expected = within_x + within_y - 2 * (1 + 3 * (width + m) / width**2)
    values = [kernel_distance(normal(n, torch.zeros(width), 2 * i), normal(n, mu, 2 * i + 1)) for i in range(12)]
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 3 * error < 0.2 * expected


def test_kernel_distance_is_unbiased() -> None:
    values = [kernel_distance(normal(30, torch.zeros(4), 2 * i), normal(30, torch.zeros(4), 2 * i + 1)) for i in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
    assert min(values) < 0


def test_subsets_estimate_what_all_pairs_do() -> None:
    x, y = normal(120, torch.zeros(4), 0), normal(140, torch.full((4,), 0.5), 1)
    values = kernel_subsets(x, y, size=40, subsets=300, seed=3)
    assert abs(float(values.mean()) - kernel_distance(x, y)) < 4 * float(values.std()) / 300**0.5
    assert torch.equal(values, kernel_subsets(x, y, size=40, subsets=300, seed=3))
    whole = kernel_subsets(x, y[:120], size=120, subsets=2)
    torch.testing.assert_close(whole, torch.full((2,), kernel_distance(x, y[:120]), dtype=torch.float64))
    for size in (1, 121):
        with pytest.raises(ValueError, match=f"size = {size}"):
            kernel_subsets(x, y, size=size)
    with pytest.raises(ValueError, match=r"fake features have shape \(1, 4\)"):
        kernel_distance(x, y[:1])
