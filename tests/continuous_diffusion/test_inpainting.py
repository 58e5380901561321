"""Inpainting in the Gaussian engine, against the exact conditional law of a mixture."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from benchmarks.guidance import ROUNDS, gaussian_inpainting_distances, plane_mixture
from continuous_diffusion import (
    DDIM,
    Ancestral,
    CosineSchedule,
    GaussianProcess,
    LinearSchedule,
    MixtureDenoiser,
)
from diffusion_core import Inpainting, UniformGrid

from ..devices import ABSENT, fake_tensors

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "guidance.md"


@pytest.fixture(scope="module")
def integrated() -> list[float]:
    """The distances from the conditional law with 1, 2, 5 and 10 rounds of 24 steps."""
    return gaussian_inpainting_distances((1, 2, 5, 10), 24, 401)


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_renoising_continues_the_process(schedule):
    """x_0 -> x_s -> x_t has the moments of x_0 -> x_t; from t to t nothing happens."""
    process = GaussianProcess(schedule)
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.tensor(value, dtype=torch.float64) for value in (0.2, 0.5))
    x_0 = torch.full((200_000, 1), 0.7, dtype=torch.float64)
    x_t = process.renoise(process.sample(x_0, s, generator), s, t, generator)
    alpha, sigma = process.schedule(t)
    assert x_t.mean().item() == pytest.approx(0.7 * alpha.item(), abs=0.01)
    assert x_t.std().item() == pytest.approx(sigma.item(), rel=0.01)
    assert torch.equal(process.renoise(x_t, t, t), x_t)
    many = process.renoise(x_t[:3], s.expand(3), t.expand(3), torch.Generator().manual_seed(1))
    torch.testing.assert_close(many, process.renoise(x_t[:3], s, t, torch.Generator().manual_seed(1)))
    assert process.renoise(x_t.float(), s, t).dtype == torch.float32


def test_resampling_mends_replacement(integrated):
    assert all(after < 0.85 * before for before, after in itertools.pairwise(integrated)), integrated
    cells = next(row for row in DOCUMENTATION.read_text("utf-8").splitlines() if row.startswith("| Gaussian, 64 steps"))
    for rounds, value in zip((1, 2, 5), integrated, strict=False):
        assert value == pytest.approx(float(cells.split("|")[2 + ROUNDS.index(rounds)]), abs=0.02)


def test_runs_agree_with_the_integrated_law(integrated):
    """The shipped sampler's draws: the same distance from the conditional law as by integration."""
    mixture = plane_mixture()
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), mixture)
    sampler = Ancestral(denoiser, UniformGrid(24, t_min=0.02))
    x_0, known = torch.tensor([0.3, 0.0]), torch.tensor([True, False])
    edges = torch.linspace(-2, 2, 41, dtype=torch.float64)
    fine = torch.linspace(-2, 2, 40_001, dtype=torch.float64)
    law = mixture.conditional(x_0, known).log_prob(((fine[1:] + fine[:-1]) / 2)[:, None]).exp().reshape(40, -1).sum(1)
    for rounds, expected in ((1, integrated[0]), (5, integrated[2])):
        drawn = Inpainting(sampler, x_0, known, rounds).sample(10_000, generator=torch.Generator().manual_seed(0))
        assert (drawn[:, 0] == 0.3).all()
        counts = torch.histogram(drawn[:, 1].double(), edges).hist / 10_000
        assert 0.5 * (counts - law / law.sum()).abs().sum().item() == pytest.approx(expected, abs=0.04)


def test_every_chain_has_its_data_and_its_seed(toy_network):
    denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), plane_mixture())
    generator = torch.Generator().manual_seed(0)
    x_0, known = torch.randn(20, 2, generator=generator), torch.rand(20, 2, generator=generator) < 0.5
    for sampler in (DDIM(denoiser, UniformGrid(3)), Ancestral(denoiser, UniformGrid(3), clip=2.0)):
        together = Inpainting(sampler, x_0, known, 2).sample(20, seeds=range(20))
        assert torch.equal(together[known], x_0[known])
        parts = [Inpainting(sampler, x_0[i:j], known[i:j], 2).sample(j - i, seeds=range(i, j)) for i, j in ((0, 3), (3, 20))]
        assert torch.equal(together, torch.cat(parts))
        rubbish = torch.where(known, x_0, torch.nan)
        assert torch.equal(Inpainting(sampler, rubbish, known, 2).sample(20, seeds=range(20)), together)
    # Data in double precision for chains in single precision are data; integers are not.
    assert Inpainting(sampler, x_0[0].double(), known[0]).sample(2).dtype == torch.float32
    with pytest.raises(ValueError, match=r"x has dtype torch\.int64, expected float32 or float64"):
        Inpainting(sampler, x_0[0].long(), known[0]).sample(2)


def test_on_an_absent_accelerator():
    with fake_tensors(), torch.device(ABSENT):
        denoiser = MixtureDenoiser(GaussianProcess(CosineSchedule()), plane_mixture())
        x_0 = torch.zeros(2)
        x = Inpainting(Ancestral(denoiser, UniformGrid(2)), x_0, torch.ones(2, dtype=torch.bool), 2).sample(3)
        assert (x.shape, x.device.type) == ((3, 2), ABSENT)
