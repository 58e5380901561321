"""Grids and densities over log-SNR against their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, laplace

from continuous_diffusion import (
    BoundedLogSNRGrid,
    CauchySchedule,
    CosineSchedule,
    LaplaceSchedule,
    LinearSchedule,
    LogSNRGrid,
    LogSNRTimes,
    SigmoidSchedule,
)

from .paths import VarianceExploding

SCHEDULES = [CosineSchedule(), LinearSchedule(), LaplaceSchedule(), CauchySchedule()]


@pytest.mark.parametrize("schedule", [*SCHEDULES, VarianceExploding()])
def test_steps_of_equal_log_snr(schedule):
    grid = LogSNRGrid(12, 0.01, 0.97, schedule)
    times = torch.tensor(grid.times(), dtype=torch.float64)
    log_snr = schedule.log_snr(times)
    torch.testing.assert_close(log_snr.diff(), log_snr.diff().mean().expand(12), rtol=1e-7, atol=0)
    assert (grid.times()[0], grid.times()[-1], len(times)) == (0.97, 0.01, 13)
    assert LogSNRGrid(1, 0.01, 0.97, schedule).times() == [0.97, 0.01]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_grid_for_training_schedules_reaches_both_ends(schedule):
    grid = BoundedLogSNRGrid(50, schedule)
    times = grid.times()
    assert all(t > s for t, s in itertools.pairwise(times))
    alpha, sigma = schedule(torch.tensor(times, dtype=torch.float64))
    assert alpha[0].item() == pytest.approx(math.exp(-4.5), rel=1e-3)
    assert sigma[-1].item() == pytest.approx(math.exp(-4.5), rel=1e-3)
    schedule.check_clean_end(grid.t_min)


def test_a_grid_begins_where_its_schedule_does():
    schedule = SigmoidSchedule(10, -6)
    assert BoundedLogSNRGrid(5, schedule).t_max == 1
    with pytest.raises(ValueError, match=r"log_snr_max = 9\.0: .* < log_snr_max < 8, the log-SNR of SigmoidSchedule"):
        BoundedLogSNRGrid(5, SigmoidSchedule(8, -10))
    with pytest.raises(ValueError, match="expected log_snr_min < log_snr_max < "):
        BoundedLogSNRGrid(5, schedule, -3.0, 3.0)
    with pytest.raises(ValueError, match=r"LaplaceSchedule has log-SNR .* and -inf at t_max = 1\.0, expected finite"):
        BoundedLogSNRGrid(5, LaplaceSchedule(), 9.0, -40.0)


@pytest.mark.parametrize("density", [LaplaceSchedule(b=4.0), CauchySchedule(g=2.0), SigmoidSchedule(15, -25), CosineSchedule()])
def test_the_weight_undoes_the_density(density):
    times = LogSNRTimes(CosineSchedule(), density, 0.01, 0.99)
    t, weight = (part.double() for part in times(100_000, torch.Generator().manual_seed(0)))
    for f, integral in [
        (torch.ones_like, 0.98),
        (torch.square, (0.99**3 - 0.01**3) / 3),
        (torch.sin, math.cos(0.01) - math.cos(0.99)),
    ]:
        assert (weight * f(t)).mean().item() == pytest.approx(integral, rel=1e-4)


def test_a_density_of_a_process_that_does_not_preserve_the_variance():
    t, weight = LogSNRTimes(VarianceExploding(), t_min=0.01)(100_000, torch.Generator().manual_seed(0))
    assert (weight.double() * t.double().square()).mean().item() == pytest.approx((1 - 0.01**3) / 3, rel=1e-4)


def test_log_snr_has_the_density():
    times = LogSNRTimes(CosineSchedule(), LaplaceSchedule(0.5, 1.0), 0.001, 1.0)
    t, _ = times(2000, torch.Generator().manual_seed(0))
    ends = CosineSchedule().log_snr(torch.tensor([1.0, 0.001], dtype=torch.float64)).numpy()
    low, high = laplace(0.5, 1.0).cdf(ends)

    def law(log_snr: np.ndarray) -> np.ndarray:
        return (laplace(0.5, 1.0).cdf(log_snr) - low) / (high - low)

    assert kstest(CosineSchedule().log_snr(t.double()).numpy(), law).pvalue > 1e-3


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"LaplaceSchedule has log-SNR 1\.9.* at t_min = 0.01 and -inf at t_max = 1"):
        LogSNRGrid(5, 0.01, 1.0, LaplaceSchedule())
    with pytest.raises(
        ValueError, match=r"the density SigmoidSchedule has log-SNR -10 to 10, expected a density that covers -19\.84 to"
    ):
        LogSNRTimes(CosineSchedule(), SigmoidSchedule())
    with pytest.raises(ValueError, match=r"t_min = 0.5, t_max = 0.2: expected 0 <= t_min < t_max <= 1"):
        LogSNRTimes(t_min=0.5, t_max=0.2)
