"""Samplers step for step against the textbook, and their law against the exact one.

Trajectories against diffusers' are in test_against_diffusers.py, where it is installed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import diffusion_core
from continuous_diffusion import (
    DDIM,
    Ancestral,
    BoundedLogSNRGrid,
    CosineSchedule,
    EpsilonDenoiser,
    FixedLarge,
    FixedSmall,
    GaussianMixture,
    GaussianProcess,
    Heun,
    LaplaceSchedule,
    LearnedRange,
    LearnedVarianceDenoiser,
    LinearSchedule,
    MixtureDenoiser,
    Posterior,
    RectifiedSchedule,
    VelocityDenoiser,
)
from diffusion_core import CustomGrid, Process, QuadraticGrid, RespacedGrid, State, UniformGrid

from ..devices import ABSENT, fake_tensors

SCHEDULES = [LinearSchedule(), CosineSchedule()]


def network(x, c, y=None):
    """A nonlinear toy that reads its time."""
    return torch.tanh(1.3 * x + 0.5 * x.flip(-1)) * (0.6 + 0.4 * c[:, None])


def network_3d(x, c):
    """The toy with a channel axis."""
    return torch.tanh(1.3 * x + 0.5 * x.flip(-1)) * (0.6 + 0.4 * c[:, None, None])


def published_abar(schedule):
    """The DDPM and improved-DDPM tables, written out again."""
    i = np.arange(1000)
    if isinstance(schedule, LinearSchedule):
        return np.cumprod(1 - (1e-4 + (0.02 - 1e-4) * i / 999))
    f = np.cos(((np.arange(1001) / 1000) + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


def textbook_ddpm(schedule, x, calls, large, clip, generator):
    """Algorithm 2 of Ho et al. on a respaced table, index by index; the posterior-mean form where x_0 is clipped."""
    indices = np.arange(1000 // calls - 1, 1000, 1000 // calls)
    abar = published_abar(schedule)[indices]
    for n in range(calls - 1, -1, -1):
        previous = abar[n - 1] if n > 0 else 1.0
        beta = 1 - abar[n] / previous
        epsilon = network(x, torch.full((len(x),), (indices[n] + 1) / 1000, dtype=torch.float64))
        if clip is None:
            x_next = (x - beta / np.sqrt(1 - abar[n]) * epsilon) / np.sqrt(1 - beta)
        else:
            x_0 = ((x - np.sqrt(1 - abar[n]) * epsilon) / np.sqrt(abar[n])).clamp(-clip, clip)
            x_next = np.sqrt(previous) * beta / (1 - abar[n]) * x_0
            x_next = x_next + np.sqrt(1 - beta) * (1 - previous) / (1 - abar[n]) * x
        if n > 0:
            var = beta if large else beta * (1 - previous) / (1 - abar[n])
            x_next = x_next + np.sqrt(var) * torch.randn(*x.shape, generator=generator, dtype=torch.float64)
        x = x_next
    return x


def textbook_ddim(schedule, x, calls, eta, clip, generator):
    """Equations 12 and 16 of Song et al., with x_0 clipped and the noise recomputed."""
    indices = np.arange(1000 // calls - 1, 1000, 1000 // calls)
    abar = published_abar(schedule)[indices]
    for n in range(calls - 1, -1, -1):
        previous = abar[n - 1] if n > 0 else 1.0
        epsilon = network(x, torch.full((len(x),), (indices[n] + 1) / 1000, dtype=torch.float64))
        x_0 = (x - np.sqrt(1 - abar[n]) * epsilon) / np.sqrt(abar[n])
        if clip is not None:
            x_0 = x_0.clamp(-clip, clip)
            epsilon = (x - np.sqrt(abar[n]) * x_0) / np.sqrt(1 - abar[n])
        std = eta * np.sqrt((1 - previous) / (1 - abar[n])) * np.sqrt(1 - abar[n] / previous)
        x = np.sqrt(previous) * x_0 + np.sqrt(1 - previous - std**2) * epsilon
        if std > 0:
            x = x + std * torch.randn(*x.shape, generator=generator, dtype=torch.float64)
    return x


def published_grid(calls):
    """The grid on which `calls` network calls, the last one included, walk through the table."""
    return UniformGrid(calls - 1, t_min=1 / calls)


@pytest.mark.parametrize("schedule", SCHEDULES)
class TestTextbook:
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def close(self, sampler, expected):
        actual = sampler.sample(self.x, generator=torch.Generator().manual_seed(7))
        torch.testing.assert_close(actual, expected(torch.Generator().manual_seed(7)), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("calls", "clip"), [(50, None), (50, 1.0), (1000, 1.0)])
    @pytest.mark.parametrize("variance", [FixedSmall(), FixedLarge()])
    def test_ancestral(self, schedule, calls, variance, clip):
        denoiser = EpsilonDenoiser(GaussianProcess(schedule), network, (4,))
        large = isinstance(variance, FixedLarge)
        sampler = Ancestral(denoiser, published_grid(calls), variance=variance, clip=clip)
        self.close(sampler, lambda g: textbook_ddpm(schedule, self.x, calls, large, clip, g))

    @pytest.mark.parametrize("clip", [None, 1.0])
    @pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("calls", [10, 50])
    def test_ddim(self, schedule, calls, eta, clip):
        denoiser = EpsilonDenoiser(GaussianProcess(schedule), network, (4,))
        sampler = DDIM(denoiser, published_grid(calls), eta=eta, clip=clip)
        self.close(sampler, lambda g: textbook_ddim(schedule, self.x, calls, eta, clip, g))

    def test_eta_1_is_ancestral(self, schedule):
        denoiser = EpsilonDenoiser(GaussianProcess(schedule), network, (4,))
        grid = QuadraticGrid(25, t_min=0.003)
        for clip in (None, 0.9):
            samplers = DDIM(denoiser, grid, eta=1.0, clip=clip), Ancestral(denoiser, grid, clip=clip)
            one, other = (sampler.sample(self.x, generator=torch.Generator().manual_seed(0)) for sampler in samplers)
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("clip", [None, 1.0])
    def test_heun(self, schedule, clip):
        """Against the trapezoidal rule on the velocity beyond the turning, written with the angle."""
        denoiser = EpsilonDenoiser(GaussianProcess(schedule), network, (4,))
        grid = UniformGrid(8, t_min=0.02)

        def prediction(x, t):
            alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
            x_0 = denoiser(x, torch.tensor(t, dtype=torch.float64)).mean
            x_0 = x_0 if clip is None else x_0.clamp(-clip, clip)
            return x_0, (x - alpha * x_0) / sigma, torch.atan2(sigma, alpha)

        x = self.x
        for t, s in pairwise(grid.times()):
            x_0, epsilon, phi_t = prediction(x, t)
            alpha_s, sigma_s = schedule(torch.tensor(s, dtype=torch.float64))
            there = alpha_s * x_0 + sigma_s * epsilon
            x_1, epsilon_1, phi_s = prediction(there, s)
            beyond = (alpha_s * epsilon_1 - sigma_s * x_1) - (alpha_s * epsilon - sigma_s * x_0)
            x = there - (phi_t - phi_s) * beyond / 2
        self.close(Heun(denoiser, grid, clip=clip), lambda generator: prediction(x, grid.t_min)[0])

    @pytest.mark.parametrize("eta", [0.3, 1.0])
    def test_learned_variance(self, schedule, eta, constant_noise):
        """v = 0 is the small variance, 1 the large one, what is between them by its formula; DDIM takes the noise alone."""
        grid, process = QuadraticGrid(6, t_min=0.01), GaussianProcess(schedule)

        def learned(out):
            return LearnedVarianceDenoiser(
                EpsilonDenoiser(process, lambda x, c, **cond: torch.cat([network_3d(x, c), torch.full_like(x, out)], 1), (2, 4))
            )

        x = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        for make in (lambda d, v: Ancestral(d, grid, variance=v), lambda d, v: DDIM(d, grid, eta=eta, variance=v)):
            for out, variance in ((-1.0, FixedSmall()), (1.0, FixedLarge())):
                one, other = (
                    make(learned(out), v).sample(x, generator=torch.Generator().manual_seed(0))
                    for v in (LearnedRange(), variance)
                )
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        t, s = torch.tensor(grid.times()[2:4], dtype=torch.float64)
        (beta, small), state = (
            (process.added_variance(s, t), process.bridge_coefficients(s, t)[2]),
            DDIM(learned(0), grid).start(x),
        )
        sampler = DDIM(learned(0.4), grid, eta=eta, variance=LearnedRange())
        still, moved = (sampler.step(replace(state, randomness=constant_noise(z)), t, s).x for z in (0.0, 1.0))
        expected = eta * torch.exp((0.7 * beta.log() + 0.3 * small.log()) / 2)
        torch.testing.assert_close(moved - still, expected.expand(3, 2, 4))

    def test_single_precision(self, schedule):
        """The same trajectory in float32 stays within float32's reach of the float64 one."""
        denoiser = EpsilonDenoiser(GaussianProcess(schedule), network, (4,))
        sampler = DDIM(denoiser, published_grid(20), clip=1.0)
        single = sampler.sample(self.x.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), sampler.sample(self.x), rtol=1e-4, atol=1e-4)


def exact_laws(sampler, mean, var, constant_noise):
    """The Gaussian laws of x at t_min and of x_0 under a sampler whose denoiser is linear: every step is affine in x_t and z.

    The step itself is probed: at x = 0 and 1 without noise, and at x = 0 with z = 1.
    """
    x, noise = torch.tensor([[[0.0], [1.0], [0.0]], [[0.0], [0.0], [1.0]]], dtype=torch.float64)
    times = torch.tensor(sampler.grid.times(), dtype=torch.float64)
    for t, s in zip(times, [*times[1:], None], strict=True):
        state, before = State(x, t, constant_noise(noise)), (mean, var)
        still, one, moved = (sampler.finish(state) if s is None else sampler.step(state, t, s)).x.flatten().tolist()
        mean, var = (one - still) * mean + still, (one - still) ** 2 * var + (moved - still) ** 2
    return before, (mean, var)


def total_variation(mean, var, other_mean, other_var):
    """Between two normal laws, by quadrature."""
    x = np.linspace(-6, 6, 60_001)
    p, q = (np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v) for m, v in ((mean, var), (other_mean, other_var)))
    return np.abs(p - q).sum() * (x[1] - x[0]) / 2


SAMPLERS = {
    "small": lambda denoiser, grid: Ancestral(denoiser, grid),
    "large": lambda denoiser, grid: Ancestral(denoiser, grid, variance=FixedLarge()),
    "eta 0": lambda denoiser, grid: DDIM(denoiser, grid),
    "eta 0.5": lambda denoiser, grid: DDIM(denoiser, grid, eta=0.5),
    "eta 1": lambda denoiser, grid: DDIM(denoiser, grid, eta=1.0),
    "heun": lambda denoiser, grid: Heun(denoiser, grid),
}
ORDERS = {name: 2 if name == "heun" else 1 for name in SAMPLERS}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_order_on_a_gaussian(schedule, name, constant_noise):
    """From the exact q_1 to t_min, against the exact marginal there; Euler's method halves its error, Heun's quarters it."""
    mean, var = 0.375, 0.09375  # exact in single precision
    mixture = GaussianMixture(torch.ones(1), torch.tensor([[mean]]), torch.tensor([var]))
    denoiser = MixtureDenoiser(GaussianProcess(schedule), mixture)
    (start_mean, start_var), target = (
        ((alpha * mean).item(), (alpha**2 * var + sigma**2).item())
        for alpha, sigma in (schedule(torch.tensor(t, dtype=torch.float64)) for t in (1.0, 1e-3))
    )
    distances = []
    for steps in (64, 128, 256):
        sampler = SAMPLERS[name](denoiser, QuadraticGrid(steps, t_min=1e-3))
        noisy, clean = exact_laws(sampler, start_mean, start_var, constant_noise)
        distances.append(total_variation(*noisy, *target))
    slopes = [math.log2(one / two) for one, two in pairwise(distances)]
    assert all(ORDERS[name] - 0.15 < slope < ORDERS[name] + 0.15 for slope in slopes), (distances, slopes)
    assert distances[-1] < (0.02 if ORDERS[name] == 1 else 2e-4)
    assert total_variation(*clean, mean, var) < 0.02


def test_monte_carlo_follows_the_exact_law(constant_noise):
    mean, var, n = 0.4, 0.09, 20_000
    mixture = GaussianMixture(torch.ones(1), torch.tensor([[mean]]), torch.tensor([var]))
    for sampler_of in SAMPLERS.values():
        sampler = sampler_of(MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture), UniformGrid(8))
        x = sampler.sample(n, generator=torch.Generator().manual_seed(0))
        _, (expected_mean, expected_var) = exact_laws(sampler, 0.0, 1.0, constant_noise)
        assert x.mean().item() == pytest.approx(expected_mean, abs=4 * math.sqrt(expected_var / n))
        assert x.var().item() == pytest.approx(expected_var, rel=4 * math.sqrt(2 / n))


def mixture_density(denoiser, x, t):
    return denoiser.log_prob(x, torch.tensor(t, dtype=torch.float64)).exp()


def test_ancestral_is_first_order_on_a_mixture(mixture_1d, constant_noise):
    """The density at t_min by quadrature of the shipped step's kernel, started from the exact q_1."""
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture_1d)
    x = torch.linspace(-5, 5, 401, dtype=torch.float64)[:, None]
    width = (x[1] - x[0]).item()
    distances = []
    for steps in (16, 32, 64):
        sampler = Ancestral(denoiser, UniformGrid(steps, t_min=0.1))
        law = mixture_density(denoiser, x, 1.0)
        for t, s in pairwise(torch.tensor(sampler.grid.times(), dtype=torch.float64)):
            still, moved = (sampler.step(State(x, t, constant_noise(z)), t, s).x for z in (0.0, 1.0))
            std = (moved - still)[0].item()
            kernel = torch.exp(-(((x.T - still) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))  # (from, to)
            law = law @ kernel * width
        distances.append(((law - mixture_density(denoiser, x, 0.1)).abs().sum() * width / 2).item())
        assert law.sum().item() * width == pytest.approx(1, abs=1e-4)
    slopes = [math.log2(one / two) for one, two in pairwise(distances)]
    assert all(0.8 < slope < 1.2 for slope in slopes), (distances, slopes)


@pytest.mark.parametrize(("sampler", "order"), [(DDIM, 1), (Heun, 2)])
def test_order_of_deterministic_maps_on_a_mixture(sampler, order, mixture_1d):
    """Deterministic samplers are monotone maps of the line: the mass between two points of q_1 arrives between their images."""
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture_1d)
    x = torch.linspace(-6, 6, 1201, dtype=torch.float64)[:, None]

    def cdf(at, t):
        alpha, sigma = denoiser.process.schedule(torch.tensor(t, dtype=torch.float64))
        std = (alpha**2 * mixture_1d.variances + sigma**2).sqrt().T  # (1, K)
        return (torch.special.ndtr((at - alpha * mixture_1d.means.T) / std) * mixture_1d.weights).sum(1)

    distances = []
    for steps in (32, 64, 128):
        *_, before, _ = sampler(denoiser, UniformGrid(steps, t_min=0.01)).trajectory(x)
        assert (before.x.diff(dim=0) > 0).all()
        distances.append(((cdf(x, 1.0) - cdf(before.x, 0.01)).diff().abs().sum() / 2).item())
    slopes = [math.log2(one / two) for one, two in pairwise(distances)]
    assert all(order - 0.2 < slope < order + 0.2 for slope in slopes), (distances, slopes)


class NormalDenoiser(diffusion_core.Denoiser):
    """The exact posterior of x_0 ~ N(mean, var)."""

    mean, var = 0.4, 0.3

    def forward(self, x_t, t):
        alpha, sigma = self.process.schedule(t)
        total = alpha**2 * self.var + sigma**2
        mean = self.mean + alpha * self.var / total * (x_t - alpha * self.mean)
        return Posterior(self.process, t, mean, (x_t - alpha * mean) / sigma, self.var * sigma**2 / total)


@pytest.mark.parametrize(("sampler", "order"), [(DDIM, 1), (Heun, 2)])
def test_order_of_deterministic_maps_where_the_variance_is_not_kept(sampler, order):
    """Normal data on the rectified path, from alpha_1 = 0 on: the exact map keeps the distance to the mean in deviations."""
    denoiser = NormalDenoiser(GaussianProcess(RectifiedSchedule()), (1,))
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    expected = (1 - 0.05) * denoiser.mean + math.sqrt(0.95**2 * denoiser.var + 0.05**2) * x
    errors = []
    for steps in (16, 32, 64, 128):
        *_, before, _ = sampler(denoiser, UniformGrid(steps, t_min=0.05)).trajectory(x)
        errors.append((before.x - expected).abs().max().item())
    slopes = [math.log2(one / two) for one, two in pairwise(errors)]
    assert all(order - 0.2 < slope < order + 0.2 for slope in slopes), (errors, slopes)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_was_encoded_is_decoded(schedule):
    """The error of encoding and decoding falls at first order, and the codes are distributed as noise."""
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([[-0.6, 0.2], [0.5, -0.1], [0.1, 0.7]], dtype=torch.float64)
    mixture = GaussianMixture(torch.tensor([0.3, 0.5, 0.2]), means, torch.tensor([0.04, 0.02, 0.09]))
    denoiser, x_0 = MixtureDenoiser(GaussianProcess(schedule), mixture), mixture.sample(2000, generator)
    errors = []
    for steps in (32, 64, 128):
        sampler = DDIM(denoiser, QuadraticGrid(steps, t_min=1e-3))
        codes = sampler.encode(x_0)
        errors.append((sampler.sample(codes) - x_0).abs().mean().item())
    slopes = [math.log2(one / two) for one, two in pairwise(errors)]
    assert all(0.8 < slope < 1.2 for slope in slopes), (errors, slopes)
    assert errors[-1] < 0.01
    assert codes.mean(0).abs().max() < 0.1
    torch.testing.assert_close(codes.T.cov(), torch.eye(2, dtype=torch.float64), atol=0.15, rtol=0)


def test_encoding_reads_labels_clips_and_refuses_noise(toy_network):
    denoiser = EpsilonDenoiser(GaussianProcess(CosineSchedule()), toy_network(), (1, 8, 8))
    x_0, labels = torch.rand(2, 1, 8, 8) * 2 - 1, torch.tensor([0, 3])
    sampler = DDIM(denoiser, UniformGrid(10), clip=1.0)
    assert not torch.equal(sampler.encode(x_0, y=labels), sampler.encode(x_0, y=labels.flip(0)))
    assert not sampler.encode(x_0).requires_grad
    with pytest.raises(ValueError, match=r"y has shape \(1,\), expected 2 rows"):
        sampler.encode(x_0, y=labels[:1])
    with pytest.raises(ValueError, match=r"eta = 0.5, expected 0 to encode"):
        DDIM(denoiser, UniformGrid(10), eta=0.5).encode(x_0)
    with pytest.raises(ValueError, match=r"x has shape \(2, 1, 8, 7\), expected \(B, 1, 8, 8\)"):
        sampler.encode(x_0[..., :7])


def twice(network):
    """A network with twice the channels, for a learned variance."""
    return lambda x, c, **cond: torch.cat([network(x, c, **cond), network(-x, c, **cond).tanh()], 1)


def test_seeds_do_not_depend_on_the_batch(toy_network):
    denoiser = EpsilonDenoiser(GaussianProcess(CosineSchedule()), toy_network(), (1, 8, 8))
    labels = torch.arange(64) % 4
    learned = LearnedVarianceDenoiser(EpsilonDenoiser(denoiser.process, twice(toy_network()), (1, 8, 8)))
    grid = UniformGrid(4)
    for sampler in (
        Ancestral(denoiser, grid, clip=1.0),
        Ancestral(learned, grid, variance=LearnedRange()),
        DDIM(denoiser, grid, eta=0.5),
        Heun(denoiser, grid),
    ):
        whole = sampler.sample(64, seeds=range(64), y=labels)
        for edges in ([0, 16, 32, 48, 64], [0, 7, 64]):
            parts = [sampler.sample(b - a, seeds=range(a, b), y=labels[a:b]) for a, b in pairwise(edges)]
            assert torch.equal(whole, torch.cat(parts))


def test_trajectory_and_counters(toy_network):
    denoiser = EpsilonDenoiser(GaussianProcess(CosineSchedule()), toy_network(), (1, 8, 8))
    states = list(DDIM(denoiser, UniformGrid(5, t_min=0.1), clip=0.8).trajectory(3, generator=torch.Generator().manual_seed(0)))
    assert [state.t.item() for state in states] == pytest.approx([1, 0.82, 0.64, 0.46, 0.28, 0.1, 0])
    assert [state.nfe for state in states] == [0, 1, 2, 3, 4, 5, 6]
    assert states[-1].x.abs().max() <= 0.8
    assert [state.nfe for state in Heun(denoiser, UniformGrid(3, t_min=0.1)).trajectory(3)] == [0, 2, 4, 6, 7]
    assert [state.nfe for state in Ancestral(denoiser, RespacedGrid(3, 1000)).trajectory(3)][-1] == 4


@pytest.mark.parametrize("grid", [CustomGrid([1.0, 0.7, 0.2, 0.05]), RespacedGrid(3, 100), UniformGrid(2), QuadraticGrid(2)])
def test_grids_and_state_are_left_alone(grid, toy_network):
    """A step returns new tensors: neither the state nor what the network returned is written to."""
    output = torch.randn(3, 1, 8, 8)
    denoiser = VelocityDenoiser(GaussianProcess(CosineSchedule()), lambda x, c, **cond: output, (1, 8, 8))
    for sampler in (Ancestral(denoiser, grid), DDIM(denoiser, grid, eta=1.0, clip=1.0), Heun(denoiser, grid)):
        before, kept = output.clone(), []
        for state in sampler.trajectory(3, generator=torch.Generator().manual_seed(0)):
            kept.append((state.x, state.x.clone()))
        assert torch.equal(output, before)
        assert all(torch.equal(x, copy) for x, copy in kept)
        assert len(kept) == grid.steps + 2


def test_a_step_off_the_grid(mixture_1d):
    """Any two times make a step, whatever the grid."""
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture_1d)
    fine, coarse = (DDIM(denoiser, UniformGrid(steps, t_min=0.1)) for steps in (9, 1))
    state = fine.start(torch.randn(4, 1))
    times = torch.tensor(fine.grid.times()[:2], dtype=torch.float64)
    assert torch.equal(fine.step(state, *times).x, coarse.step(state, *times).x)


def test_learned_range_on_an_absent_device(toy_network):
    with fake_tensors(), torch.device(ABSENT):
        double = twice(type(toy_network())())
        denoiser = LearnedVarianceDenoiser(EpsilonDenoiser(GaussianProcess(CosineSchedule()), double, (1, 6, 6)))
        for sampler in (
            Ancestral(denoiser, UniformGrid(2), variance=LearnedRange()),
            DDIM(denoiser, UniformGrid(2), eta=1.0, variance=LearnedRange()),
        ):
            assert sampler.sample(2).device.type == ABSENT
        assert DDIM(denoiser, UniformGrid(2)).encode(torch.zeros(2, 1, 6, 6)).device.type == ABSENT


class TestBadInput:
    @pytest.fixture
    def denoiser(self, mixture_1d):
        return MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture_1d)

    @pytest.mark.parametrize("eta", [-0.1, 1.01, float("nan")])
    def test_eta(self, denoiser, eta):
        with pytest.raises(ValueError, match=rf"eta = {eta}, expected a number in \[0, 1\]"):
            DDIM(denoiser, UniformGrid(4), eta=eta)

    @pytest.mark.parametrize("sampler", [DDIM, Ancestral])
    def test_grid_and_clip(self, denoiser, sampler):
        with pytest.raises(ValueError, match=r"t_min = 0.0, expected t_min > 0"):
            sampler(denoiser, UniformGrid(4, t_min=0.0))
        with pytest.raises(ValueError, match=r"clip = -1.0, expected a number above 0"):
            sampler(denoiser, UniformGrid(4), clip=-1.0)

    def test_direction(self, denoiser):
        sampler = DDIM(denoiser, UniformGrid(4))
        with pytest.raises(ValueError, match=r"a step from t = 0.5 to s = 0.6, expected 0 <= s < t <= 1"):
            sampler.step(sampler.start(2), *torch.tensor([0.5, 0.6], dtype=torch.float64))

    def test_learned_variance_needs_a_denoiser_that_has_one(self, denoiser):
        message = (
            "LearnedRange needs a denoiser with a learned variance, such as LearnedVarianceDenoiser; MixtureDenoiser has none"
        )
        for make in (
            lambda v: Ancestral(denoiser, UniformGrid(4), variance=v),
            lambda v: DDIM(denoiser, UniformGrid(4), eta=1.0, variance=v),
        ):
            with pytest.raises(ValueError, match=message):
                make(LearnedRange())

    def test_unreached_ends(self, mixture_1d):
        """A schedule for training on an even grid, a grid that begins too late; both are fine where the ends are reached."""
        schedule = LaplaceSchedule()
        denoiser = MixtureDenoiser(GaussianProcess(schedule), mixture_1d)
        with pytest.raises(ValueError, match=r"LaplaceSchedule has sigma = 0.207 at t_min = 0.001, expected at most 0.1"):
            DDIM(denoiser, UniformGrid(998, t_min=1e-3, t_max=0.999))
        late = Ancestral(denoiser, CustomGrid([0.999, 0.5, 1e-9]))
        with pytest.raises(ValueError, match=r"LaplaceSchedule has .* = 0.207 at t_max = 0.999, expected at most 0.1"):
            late.sample(2)
        assert late.sample(torch.zeros(2, 1)).isfinite().all()
        assert Ancestral(denoiser, BoundedLogSNRGrid(20, schedule)).sample(2).isfinite().all()

    def test_no_step_to_clean_data_for_heun(self, denoiser):
        sampler = Heun(denoiser, UniformGrid(4))
        with pytest.raises(ValueError, match="a step to s = 0, expected s > 0"):
            sampler.step(sampler.start(2), *torch.tensor([0.5, 0.0], dtype=torch.float64))

    def test_zero_steps(self, denoiser):
        for make in (lambda: UniformGrid(0), lambda: RespacedGrid(0), lambda: CustomGrid([1.0])):
            with pytest.raises(ValueError, match=r"steps = 0|at least two"):
                make()

    def test_start(self, denoiser):
        sampler = Ancestral(denoiser, UniformGrid(4))
        with pytest.raises(ValueError, match=r"x has shape \(2, 3\), expected \(B, 1\)"):
            sampler.sample(torch.zeros(2, 3))
        with pytest.raises(ValueError, match=r"dtype torch.int64, expected float32 or float64"):
            sampler.sample(torch.zeros(2, 1, dtype=torch.int64))

    def test_foreign_process(self, denoiser):
        class Other(Process):
            def sample(self, x_0, t, generator=None):
                return x_0

            def renoise(self, x_s, s, t, generator=None):
                return x_s

            def prior(self, shape, generator=None):
                return torch.zeros(*shape)

        denoiser.process = Other()
        with pytest.raises(TypeError, match="process is Other, expected a GaussianProcess"):
            DDIM(denoiser, UniformGrid(4))
