"""Samplers step for step against the textbook, and their law against the exact one."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from continuous_diffusion import (
    DDIM,
    Ancestral,
    CosineSchedule,
    EpsilonDenoiser,
    FixedLarge,
    FixedSmall,
    GaussianMixture,
    GaussianProcess,
    LinearSchedule,
    MixtureDenoiser,
)
from diffusion_core import Process, QuadraticGrid, State, UniformGrid

SCHEDULES = [LinearSchedule(), CosineSchedule()]


def network(x, c, y=None):
    """A nonlinear toy that reads its time."""
    return torch.tanh(1.3 * x + 0.5 * x.flip(-1)) * (0.6 + 0.4 * c[:, None])


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

    @pytest.mark.parametrize("clip", [None, 1.0])
    @pytest.mark.parametrize("variance", [FixedSmall(), FixedLarge()])
    @pytest.mark.parametrize("calls", [50, 1000])
    def test_ancestral(self, schedule, calls, variance, clip):
        denoiser = EpsilonDenoiser(GaussianProcess(schedule), network, (4,))
        large = isinstance(variance, FixedLarge)
        sampler = Ancestral(denoiser, published_grid(calls), variance, clip)
        self.close(sampler, lambda g: textbook_ddpm(schedule, self.x, calls, large, clip, g))

    @pytest.mark.parametrize("clip", [None, 1.0])
    @pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("calls", [10, 50])
    def test_ddim(self, schedule, calls, eta, clip):
        denoiser = EpsilonDenoiser(GaussianProcess(schedule), network, (4,))
        sampler = DDIM(denoiser, published_grid(calls), eta, clip)
        self.close(sampler, lambda g: textbook_ddim(schedule, self.x, calls, eta, clip, g))

    def test_eta_1_is_ancestral(self, schedule):
        denoiser = EpsilonDenoiser(GaussianProcess(schedule), network, (4,))
        grid = QuadraticGrid(25, t_min=0.003)
        for clip in (None, 0.9):
            samplers = DDIM(denoiser, grid, 1.0, clip), Ancestral(denoiser, grid, clip=clip)
            one, other = (sampler.sample(self.x, generator=torch.Generator().manual_seed(0)) for sampler in samplers)
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

    def test_single_precision(self, schedule):
        """The same trajectory in float32 stays within float32's reach of the float64 one."""
        denoiser = EpsilonDenoiser(GaussianProcess(schedule), network, (4,))
        sampler = DDIM(denoiser, published_grid(20), clip=1.0)
        single = sampler.sample(self.x.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), sampler.sample(self.x), rtol=1e-4, atol=1e-4)


def exact_law(sampler, mean, var, constant_noise):
    """The Gaussian law of x_0 under a sampler whose denoiser is linear: every step is affine in x_t and z.

    The step itself is probed: at x = 0 and 1 without noise, and at x = 0 with z = 1.
    """
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    none = torch.zeros(2, dtype=torch.int64)
    times = sampler.grid.times()
    for t, s in zip(times, [*times[1:], None], strict=True):
        still, moved = (State(x, t, constant_noise(z), 0, none, none) for z in (0.0, 1.0))
        still, moved = (sampler.finish(v).x if s is None else sampler.step(v, t, s).x for v in (still, moved))
        offset, slope, noise = still[0], still[1] - still[0], moved[0] - still[0]
        mean, var = (slope * mean + offset).item(), (slope**2 * var + noise**2).item()
    return mean, var


def total_variation(mean, var, other_mean, other_var):
    """Between two normal laws, by quadrature."""
    x = np.linspace(-6, 6, 60_001)
    p, q = (np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v) for m, v in ((mean, var), (other_mean, other_var)))
    return np.abs(p - q).sum() * (x[1] - x[0]) / 2


SAMPLERS = {
    "small": lambda denoiser, grid: Ancestral(denoiser, grid),
    "large": lambda denoiser, grid: Ancestral(denoiser, grid, FixedLarge()),
    "eta 0": lambda denoiser, grid: DDIM(denoiser, grid),
    "eta 0.5": lambda denoiser, grid: DDIM(denoiser, grid, 0.5),
    "eta 1": lambda denoiser, grid: DDIM(denoiser, grid, 1.0),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_first_order_on_a_gaussian(schedule, name, constant_noise):
    mean, var = 0.375, 0.09375  # exact in single precision
    mixture = GaussianMixture(torch.ones(1), torch.tensor([[mean]]), torch.tensor([var]))
    denoiser = MixtureDenoiser(GaussianProcess(schedule), mixture)
    alpha, sigma = (value.item() for value in schedule(torch.tensor(1.0, dtype=torch.float64)))
    start = alpha * mean, alpha**2 * var + sigma**2
    distances = []
    for steps in (64, 128, 256):
        sampler = SAMPLERS[name](denoiser, QuadraticGrid(steps, t_min=1e-3))
        distances.append(total_variation(*exact_law(sampler, *start, constant_noise), mean, var))
    slopes = [math.log2(one / two) for one, two in pairwise(distances)]
    assert all(0.85 < slope < 1.15 for slope in slopes), (distances, slopes)
    assert distances[-1] < 0.02


def test_monte_carlo_follows_the_exact_law(constant_noise):
    mean, var, n = 0.4, 0.09, 20_000
    mixture = GaussianMixture(torch.ones(1), torch.tensor([[mean]]), torch.tensor([var]))
    for sampler_of in SAMPLERS.values():
        sampler = sampler_of(MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture), UniformGrid(8))
        x = sampler.sample(n, generator=torch.Generator().manual_seed(0))
        expected_mean, expected_var = exact_law(sampler, 0.0, 1.0, constant_noise)
        assert x.mean().item() == pytest.approx(expected_mean, abs=4 * math.sqrt(expected_var / n))
        assert x.var().item() == pytest.approx(expected_var, rel=4 * math.sqrt(2 / n))


def mixture_density(denoiser, x, t):
    return denoiser.log_prob(x, torch.tensor(t, dtype=torch.float64)).exp()


def test_ancestral_is_first_order_on_a_mixture(mixture_1d, constant_noise):
    """The density at t_min by quadrature of the shipped step's kernel, started from the exact q_1."""
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture_1d)
    x = torch.linspace(-5, 5, 401, dtype=torch.float64)[:, None]
    width, none = (x[1] - x[0]).item(), torch.zeros(401, dtype=torch.int64)
    distances = []
    for steps in (16, 32, 64):
        sampler = Ancestral(denoiser, UniformGrid(steps, t_min=0.1))
        law = mixture_density(denoiser, x, 1.0)
        for t, s in zip(sampler.grid.times(), sampler.grid.times()[1:], strict=False):
            still, moved = (sampler.step(State(x, t, constant_noise(z), 0, none, none), t, s).x for z in (0.0, 1.0))
            std = (moved - still)[0].item()
            kernel = torch.exp(-(((x.T - still) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))  # (from, to)
            law = law @ kernel * width
        distances.append(((law - mixture_density(denoiser, x, 0.1)).abs().sum() * width / 2).item())
        assert law.sum().item() * width == pytest.approx(1, abs=1e-4)
    slopes = [math.log2(one / two) for one, two in pairwise(distances)]
    assert all(0.8 < slope < 1.2 for slope in slopes), (distances, slopes)


def test_ddim_is_first_order_on_a_mixture(mixture_1d):
    """DDIM is a monotone map of the line: the mass between two points of q_1 arrives between their images."""
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture_1d)
    x = torch.linspace(-6, 6, 1201, dtype=torch.float64)[:, None]

    def cdf(at, t):
        alpha, sigma = denoiser.process.schedule(torch.tensor(t, dtype=torch.float64))
        std = (alpha**2 * mixture_1d.variances + sigma**2).sqrt().T  # (1, K)
        return (torch.special.ndtr((at - alpha * mixture_1d.means.T) / std) * mixture_1d.weights).sum(1)

    distances = []
    for steps in (16, 32, 64):
        *_, before, _ = DDIM(denoiser, UniformGrid(steps, t_min=0.01)).trajectory(x)
        assert (before.x.diff(dim=0) > 0).all()
        distances.append(((cdf(x, 1.0) - cdf(before.x, 0.01)).diff().abs().sum() / 2).item())
    slopes = [math.log2(one / two) for one, two in pairwise(distances)]
    assert all(0.8 < slope < 1.2 for slope in slopes), (distances, slopes)


def test_seeds_do_not_depend_on_the_batch(toy_network):
    denoiser = EpsilonDenoiser(GaussianProcess(CosineSchedule()), toy_network(), (1, 8, 8))
    labels = torch.arange(64) % 4
    for sampler in (Ancestral(denoiser, UniformGrid(4), clip=1.0), DDIM(denoiser, UniformGrid(4), 0.5)):
        whole = sampler.sample(64, labels, seeds=range(64))
        for edges in ([0, 16, 32, 48, 64], [0, 7, 64]):
            parts = [sampler.sample(b - a, labels[a:b], seeds=range(a, b)) for a, b in pairwise(edges)]
            assert torch.equal(whole, torch.cat(parts))


def test_trajectory_and_counters(toy_network):
    denoiser = EpsilonDenoiser(GaussianProcess(CosineSchedule()), toy_network(), (1, 8, 8))
    states = list(DDIM(denoiser, UniformGrid(5, t_min=0.1), clip=0.8).trajectory(3, generator=torch.Generator().manual_seed(0)))
    assert [state.t for state in states] == pytest.approx([1, 0.82, 0.64, 0.46, 0.28, 0.1, 0])
    assert [state.network_calls for state in states] == [0, 1, 2, 3, 4, 5, 6]
    assert states[-1].x.abs().max() <= 0.8


class TestBadInput:
    @pytest.fixture
    def denoiser(self, mixture_1d):
        return MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture_1d)

    @pytest.mark.parametrize("eta", [-0.1, 1.01, float("nan")])
    def test_eta(self, denoiser, eta):
        with pytest.raises(ValueError, match=rf"eta = {eta} is outside \[0, 1\]"):
            DDIM(denoiser, UniformGrid(4), eta)

    @pytest.mark.parametrize("sampler", [DDIM, Ancestral])
    def test_grid_and_clip(self, denoiser, sampler):
        with pytest.raises(ValueError, match=r"t_min = 0.0, expected t_min > 0"):
            sampler(denoiser, UniformGrid(4, t_min=0.0))
        with pytest.raises(ValueError, match=r"clip = -1.0, expected a positive bound or None"):
            sampler(denoiser, UniformGrid(4), clip=-1.0)

    def test_direction(self, denoiser):
        sampler = DDIM(denoiser, UniformGrid(4))
        with pytest.raises(ValueError, match=r"a step from t = 0.5 to s = 0.6, expected 0 <= s < t <= 1"):
            sampler.step(sampler.start(2), 0.5, 0.6)

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

            def prior(self, shape, generator=None):
                return torch.zeros(*shape)

        denoiser.process = Other()
        with pytest.raises(TypeError, match="process is Other, expected a GaussianProcess"):
            DDIM(denoiser, UniformGrid(4))
