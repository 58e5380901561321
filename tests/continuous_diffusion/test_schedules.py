"""Schedules equal the published tables, and keep their digits near t = 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import cauchy, laplace

from continuous_diffusion import (
    CauchySchedule,
    CosineSchedule,
    GaussianProcess,
    LaplaceSchedule,
    LinearSchedule,
    QuadraticSchedule,
    Schedule,
    ShiftedCosineSchedule,
    SigmoidSchedule,
)

PUBLISHED = {  # abar[0], abar[T/2 - 1], abar[T - 1], posterior variance [1], [T - 1]; the clipped log variance [0] is log [1]
    LinearSchedule: (0.9999, 0.0785872429, 4.035830e-05, 5.453188e-05, 1.999998e-02, -9.816725),
    CosineSchedule: (0.9999587158, 0.4938435904, 2.428767e-09, 2.178950e-05, 9.989976e-01, -10.734083),
}


def direct_abar(schedule: type[Schedule], T: int) -> np.ndarray:
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
    ("schedule", "T"),
    [(LinearSchedule, 0), (LinearSchedule, 20), (QuadraticSchedule, 20), (CosineSchedule, -1), (CosineSchedule, 1.5)],
)
def test_bad_tables(schedule, T):
    with pytest.raises(ValueError, match=f"T = {T}, expected"):
        schedule(T)


def test_schedules_are_values():
    assert LinearSchedule() == LinearSchedule(1000) != LinearSchedule(4000)
    assert len({CosineSchedule(), CosineSchedule(1000)}) == 1


# diffusers

PEERS = {LinearSchedule: "linear", QuadraticSchedule: "scaled_linear", CosineSchedule: "squaredcos_cap_v2"}


@pytest.fixture(scope="module")
def diffusers_schedulers():
    return pytest.importorskip("diffusers.schedulers")


@pytest.mark.parametrize("schedule", PEERS)
def test_equals_diffusers(schedule, diffusers_schedulers):
    """Its tables are float32: ours, rounded, are equal to a few units in the last place, and so are their products."""
    peer = diffusers_schedulers.DDPMScheduler(beta_schedule=PEERS[schedule])
    betas = torch.from_numpy(schedule().betas())
    torch.testing.assert_close(betas.float(), peer.betas, rtol=2e-5, atol=0)
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    torch.testing.assert_close(schedule()(t)[0].square(), peer.alphas_cumprod.double(), rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("schedule", PEERS)
def test_variances_equal_those_of_diffusers(schedule, diffusers_schedulers):
    """Its formulas, given our table in float64: 1e-10 for all steps but the first, whose bridge is a point."""
    peer = diffusers_schedulers.DDPMScheduler(beta_schedule=PEERS[schedule])
    peer.betas = torch.from_numpy(schedule().betas())
    peer.alphas = 1 - peer.betas
    peer.alphas_cumprod, peer.one = peer.alphas.cumprod(0), torch.tensor(1.0, dtype=torch.float64)
    process, t = GaussianProcess(schedule()), (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    _, _, small = process.bridge_coefficients(t - 0.001, t)
    large = process.added_variance(t - 0.001, t)
    for name, ours in {"fixed_small": small, "fixed_large": large}.items():
        theirs = torch.stack([peer._get_variance(i, variance_type=name) for i in range(1000)])
        torch.testing.assert_close(ours[1:], theirs[1:], rtol=1e-9, atol=0)
    clipped = torch.cat([small[1:2], small[1:]]).log()
    assert clipped[0].item() == pytest.approx(math.log(peer._get_variance(1, variance_type="fixed_small").item()), rel=1e-9)


# Log-SNR schedules


def at(schedule: Schedule, *times: float) -> list[float]:
    values: list[float] = schedule.log_snr(torch.tensor(times, dtype=torch.float64)).tolist()
    return values


def test_sigmoid_is_a_line():
    assert at(SigmoidSchedule(6.0, -4.0), 0.0, 0.3, 1.0) == pytest.approx([6, 3, -4])
    alpha, _ = SigmoidSchedule()(torch.tensor(0.25, dtype=torch.float64))
    assert alpha.square().item() == pytest.approx(1 / (1 + math.exp(-5)))


@pytest.mark.parametrize("side", [32, 64, 256])
def test_shifted_cosine(side):
    """The published form, and the cosine it comes from where the arc is whole."""
    a, b = math.atan(math.exp(-7.5)), math.atan(math.exp(7.5))
    shift = 2 * math.log(64 / side)
    expected = [-2 * math.log(math.tan(a + t * (b - a))) + shift for t in (0.0, 0.2, 0.9, 1.0)]
    assert at(ShiftedCosineSchedule(side), 0.0, 0.2, 0.9, 1.0) == pytest.approx(expected)
    whole = ShiftedCosineSchedule(side, 60.0, -60.0)
    snr = math.tan(math.pi * 0.3 / 2) ** -2 * (64 / side) ** 2
    assert at(whole, 0.3)[0] == pytest.approx(math.log(snr), abs=1e-9)


def test_laplace():
    assert at(LaplaceSchedule(0.7, 0.5), 0.5) == [0.7]
    for t in (0.001, 0.2, 0.4, 0.6, 0.999):
        expected = 0.7 - 2 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(t - 0.5))
        assert at(LaplaceSchedule(0.7, 2.0), t)[0] == pytest.approx(expected)
    assert at(LaplaceSchedule(), 0.0, 1.0) == [math.inf, -math.inf]
    _, sigma = LaplaceSchedule()(torch.tensor(0.001, dtype=torch.float64))
    assert sigma.item() == pytest.approx(0.2069, abs=1e-4), "the last time of the grid i/1000 is far from clean"


def test_cauchy():
    assert at(CauchySchedule(0.7), 0.5)[0] == pytest.approx(0.7)
    for t in (0.001, 0.2, 0.4, 0.6, 0.999):
        assert at(CauchySchedule(0.7, 2.0), t)[0] == pytest.approx(0.7 + 2 * math.tan(math.pi * (1 - 2 * t) / 2), rel=1e-9)


@pytest.mark.parametrize(
    ("schedule", "law"),
    [(LaplaceSchedule(0.3, 0.8), laplace(0.3, 0.8)), (CauchySchedule(-0.2, 1.5), cauchy(-0.2, 1.5))],
)
def test_uniform_times_are_the_density_they_are_named_after(schedule, law):
    """t is one minus the distribution function of log-SNR."""
    t = torch.linspace(0.001, 0.999, 200, dtype=torch.float64)
    np.testing.assert_allclose(law.sf(schedule.log_snr(t).numpy()), t.numpy(), rtol=1e-9)
    np.testing.assert_allclose(law.pdf(schedule.log_snr(t).numpy()), 1 / schedule.log_snr_rate(t).numpy(), rtol=1e-7)
    extreme = torch.tensor([40.0, -40.0], dtype=torch.float64)
    np.testing.assert_allclose(schedule.time(extreme).numpy(), law.sf(extreme.numpy()), rtol=1e-9)


def test_ends_that_are_not_reached_are_named():
    with pytest.raises(ValueError, match=r"LaplaceSchedule has sigma = 0.207 at t_min = 0.001, expected at most 0.1"):
        LaplaceSchedule().check_clean_end(0.001)
    for schedule in (LinearSchedule(), CosineSchedule(), QuadraticSchedule(), SigmoidSchedule(), ShiftedCosineSchedule()):
        schedule.check_clean_end(0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SigmoidSchedule(1.0, 2.0), "log_snr_min = 2.0, log_snr_max = 1.0: expected log_snr_min < log_snr_max"),
        (lambda: ShiftedCosineSchedule(log_snr_min=-math.inf), "log_snr_min = -inf"),
        (lambda: ShiftedCosineSchedule(0), "side = 0, expected a number above 0"),
        (lambda: LaplaceSchedule(b=-1.0), "b = -1.0, expected a number above 0"),
        (lambda: CauchySchedule(g=0.0), "g = 0.0, expected a number above 0"),
    ],
)
def test_bad_numbers_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
