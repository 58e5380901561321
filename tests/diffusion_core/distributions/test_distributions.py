"""Categoricals, mixtures and the inverse CDF against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from diffusion_core.distributions import Categorical, Mixture, TruncatedLogistic, inverse_cdf

from ...devices import ABSENT, fake_tensors

SIZES = [2, 3, 15, 16, 17, 31, 32, 33, 48, 100, 255, 256, 257]


def chi_square(samples: Tensor, probs: Tensor) -> float:
    """The p-value of samples (N,) against probabilities (S,); rare values are pooled."""
    counts = torch.bincount(samples.flatten(), minlength=len(probs)).double()
    expected = probs.double() * samples.numel()
    order = expected.argsort()
    group = (expected[order].cumsum(0) / 20).floor().long()
    group = torch.unique(group, return_inverse=True)[1]
    observed, wanted = (torch.zeros(int(group.max()) + 1, dtype=torch.float64) for _ in range(2))
    observed.index_add_(0, group, counts[order])
    wanted.index_add_(0, group, expected[order])
    keep = wanted > 0
    assert observed[~keep].sum() == 0
    if keep.sum() < 2:
        return 1.0
    return float(stats.chisquare(observed[keep], wanted[keep] * observed.sum() / wanted.sum()).pvalue)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_inverse_cdf_is_the_search_in_the_cumulative_weights(size, dtype):
    weights = torch.rand(40, 5, size, dtype=dtype) * (torch.rand(40, 5, size) < 0.6)
    weights[..., size // 2] += 0.1
    u = torch.rand(40, 5, dtype=torch.float64)
    cumulative = weights.double().cumsum(-1)
    exact = torch.searchsorted(cumulative, (u * cumulative[..., -1])[..., None], right=True)[..., 0]
    index = inverse_cdf(weights, u)
    assert index.dtype == torch.int64
    assert index.shape == u.shape
    assert (index == exact).double().mean() > 0.99  # a rounded sum may move an edge
    assert (weights.gather(-1, index[..., None]) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_inverse_cdf_never_returns_an_impossible_value(size, dtype):
    ends = torch.tensor([0.0, torch.finfo(dtype).eps / 4, 0.5, 1 - torch.finfo(dtype).eps / 2], dtype=dtype)
    for value in range(size):  # all weight on one value
        alone = torch.zeros(4, size, dtype=dtype)
        alone[:, value] = 1e-6 if value % 2 else 3e5
        assert (inverse_cdf(alone, ends) == value).all()
    for scale in (1e-30, 1.0, 1e30):  # the last weights are 0, the others of any size
        weights = torch.rand(500, size, dtype=dtype).clamp(min=0.01) ** 3 * scale
        weights[:, size - (size + 1) // 3 :] = 0
        for end in ends:
            index = inverse_cdf(weights, end.expand(500))
            assert (weights.gather(-1, index[:, None]) > 0).all()


@pytest.mark.parametrize("size", [2, 17, 256])
def test_inverse_cdf_draws_the_weights(size):
    probs = torch.rand(size) ** 3
    probs /= probs.sum()
    n = 40_000
    for dtype in (torch.float32, torch.float64):
        samples = inverse_cdf(probs.to(dtype).expand(n, size), torch.rand(n, dtype=dtype))
        assert chi_square(samples, probs) > 1e-4


def test_a_float32_zero_does_not_stand_for_the_impossible():
    weights = torch.ones(1, 64)
    weights[0, 0] = 1e-20
    assert inverse_cdf(weights, torch.zeros(1)) == 1


def test_inverse_cdf_refuses():
    with pytest.raises(ValueError, match=r"u has shape \(3,\) and dtype torch.float32, expected floating \(2,\)"):
        inverse_cdf(torch.ones(2, 4), torch.zeros(3))
    with pytest.raises(ValueError, match=r"dtype torch.int64"):
        inverse_cdf(torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("layout", ["contiguous", "channels", "pixels"])
def test_categorical_log_prob_is_the_cross_entropy(layout):
    size, shape = 37, (300, 2, 3, 5)  # more than one chunk
    if layout == "contiguous":
        logits = 4 * torch.randn(*shape, size)
    elif layout == "channels":  # (B, C S, H, W) as a convolution leaves it
        logits = 4 * torch.randn(300, 2, size, 3, 5).movedim(2, -1)
    else:
        logits = 4 * torch.randn(300, 3, 5, 2, size).movedim(3, 1)
    k, weight = torch.randint(size, shape), torch.randn(shape)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = Categorical(ours).log_prob(k.to(torch.uint8))
    expected = -torch.nn.functional.cross_entropy(theirs.movedim(-1, 1), k, reduction="none")
    torch.testing.assert_close(value, expected)
    (value * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_categorical_gradients():
    logits = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    k = torch.randint(5, (3, 4))
    assert torch.autograd.gradcheck(lambda z: Categorical(z).log_prob(k), logits)
    assert torch.autograd.gradcheck(lambda z: Categorical(z).logits, logits)
    assert torch.autograd.gradcheck(lambda z: Categorical(z).probs, logits)


def test_categorical_at_extremes():
    logits = torch.tensor([[1e4, 0.0, -1e4], [-torch.inf, 0.0, -torch.inf], [200.0, 100.0, 0.0]], requires_grad=True)
    distribution = Categorical(logits)
    assert distribution.log_prob(torch.tensor([2, 1, 2])).tolist() == [-2e4, 0.0, -200.0]
    assert distribution.log_prob(torch.tensor([0, 0, 0]))[1] == -torch.inf
    distribution.log_prob(torch.tensor([2, 1, 2])).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]]))
    assert distribution.mode().tolist() == [0, 1, 0]


@pytest.mark.parametrize("size", [2, 16, 33, 64, 100, 257])
def test_categorical_samples_its_probabilities(size):
    logits = 2 * torch.randn(size)
    logits[size // 3] = -torch.inf
    distribution = Categorical(logits.expand(60, 500, size))
    for dtype in (torch.float32, torch.float64):
        samples = distribution.sample(torch.rand(60, 500, dtype=dtype))
        assert chi_square(samples, logits.softmax(-1)) > 1e-4
        assert not (samples == size // 3).any()


@pytest.mark.parametrize("size", [17, 48, 255, 256])
def test_categorical_samples_as_the_inverse_cdf(size):
    logits = 3 * torch.randn(50, 1, 4, 4, size, dtype=torch.float64)
    u = torch.rand(50, 1, 4, 4, dtype=torch.float64)
    assert torch.equal(Categorical(logits).sample(u), inverse_cdf(logits.softmax(-1), u))


def test_a_sample_depends_on_its_own_row_only():
    logits, u = torch.randn(64, 1, 8, 8, 256), torch.rand(64, 1, 8, 8)
    together = Categorical(logits).sample(u)
    apart = torch.cat([Categorical(part).sample(v) for part, v in zip(logits.split(7), u.split(7), strict=True)])
    assert torch.equal(together, apart)


def mixture(dtype: torch.dtype = torch.float64) -> tuple[Mixture, Tensor]:
    """Two logistics and a categorical over 9 values, and the probabilities of their mixture."""
    weights = torch.randn(3, 2, 4, dtype=dtype)
    parts = [TruncatedLogistic(torch.randn(2, 4, dtype=dtype), torch.randn(2, 4, dtype=dtype) - 2, 9) for _ in range(2)]
    parts.append(Categorical(torch.randn(2, 4, 9, dtype=dtype)))
    expected = sum(w[..., None] * part.probs for w, part in zip(weights.softmax(0), parts, strict=True))
    return Mixture(weights, parts), expected


def test_mixture_is_the_weighted_sum():
    blend, expected = mixture()
    torch.testing.assert_close(blend.probs, expected)
    for k in range(9):
        torch.testing.assert_close(blend.log_prob(torch.full((2, 4), k)), expected[..., k].log())
    assert torch.equal(blend.mode(), expected.argmax(-1))


def test_mixture_samples_its_probabilities():
    blend, expected = mixture(torch.float32)
    n = 20_000
    parts = [TruncatedLogistic(p.mu[0, 0].expand(n), p.log_scale[0, 0].expand(n), 9) for p in blend.components[:2]]
    parts.append(Categorical(blend.components[2].unnormalised[0, 0].expand(n, 9)))
    for dtype in (torch.float32, torch.float64):
        samples = Mixture(blend.log_weights[:, 0, 0, None].expand(3, n), parts).sample(torch.rand(n, dtype=dtype))
        assert chi_square(samples, expected[0, 0]) > 1e-4


def test_mixture_never_draws_an_impossible_component():
    here, there = (Categorical(torch.where(torch.arange(4) == k, 0.0, -torch.inf).expand(5, 4)) for k in (1, 2))
    weights = torch.tensor([0.0, -1e9]).view(2, 1).expand(2, 5)
    u = torch.tensor([0.0, 0.2, 0.7, 0.999, 1 - 2**-24])
    assert (Mixture(weights, [here, there]).sample(u) == 1).all()
    assert (Mixture(weights.flip(0), [here, there]).sample(u) == 2).all()


def test_mixture_refuses():
    one, other = Categorical(torch.zeros(2, 3)), Categorical(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"numbers of values \[\(\(2,\), 3\), \(\(2,\), 4\)\], expected equal ones"):
        Mixture(torch.zeros(2, 2), [one, other])
    with pytest.raises(ValueError, match=r"weights have shape \(3, 2\), expected \(2, 2\)"):
        Mixture(torch.zeros(3, 2), [one, one])


@pytest.mark.parametrize("kind", ["categorical", "logistic", "mixture"])
def test_distributions_refuse(kind):
    logistic = TruncatedLogistic(torch.zeros(2, 3), torch.zeros(2, 3), 4)
    made = {
        "categorical": Categorical(torch.zeros(2, 3, 4)),
        "logistic": logistic,
        "mixture": Mixture(torch.zeros(2, 2, 3), [logistic, logistic]),
    }
    distribution = made[kind]
    with pytest.raises(ValueError, match=r"k has shape \(2,\) and dtype torch.int64, expected integers of shape \(2, 3\)"):
        distribution.log_prob(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"dtype torch.float32, expected integers"):
        distribution.log_prob(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"k has values in 0 .. 4, expected 0 .. 3"):
        distribution.log_prob(torch.tensor([[0, 0, 0], [0, 4, 0]]))
    with pytest.raises(ValueError, match=r"u has shape \(3,\)"):
        distribution.sample(torch.zeros(3))
    with pytest.raises(ValueError, match=r"dtype torch.bool, expected integers"):
        distribution.log_prob(torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"dtype torch.int64, expected floating"):
        distribution.sample(torch.zeros(2, 3, dtype=torch.int64))
    for wrong in (1.0, 1.5, -0.25, math.nan):
        with pytest.raises(ValueError, match=r"u has values in .*, expected numbers in \[0, 1\)"):
            distribution.sample(torch.tensor([[0.5, 0.5, 0.5], [0.5, wrong, 0.5]]))


def test_constructors_refuse():
    with pytest.raises(ValueError, match=r"dtype torch.float16"):
        Categorical(torch.zeros(2, 3, dtype=torch.float16))
    with pytest.raises(ValueError, match="num_values = 1, expected at least 2"):
        Categorical(torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"shapes \(2,\), \(3,\)"):
        TruncatedLogistic(torch.zeros(2), torch.zeros(3), 4)
    with pytest.raises(ValueError, match=r"components = \[\], expected at least one"):
        Mixture(torch.zeros(0, 2), [])


@pytest.mark.parametrize("size", [5, 40, 256])
def test_nothing_is_drawn_from_what_is_not_a_number(size):
    u, nan, zero = torch.rand(2), torch.tensor([0.0, math.nan]), torch.zeros(2)
    good = TruncatedLogistic(zero, zero, size)
    for distribution in (
        Categorical(torch.zeros(2, size) + nan[:, None]),
        TruncatedLogistic(nan, zero, size),
        TruncatedLogistic(zero, nan, size),
        Mixture(torch.stack([zero, nan]), [good, good]),
        Mixture(torch.zeros(2, 2), [good, TruncatedLogistic(nan, zero, size)]),
    ):
        with pytest.raises(ValueError, match=r"is NaN|infinite or NaN"):
            distribution.sample(u)


@pytest.mark.parametrize("size", [5, 40, 256])
def test_nothing_looks_at_a_value_off_the_cpu(size):
    with fake_tensors(), torch.device(ABSENT):
        mu, u, k = torch.zeros(2, 3), torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.int64)
        logistic = TruncatedLogistic(mu, mu, size)
        for distribution in (
            Categorical(torch.zeros(2, 3, size)),
            logistic,
            Mixture(torch.zeros(2, 2, 3), [logistic, logistic]),
        ):
            expectation = distribution.log_expectation(lambda part: torch.ones(2, 3, size)[part])
            read = (distribution.log_prob(k), distribution.sample(u), distribution.mode(), distribution.logits, expectation)
            assert all(out.device.type == ABSENT for out in read)
