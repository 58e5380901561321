"""Schedules: a rate factor, its integral and the survival they imply."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil

import numpy as np
import pytest
import torch

import discrete_diffusion
from discrete_diffusion.rates import GaussianTargetRates, UniformRates
from discrete_diffusion.schedules import (
    Constant,
    CosineAmplitude,
    CosineRoot,
    CosineSurvival,
    Exponential,
    Geometric,
    LinearSurvival,
    LogLinear,
    LogSquare,
    PolynomialSurvival,
    Schedule,
)

EXAMPLES = [
    Constant(2.5),
    Exponential(),
    Geometric(0.1, 20.0),
    LogLinear(1e-3),
    LinearSurvival(),
    CosineSurvival(),
    CosineAmplitude(),
    PolynomialSurvival(2.0),
    PolynomialSurvival(1.0),
    LogSquare(3.0),
    CosineRoot(3.0, 0.9),
]
for found in pkgutil.walk_packages(discrete_diffusion.__path__, "discrete_diffusion."):
    importlib.import_module(found.name)


def classes(base: type = Schedule) -> list[type[Schedule]]:
    """Every schedule of the package."""
    deeper = [cls for child in base.__subclasses__() for cls in (child, *classes(child))]
    return [cls for cls in deeper if cls.__module__.startswith("discrete_diffusion.") and not inspect.isabstract(cls)]


EXAMPLES += [cls() for cls in classes() if cls not in map(type, EXAMPLES)]
every_schedule = pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)


def test_every_schedule_is_tested() -> None:
    assert len(classes()) >= 10
    assert {*classes()} == {type(schedule) for schedule in EXAMPLES}


@every_schedule
def test_beta_is_the_derivative_of_tau(schedule: Schedule) -> None:
    t = torch.linspace(0, 0.999, 101, dtype=torch.float64).requires_grad_()
    beta, tau = schedule(t)
    (slope,) = torch.autograd.grad(tau.sum(), t)
    torch.testing.assert_close(beta, slope, rtol=1e-10, atol=1e-12)
    assert tau[0] == 0
    assert (tau.diff() > 0).all()


@every_schedule
def test_tau_is_the_integral_of_beta(schedule: Schedule) -> None:
    points, weights = np.polynomial.legendre.leggauss(60)
    for end in (0.3, 0.8):
        beta = schedule(torch.tensor(end * (points + 1) / 2))[0]
        integral = (beta * torch.tensor(weights)).sum() * end / 2
        torch.testing.assert_close(schedule(torch.tensor(end, dtype=torch.float64))[1], integral, rtol=1e-9, atol=0)


@every_schedule
def test_survival(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 201, dtype=torch.float64).requires_grad_()
    beta, tau = schedule(t)
    alpha, alpha_dot = schedule.survival(t)
    torch.testing.assert_close(alpha, torch.exp(-tau), rtol=1e-10, atol=1e-300)
    assert alpha_dot.isfinite().all()
    inner = t < 1
    torch.testing.assert_close(alpha_dot[inner], (-beta * alpha)[inner], rtol=1e-9, atol=1e-12)
    assert alpha[0] == 1


@every_schedule
def test_dtype_and_shape_follow_t(schedule: Schedule) -> None:
    for dtype in (torch.float32, torch.float64):
        for shape in ((), (3,)):
            t = torch.full(shape, 0.4, dtype=dtype)
            for value in (*schedule(t), *schedule.survival(t)):
                assert value.dtype == dtype
                assert value.shape == shape


def test_published_values() -> None:
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    beta, tau = Exponential(3.0, 100.0)(t)
    torch.testing.assert_close(tau, torch.tensor([0.0, 27.0, 297.0], dtype=torch.float64))
    torch.testing.assert_close(beta, 3 * math.log(100) * torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64))
    assert LinearSurvival()(t)[1][2] == CosineSurvival()(t)[1][2] == math.inf
    assert LinearSurvival()(t)[0][2] == CosineSurvival()(t)[0][2] == math.inf
    assert LogLinear(1e-3).survival(t)[0][2].item() == pytest.approx(1e-3, rel=1e-12)
    assert CosineSurvival().survival(t)[0][1].item() == pytest.approx(1 - math.cos(math.pi / 4), rel=1e-14)
    # Near t = 1 the survival is small and still accurate: 1 - sin(pi t / 2) has lost all its digits there.
    near = torch.tensor(1 - 2.0**-30, dtype=torch.float64)
    assert CosineSurvival().survival(near)[0].item() == pytest.approx((math.pi * 2.0**-30) ** 2 / 8, rel=1e-9)


@pytest.mark.parametrize("scale", [1.0, 3.87])
def test_published_rates_over_a_square_and_a_root(scale: float) -> None:
    """Sun et al. (2023): `2t / (t^2 + 1)` and `pi/4 sin(pi t / 2) / sqrt(cos(pi t / 2))`, times a rate constant."""
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    beta, tau = LogSquare(scale)(t)
    torch.testing.assert_close(beta, scale * torch.tensor([0.0, 8 / 17, 0.8, 1.0], dtype=torch.float64))
    torch.testing.assert_close(tau, scale * torch.tensor([1.0, 17 / 16, 1.25, 2.0], dtype=torch.float64).log())
    torch.testing.assert_close(LogSquare()(t)[1][3].exp(), torch.tensor(2.0, dtype=torch.float64))  # survival 1 / 2
    for stop in (0.9, 0.999):
        schedule, time = CosineRoot(scale, stop), stop * t
        beta, tau = schedule(t)
        angle = math.pi / 2 * time
        published = math.pi / 4 * torch.sin(angle) / torch.cos(angle).sqrt()
        torch.testing.assert_close(
            beta, scale * stop * published, rtol=1e-10, atol=0
        )  # the chain rule: time runs at the speed stop
        torch.testing.assert_close(tau, scale * (1 - torch.cos(angle).sqrt()), rtol=1e-10, atol=0)
    assert CosineRoot()(t)[0].isfinite().all()
    assert CosineRoot()(t)[1][3].item() == pytest.approx(1 - math.sqrt(math.cos(0.999 * math.pi / 2)), rel=1e-12)
    small = torch.tensor(1e-6, dtype=torch.float64)  # tau = scale u^2 / 4 there, of which 1 - sqrt(cos u) keeps 4 digits
    assert CosineRoot(scale, 0.9)(small)[1].item() == pytest.approx(scale * (math.pi / 2 * 0.9e-6) ** 2 / 4, rel=1e-9)


def test_rate_constants_of_the_published_configurations() -> None:
    """Campbell et al. (2022): 129 notes with uniform, birth-death and Gaussian target rates."""
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    states = torch.arange(129)
    uniform = UniformRates(129, scale=0.03 * 129).rates_from(states, torch.float64)
    expected = torch.full((129, 129), 0.03, dtype=torch.float64).fill_diagonal_(-0.03 * 128)
    torch.testing.assert_close(uniform, expected)
    beta, tau = Geometric(1.0, 100.0)(t)
    torch.testing.assert_close(tau, torch.tensor([0.0, 49.5, 4999.5], dtype=torch.float64))
    torch.testing.assert_close(beta, math.log(100) * torch.tensor([1.0, 100.0, 10_000.0], dtype=torch.float64))
    slowest = 2 - 2 * math.cos(math.pi / 129)  # of the birth-death process: a twentieth of its signal is left at t = 1
    assert math.exp(-slowest * tau[2].item()) == pytest.approx(0.0516, abs=1e-4)
    assert Exponential(0.5, 1000.0)(t)[1][2].item() == pytest.approx(499.5)
    i, j, Q = 3, 7, 20.0
    gaussian = GaussianTargetRates(129, 3.0, Q).rates_from(states, torch.float64)
    assert gaussian[i, j].item() == pytest.approx(math.exp(-(3**2) / 3.0**2))  # towards the middle, over 4 values
    away = math.exp(-((i + 1) ** 2 - (j + 1) ** 2 + 129 * (j + 1) - 129 * (i + 1)) / (2 * Q**2))  # of the jump j -> i
    assert gaussian[j, i].item() == pytest.approx(gaussian[i, j].item() * away, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0.0), "rate = 0.0"),
        (lambda: Constant(math.inf), "rate = inf"),
        (lambda: Exponential(a=-1.0), "a = -1.0"),
        (lambda: Exponential(b=1.0), "b = 1.0"),
        (lambda: Geometric(0.0, 1.0), "sigma_min = 0.0"),
        (lambda: Geometric(2.0, 1.0), "sigma_max = 1.0"),
        (lambda: LogLinear(1.0), "eps = 1.0"),
        (lambda: PolynomialSurvival(0.5), "power = 0.5"),
        (lambda: LogSquare(0.0), "scale = 0.0"),
        (lambda: CosineRoot(stop=1.0), "stop = 1.0"),
    ],
)
def test_refuses_bad_hyperparameters(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
