"""Schedules equal the published tables, and keep their digits near t = 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from continuous_diffusion import CosineSchedule, GaussianProcess, LinearSchedule, VariancePreserving

PUBLISHED = {  # abar[0], abar[T/2 - 1], abar[T - 1], posterior variance [1], [T - 1]; the clipped log variance [0] is log [1]
    LinearSchedule: (0.9999, 0.0785872429, 4.035830e-05, 5.453188e-05, 1.999998e-02, -9.816725),
    CosineSchedule: (0.9999587158, 0.4938435904, 2.428767e-09, 2.178950e-05, 9.989976e-01, -10.734083),
}


def direct_abar(schedule: type[VariancePreserving], T: int) -> np.ndarray:
    """The table by the loops of the papers, independent of the package."""
    if schedule is LinearSchedule:
        betas = [1000 / T * (1e-4 + (0.02 - 1e-4) * i / (T - 1)) for i in range(T)]
    else:

        def f(t: float) -> float:
            return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - f((i + 1) / T) / f(i / T), 0.999) for i in range(T)]
    return np.cumprod(1 - np.array(betas))


@pytest.mark.parametrize("T", [1000, 4000])
@pytest.mark.parametrize("schedule", [LinearSchedule, CosineSchedule])
def test_equals_the_published_table(schedule, T):
    t = (torch.arange(T, dtype=torch.float64) + 1) / T
    alpha, sigma = schedule(T)(t)
    abar = torch.from_numpy(direct_abar(schedule, T))
    torch.testing.assert_close(alpha.square(), abar, rtol=1e-11, atol=0)
    torch.testing.assert_close(sigma.square(), 1 - abar, rtol=1e-11, atol=0)


@pytest.mark.parametrize("schedule", [LinearSchedule, CosineSchedule])
def test_published_figures(schedule):
    t = torch.tensor([1, 500, 1000], dtype=torch.float64) / 1000
    first, middle, last, var_1, var_last, log_var_0 = PUBLISHED[schedule]
    abar = schedule()(t)[0].square()
    assert abar.tolist() == pytest.approx([first, middle, last], rel=2e-7)
    at_s, at_t = (torch.tensor(times, dtype=torch.float64) / 1000 for times in ([1, 999], [2, 1000]))
    var = GaussianProcess(schedule()).bridge_coefficients(at_s, at_t)[2]
    assert var.tolist() == pytest.approx([var_1, var_last], rel=2e-7)
    assert var[0].log().item() == pytest.approx(log_var_0, abs=1e-6)


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_small_times_keep_their_digits(schedule):
    t = torch.tensor([0.0, 1e-12, 1e-6, 1e-3], dtype=torch.float64)
    alpha, sigma = schedule(t)
    assert alpha[0] == 1
    assert sigma[0] == 0
    rate = -math.log(alpha[3].item() ** 2) * 1000  # log abar is a straight line up to 1/T
    assert sigma[1:3].square().tolist() == pytest.approx([-math.expm1(-rate * u) for u in (1e-12, 1e-6)], rel=1e-9)
    assert schedule.log_snr(t)[0] == math.inf


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule(), LinearSchedule(50)])
def test_shapes_dtypes_and_monotony(schedule):
    t = torch.linspace(0, 1, 777)
    alpha, sigma = schedule(t)
    assert alpha.dtype == sigma.dtype == schedule.log_snr(t).dtype == torch.float32
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(t))
    assert (schedule.log_snr(t.double()).diff() < 0).all()
    scalar = torch.tensor(0.3, dtype=torch.float64)
    assert [value.shape for value in (*schedule(scalar), schedule.log_snr(scalar))] == [torch.Size([])] * 3
    expected = 2 * (schedule(scalar)[0] / schedule(scalar)[1]).log()
    torch.testing.assert_close(schedule.log_snr(scalar), expected)


@pytest.mark.parametrize(
    ("schedule", "T"), [(LinearSchedule, 0), (LinearSchedule, 20), (CosineSchedule, -1), (CosineSchedule, 1.5)]
)
def test_bad_tables(schedule, T):
    with pytest.raises(ValueError, match=f"T = {T}, expected"):
        schedule(T)


def test_schedules_are_values():
    assert LinearSchedule() == LinearSchedule(1000) != LinearSchedule(4000)
    assert len({CosineSchedule(), CosineSchedule(1000)}) == 1
