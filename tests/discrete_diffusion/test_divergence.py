"""The ELBO integrand against sums of logarithms: every process, parameterisation and time, and logits of any size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_core import ConstantScale
from discrete_diffusion.denoisers import AbsorbingDenoiser, LeaveOneOutDenoiser, X0Denoiser
from discrete_diffusion.divergence import weighted_phi
from discrete_diffusion.guidance import ClassifierGuidance, RateGuidance
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates import AbsorbingRates, BirthDeathRates, DenseRates, GaussianTargetRates, UniformRates
from discrete_diffusion.schedules import Constant, CosineSurvival, Exponential, LinearSurvival, Schedule

F32, F64 = torch.float32, torch.float64
PRECISION = {F32: 1e-5, F64: 1e-12}
TIMES = [1e-5, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.999]
SCALES = [1.0, 3.0, 8.0, 20.0]
PARAMETERISATIONS = {"x0": X0Denoiser, "leave_one_out": LeaveOneOutDenoiser, "absorbing": AbsorbingDenoiser}

Array = NDArray[np.float64]
NAMES = ["uniform", "uniform_slow", "absorbing", "birth_death", "gaussian_target", "non_reversible"]


# The function of r and w


def pairs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """r and w: ratios from 1e-30 to 1e30 at many sizes of w, close to 1 on both sides, and far beyond the range of r / w."""
    edges = torch.tensor([0.1, 0.5], dtype=F64)
    near = torch.cat([torch.logspace(-14, -0.01, 60, dtype=F64), edges, 1.001 * edges, 0.999 * edges])
    ratio = torch.cat([torch.logspace(-30, 30, 121, dtype=F64), 1 + near, 1 - near])
    w = torch.tensor([1e-18, 1e-7, 0.3, 1.0, 1e3], dtype=F64)[:, None]
    r, w = (ratio * w).flatten().to(dtype), w.expand(-1, len(ratio)).flatten().to(dtype)
    end = 0.9 * math.log10(torch.finfo(dtype).max)
    far = torch.tensor([[10**-end, 10**end], [10**end, 10**-end], [10**-end, 1.0], [1.0, 10**-end]], dtype=dtype).T
    normal = r > torch.finfo(dtype).tiny
    return torch.cat([r[normal], far[0]]), torch.cat([w[normal], far[1]])


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_weighted_phi_is_accurate_relative_to_its_value(dtype):
    r, w = pairs(dtype)
    r.requires_grad_()
    value = weighted_phi(r, w)
    (slope,) = torch.autograd.grad(value.sum(), r)
    exact = []
    with mpmath.workdps(60):
        for a, b in zip(map(mpmath.mpf, r.tolist()), map(mpmath.mpf, w.tolist()), strict=True):
            exact.append([float(a - b - b * mpmath.log(a / b)), float((a - b) / a)])
    expected = torch.tensor(exact, dtype=F64).to(dtype)
    torch.testing.assert_close(value.detach(), expected[:, 0], rtol=PRECISION[dtype], atol=0)
    torch.testing.assert_close(slope, expected[:, 1], rtol=PRECISION[dtype], atol=0)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_weighted_phi_where_a_number_is_zero(dtype):
    r = torch.tensor([0.0, 2.0, 0.0, 3.0], dtype=dtype, requires_grad=True)
    value = weighted_phi(r, torch.tensor([0.0, 0.0, 0.5, 3.0], dtype=dtype))
    (slope,) = torch.autograd.grad(value.sum(), r)
    assert value.tolist() == [0, 2, math.inf, 0]
    assert slope.tolist() == [1, 1, -math.inf, 0]


def test_second_derivative_of_weighted_phi_is_that_of_the_logarithm():
    r, w = torch.rand(20, dtype=F64, requires_grad=True), torch.rand(20, dtype=F64)
    (slope,) = torch.autograd.grad(weighted_phi(r, w).sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    torch.testing.assert_close(curvature, w / r.detach() ** 2)


# The integrand


def dense(n: int) -> DenseRates:
    """Neither symmetric nor reversible; the largest exit rate is 1."""
    jumps = np.random.default_rng(n).random((n, n)) ** (8 if n > 16 else 2) + 1e-6
    np.fill_diagonal(jumps, 0.0)
    jumps /= jumps.sum(1).max()
    return DenseRates(jumps - np.diag(jumps.sum(1)))


@cache
def make_process(name: str, size: int) -> CTMC:
    long: Schedule = Exponential(3.0, 100.0) if size > 2 else Constant(1.0)
    return {
        "uniform": lambda: CTMC(UniformRates(size), LinearSurvival()),
        "uniform_slow": lambda: CTMC(UniformRates(size), Constant(1.0)),
        "absorbing": lambda: CTMC(AbsorbingRates(size), CosineSurvival()),
        "birth_death": lambda: CTMC(BirthDeathRates(size), long),
        "gaussian_target": lambda: CTMC(GaussianTargetRates(size, 6.0 if size > 16 else 1.5, 2.0 * size), long),
        "non_reversible": lambda: CTMC(dense(size), LinearSurvival() if 2 < size < 256 else Constant(1.0)),
    }[name]()


@dataclass
class Case:
    """Clean and noisy states at many times, logits of all sizes, and what belongs to them in float64.

    Half of the noisy states are drawn, the other half are one jump from the clean ones, however early it is.
    """

    process: CTMC
    x_0: Tensor
    x_t: Tensor
    t: Tensor
    scores: Tensor
    log_p: Array
    rates: Array


@cache
def make_case(name: str, size: int) -> Case:
    process, generator = make_process(name, size), torch.Generator().manual_seed(size)
    t = torch.tensor(TIMES).double().repeat_interleave(len(SCALES))
    scale = torch.tensor(SCALES).repeat(len(TIMES))[:, None, None]
    dimensions = 2 if size > 16 else 4
    x_0 = torch.randint(size, (len(t), dimensions), generator=generator)
    jumps = process.rates.rates_from(x_0, F64).clamp(min=0).flatten(0, 1)
    near = torch.multinomial(jumps, 1, generator=generator).view(x_0.shape)
    x_t = torch.where(torch.arange(dimensions) % 2 == 0, near, process.sample(x_0, t, generator))
    scores = scale * torch.randn(*x_0.shape, size, generator=generator)
    with np.errstate(divide="ignore"):
        log_p = np.log(process.kernel(t, F64).rows(torch.arange(size).expand(len(t), size)).numpy())
    rates = process.rates.rates_to(x_t, F64).scatter(-1, x_t[..., None], 0.0) * process.beta(t)[:, None, None]
    return Case(process, x_0, x_t, t, scores, log_p, rates.numpy())


def log_sum(x: Array, axis: int) -> Array:
    largest = np.maximum(x.max(axis, keepdims=True), -1e300)
    with np.errstate(divide="ignore"):
        return (np.log(np.exp(x - largest).sum(axis, keepdims=True)) + largest).squeeze(axis)


def log_ratios(case: Case, scores: Array, parameterisation: str) -> tuple[Array, Array, Array, Array]:
    """log w and log r (B, D, n), and the log share of each clean value in r_y (B, D, S, n) and its denominator (B, D, S)."""
    some, place = np.arange(len(case.t))[:, None], case.x_t.numpy()
    log_rows = case.log_p[some, case.x_0.numpy()]
    log_w = log_rows - np.take_along_axis(log_rows, place[..., None], -1)
    log_evidence = np.moveaxis(case.log_p, 1, 2)[some, place]  # (B, D, S)
    paths = scores[..., None] + case.log_p[:, None]
    if parameterisation == "x0":
        with np.errstate(invalid="ignore"):
            paths = np.where(log_evidence[..., None] > -np.inf, paths - log_evidence[..., None], -np.inf)
        base = scores
    else:
        base = scores + log_evidence
    log_u, total = log_sum(paths, 2), log_sum(base, 2)
    with np.errstate(invalid="ignore"):
        shares = np.where(paths > -np.inf, paths - log_u[:, :, None], -np.inf)
    return log_w, log_u - total[..., None], shares, base - total[..., None]


def weighted_sum(rates: Array, log_w: Array, log_r: Array) -> Array:
    """`sum_y R (r - w - w (log r - log w))`, where a rate or w = 0 leaves nothing of a logarithm."""
    with np.errstate(invalid="ignore"):
        difference = np.where(log_w > -np.inf, log_r - log_w, 0.0)
        small = np.abs(difference) < 1e-3  # four terms of the series of e^d - 1 - d
        phi = np.where(small, difference**2 * (1 / 2 + difference / 6 + difference**2 / 24 + difference**3 / 120), 0.0)
        phi = np.where(small, phi, np.expm1(np.minimum(difference, 700)) - difference)
        terms = np.where(log_w > -np.inf, np.exp(log_w) * phi, np.exp(log_r))
        return np.where(rates > 0, rates * terms, 0.0).sum(-1)


def reference(case: Case, parameterisation: str) -> tuple[Array, Array, Array]:
    """The integrand, its gradient by the scores, and `sum_y R w`."""
    log_w, log_r, shares, base = log_ratios(case, case.scores.double().numpy(), parameterisation)
    w, r = np.exp(log_w), np.where(case.rates > 0, np.exp(log_r), 0.0)
    drift = np.where(case.rates > 0, case.rates * (r - w), 0.0)
    gradient = np.einsum("bdy,bdky->bdk", drift, np.exp(shares)) - drift.sum(-1)[..., None] * np.exp(base)
    return weighted_sum(case.rates, log_w, log_r), gradient, (case.rates * w).sum(-1)


def evaluated(parameterisation: str, case: Case, dtype: torch.dtype) -> tuple[Array, Array]:
    """The integrand of a network with these logits, and its gradient by them, both finite."""
    scores = case.scores.to(dtype, copy=True).requires_grad_()
    denoiser = PARAMETERISATIONS[parameterisation](case.process, lambda x, t, **cond: scores, case.x_0.shape[1:])
    value = denoiser(case.x_t, case.t).rate_divergence(case.x_0)
    (gradient,) = torch.autograd.grad(value.sum(), scores)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    return value.detach().double().numpy(), gradient.double().numpy()


@pytest.mark.parametrize("size", [2, 3, 4, 16, 256])
@pytest.mark.parametrize("name", NAMES)
def test_integrand_and_gradient_are_those_of_logarithms(name, size):
    case = make_case(name, size)
    for parameterisation in ["x0", "leave_one_out"] + ["absorbing"] * (name == "absorbing"):
        expected, slope, outflow = reference(case, parameterisation)
        assert (outflow.max(1) > 0).all()
        for dtype in (F32, F64):
            value, gradient = evaluated(parameterisation, case, dtype)
            allowed = PRECISION[dtype] * (outflow + expected)
            assert (np.abs(value - expected) <= allowed).all()
            assert (np.abs(gradient - slope) <= allowed[..., None]).all()


@pytest.mark.parametrize(
    ("process", "t"),
    [
        (CTMC(BirthDeathRates(4), Constant(3.0)), 0.01),
        (CTMC(BirthDeathRates(4), Constant(3.0)), 1e-3),
        (CTMC(UniformRates(256), LinearSurvival()), 0.01),
    ],
    ids=["birth_death", "birth_death_early", "uniform"],
)
def test_no_integrand_of_a_large_batch_is_infinite(process, t):
    """A value that the model gives a millionth of its mass has m = (r - w) / w rounded to -1 in float32."""
    size = process.rates.data_states
    x_0, x_t = torch.randint(size, (2, 8, 512))
    time = torch.full((8,), t, dtype=F64)
    scores = 3 * torch.randn(8, 512, size)
    denoiser = LeaveOneOutDenoiser(process, lambda x, c, **cond: scores.to(c.dtype), (512,))
    narrow, wide = denoiser(x_t, time.float()).rate_divergence(x_0), denoiser(x_t, time).rate_divergence(x_0)
    assert narrow.dtype == F32
    outflow = process.conditional_rates(x_0, x_t, time, F64).sum(-1)
    assert ((narrow - wide).abs() <= 1e-5 * (outflow + wide)).all()


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_a_model_that_is_sure_of_something_else_pays_in_proportion(parameterisation, dtype):
    """With a mask and `alpha = 1 - t` the integrand is `-log p(x_0) / t`, however small p is; infinite where it is 0."""
    process, spread = CTMC(AbsorbingRates(3), LinearSurvival()), torch.tensor([100.0, 300.0, 600.0, math.inf], dtype=dtype)
    scores = torch.stack([-spread, torch.zeros_like(spread), torch.zeros_like(spread)], -1)[:, None]  # (4, 1, 3)
    x_0, t = torch.zeros(4, 1, dtype=torch.int64), torch.tensor(0.25, dtype=dtype)
    value = PARAMETERISATIONS[parameterisation](process, lambda x, c, **cond: scores, (1,))(x_0 + 3, t).rate_divergence(x_0)
    torch.testing.assert_close(value[:, 0].to(dtype), 4 * (spread + math.log(2)), rtol=PRECISION[dtype], atol=0)


@pytest.mark.parametrize("name", ["uniform", "absorbing", "birth_death"])
def test_rate_guidance_of_any_logits_has_the_integrand_of_its_powers(name):
    """Ratios to the power of g leave float32 although their logarithms are ordinary numbers."""
    case, g = make_case(name, 4), 3.0
    parameterisation = "absorbing" if name == "absorbing" else "leave_one_out"
    pair = torch.stack([case.scores, case.scores.flip(-1)])  # with the label 0, and without

    class Network(torch.nn.Module):
        conditions: ClassVar[dict[str, int]] = {"y": 1}

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return pair.flatten(0, 1)

    denoiser = RateGuidance(PARAMETERISATIONS[parameterisation](case.process, Network(), (4,)), ConstantScale(g))
    value = denoiser(case.x_t, case.t, y=torch.zeros(len(case.t), dtype=torch.int64)).rate_divergence(case.x_0)
    log_w, cond, *_ = log_ratios(case, pair[0].double().numpy(), parameterisation)
    _, uncond, *_ = log_ratios(case, pair[1].double().numpy(), parameterisation)
    with np.errstate(invalid="ignore"):
        guided = np.where(cond > -np.inf, g * cond + (1 - g) * uncond, -np.inf)
    expected = weighted_sum(case.rates, log_w, guided)
    assert np.isfinite(expected).all()
    torch.testing.assert_close(value.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_classifier_guidance_of_a_sure_classifier_has_the_integrand_of_its_odds():
    """A jump may cost the label 120 nats or more, which is no number in float32 other than 0."""
    case = make_case("uniform", 4)

    def log_prob(x: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(-120 * x.double().sum(1))

    def classifier(x: Tensor, c: Tensor) -> Tensor:
        return torch.stack([0 * c, 120 * x.to(c.dtype).sum(1)], 1)

    plain = LeaveOneOutDenoiser(case.process, lambda x, t, **cond: case.scores, (4,))
    denoiser = ClassifierGuidance(plain, classifier, ConstantScale(1.0))
    label = torch.zeros(len(case.t), dtype=torch.int64)
    value = denoiser(case.x_t, case.t, y=label).rate_divergence(case.x_0)
    tilt = torch.empty(*case.x_t.shape, 4, dtype=F64)
    for d in range(4):
        for state in range(4):
            neighbour = case.x_t.clone()
            neighbour[:, d] = state
            tilt[:, d, state] = log_prob(neighbour) - log_prob(case.x_t)
    log_w, log_r, *_ = log_ratios(case, case.scores.double().numpy(), "leave_one_out")
    assert tilt.min() < -100
    expected = torch.from_numpy(weighted_sum(case.rates, log_w, log_r + tilt.numpy()))
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
