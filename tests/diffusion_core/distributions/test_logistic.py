"""The truncated logistic against high-precision arithmetic, its gradients, its samples."""

from __future__ import annotations

import mpmath
import pytest
import torch
from scipy import stats
from torch import Tensor

from diffusion_core.distributions import TruncatedLogistic

SIZES = [2, 3, 7, 16, 33, 128, 255, 256]


def exact(k: int, mu: float, log_scale: float, size: int) -> float:
    """log p(k) as a difference of CDFs, with as many digits as that takes."""
    with mpmath.workdps(60):
        kappa, m = mpmath.exp(-mpmath.mpf(log_scale)), mpmath.mpf(mu)

        def mass(a: mpmath.mpf, b: mpmath.mpf) -> mpmath.mpf:
            # By symmetry: on the side where the CDF is small nothing cancels that 60 digits do not hold.
            if a + b > 2 * m:
                a, b = 2 * m - b, 2 * m - a
            odds_a, odds_b = (mpmath.exp(kappa * (edge - m)) for edge in (a, b))
            return (odds_b - odds_a) / ((1 + odds_a) * (1 + odds_b))

        low = mpmath.mpf(2 * k) / size - 1
        return float(mpmath.log(mass(low, low + mpmath.mpf(2) / size)) - mpmath.log(mass(mpmath.mpf(-1), mpmath.mpf(1))))


def grid(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Locations far outside to far inside, scales from a hundredth of a bin to flat: (B,) each."""
    mu = torch.tensor([-300.0, -3.0, -1.0, -0.998, -0.31, 0.0, 0.25, 0.77, 1.0, 1.5, 40.0], dtype=dtype)
    log_scale = torch.tensor([-11.5, -9.0, -6.0, -4.0, -2.0, 0.0, 3.0, 7.5], dtype=dtype)
    mesh = torch.meshgrid(mu, log_scale, indexing="ij")
    return mesh[0].flatten(), mesh[1].flatten()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("size", [2, 7, 256])
def test_log_prob_is_exact_in_both_tails(size, dtype, tolerance):
    mu, log_scale = grid(dtype)
    distribution = TruncatedLogistic(mu, log_scale, size)
    for k in sorted({0, 1, size // 3, size // 2, size - 1}):
        value = distribution.log_prob(torch.full(mu.shape, k)).double()
        rows = zip(mu.tolist(), log_scale.tolist(), strict=True)
        expected = torch.tensor([exact(k, *row, size) for row in rows], dtype=torch.float64)
        # Relative to the sharpness too: mu itself is only known to one rounding, which kappa magnifies.
        rounding = torch.finfo(dtype).eps * torch.exp(-log_scale.double())
        assert ((value - expected).abs() <= tolerance * (1 + expected.abs()) + rounding).all()


@pytest.mark.parametrize("size", SIZES)
def test_logits_are_log_prob_and_sum_to_one(size):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        mu, log_scale = grid(dtype)
        distribution = TruncatedLogistic(mu, log_scale, size)
        assert distribution.logits.shape == (*mu.shape, size)
        for k in range(size):
            torch.testing.assert_close(distribution.log_prob(torch.full(mu.shape, k)), distribution.logits[:, k])
        # An edge of a bin is rounded, which kappa magnifies.
        slack = torch.finfo(dtype).eps * distribution.log_scale.neg().exp()
        assert (distribution.logits.logsumexp(-1).abs() <= tolerance + slack).all()
        torch.testing.assert_close(distribution.probs, distribution.logits.exp())


@pytest.mark.parametrize("size", [2, 5, 256])
def test_gradients(size):
    mu = torch.tensor([-2.0, -0.4, 0.013, 0.9, 1.7], dtype=torch.float64).repeat(3)
    log_scale = torch.tensor([-3.0, -1.0, 2.0], dtype=torch.float64).repeat_interleave(5)
    k = torch.randint(size, (15,))
    inputs = (mu.requires_grad_(), log_scale.requires_grad_())
    assert torch.autograd.gradcheck(lambda m, s: TruncatedLogistic(m, s, size).log_prob(k), inputs)
    direction = torch.randn(15, size, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, s: (TruncatedLogistic(m, s, size).logits * direction).sum(-1), inputs)


@pytest.mark.parametrize("mu", [-0.5, 0.5, 1.0, -1.0])
def test_gradient_on_an_edge(mu):
    location = torch.tensor([mu], dtype=torch.float64, requires_grad=True)
    scale, h = torch.tensor([-2.0], dtype=torch.float64), 1e-6
    for k in range(4):
        value = torch.tensor([k])
        (slope,) = torch.autograd.grad(TruncatedLogistic(location, scale, 4).log_prob(value), location)
        ends = [TruncatedLogistic(torch.tensor([mu + d], dtype=torch.float64), scale, 4).log_prob(value) for d in (h, -h)]
        torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * h), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("read", ["log_prob", "logits"])
def test_gradients_are_finite_at_extremes(read):
    mesh = torch.meshgrid(
        torch.tensor([-1e6, -50.0, -1.0, -0.996, 0.0, 1.0, 3.0, 1e6]),
        torch.tensor([-1e4, -90.0, -12.0, -9.0, 0.0, 8.0, 100.0, 1e4]),
        torch.tensor([0.0, 100.0, 255.0]),
        indexing="ij",
    )
    mu, log_scale, k = (part.flatten().clone() for part in mesh)
    distribution = TruncatedLogistic(mu.requires_grad_(), log_scale.requires_grad_(), 256)
    value = distribution.log_prob(k.long()) if read == "log_prob" else distribution.logits
    assert value.isfinite().all()
    value.sum().backward()
    assert mu.grad.isfinite().all()
    assert log_scale.grad.isfinite().all()
    assert not log_scale.grad[(log_scale < -12) | (log_scale > 8)].any()


def test_log_scale_is_clamped_to_its_bounds():
    distribution = TruncatedLogistic(torch.zeros(2), torch.tensor([-90.0, 100.0]), 4)
    assert distribution.log_scale.tolist() == [-12.0, 8.0]


@pytest.mark.parametrize("size", [2, 33, 256])
def test_samples_follow_the_probabilities(size):
    n = 20_000
    for mu, log_scale in ((-3.0, -1.0), (-0.99, -4.0), (0.1, -2.5), (0.6, 3.0), (1.4, -3.0)):
        distribution = TruncatedLogistic(torch.full((n,), mu), torch.full((n,), log_scale), size)
        probs = TruncatedLogistic(torch.tensor([mu]).double(), torch.tensor([log_scale]).double(), size).probs[0]
        for dtype in (torch.float32, torch.float64):
            samples = distribution.sample(torch.rand(n, dtype=dtype))
            counts = torch.bincount(samples, minlength=size).double()
            usual = probs * n > 5
            observed = torch.cat([counts[usual], counts[~usual].sum()[None]])
            expected = torch.cat([probs[usual] * n, probs[~usual].sum()[None] * n + 1e-9])
            if expected[-1] < 1:
                assert observed[-1] <= 20 * (expected[-1] + 1)
                observed, expected = observed[:-1], expected[:-1]
            if len(expected) > 1:
                assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_a_sample_is_the_inverse_of_the_cumulative_probabilities(size):
    mu, log_scale = (part.repeat(40) for part in grid(torch.float64))
    distribution = TruncatedLogistic(mu, log_scale, size)
    u = torch.rand(len(mu), dtype=torch.float64)
    k = distribution.sample(u)
    cumulative = distribution.probs.cumsum(-1)
    assert (cumulative.gather(-1, k[:, None])[:, 0] >= u - 1e-9).all()
    below = torch.where(k > 0, cumulative.gather(-1, (k - 1).clamp(min=0)[:, None])[:, 0], 0)
    assert (below <= u + 1e-9).all()


def test_the_ends_of_u_stay_near_the_mass():
    mu, log_scale = grid(torch.float32)
    distribution = TruncatedLogistic(mu, log_scale, 256)
    for u in (0.0, 1 - 2**-24):
        k = distribution.sample(torch.full(mu.shape, u))
        assert (distribution.log_prob(k) > -25).all()  # a float32 number stands for 2^-24 of the mass


@pytest.mark.parametrize("size", SIZES)
def test_mode_is_the_most_probable_value(size):
    mu, log_scale = grid(torch.float64)
    distribution = TruncatedLogistic(mu, log_scale, size)
    reached = distribution.log_prob(distribution.mode())
    torch.testing.assert_close(reached, distribution.logits.amax(-1), atol=1e-9, rtol=1e-9)
