"""Inpainting in the discrete engine: its exact law, what resampling mends, and per-chain data with seeds."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from benchmarks.guidance import PROCESSES, ROUNDS, Chains, class_laws, inpainting_distance
from diffusion_core import ConstantScale, Inpainting, QuadraticGrid, UniformGrid
from discrete_diffusion import LeaveOneOutDenoiser
from discrete_diffusion.guidance import PosteriorGuidance
from discrete_diffusion.samplers import Ancestral, CategoricalLeap, Euler, ForwardBackward, PredictorCorrector, TauLeaping

from ..devices import ABSENT, fake_tensors

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "guidance.md"
CHAINS = ["uniform", "absorbing", "birth_death", "gaussian_target", "non_reversible"]


@pytest.mark.parametrize("values", [2, 4])
@pytest.mark.parametrize("name", CHAINS)
def test_renoising_continues_the_process(name, values, process):
    """`x_t ~ P_{s -> t}[x_s, .]`, for one time and for a time an example; from every state, the mask too."""
    chain = process(name, values)
    n, draws = chain.rates.num_states, 4000
    s, t = (torch.tensor(value, dtype=torch.float64) for value in (0.2, 0.6))
    expected = chain.rates.transition_from(torch.arange(n)[None], chain.tau(t) - chain.tau(s))[0]
    x_s = torch.arange(n)[:, None].expand(n, draws)
    for times in ((s, t), (s.expand(n), t.expand(n))):
        x_t = chain.renoise(x_s, *times, torch.Generator().manual_seed(0))
        for drawn, law in zip(x_t, expected, strict=True):
            counts = torch.bincount(drawn, minlength=n)
            assert counts[law < 1e-12].sum() == 0
            if (law > 1e-12).sum() > 1:
                kept = law[law > 1e-12]
                assert chisquare(counts[law > 1e-12].numpy(), (kept / kept.sum() * draws).numpy()).pvalue > 1e-4
    assert torch.equal(chain.renoise(x_s, t, t), x_s)
    with pytest.raises(ValueError, match="tau_s"):
        chain.renoise(x_s, t, s)


@pytest.mark.parametrize(("n", "resample"), [(2, 3), (4, 1), (4, 3)])
@pytest.mark.parametrize("name", CHAINS)
def test_runs_agree_with_the_exact_law(name, n, resample, chain, exact):
    oracle = chain(name, n)
    grid = QuadraticGrid(3, t_min=0.05, t_max=0.95)
    denoiser = exact(oracle)
    for sampler in (
        Ancestral(denoiser, grid),
        PredictorCorrector(Euler(denoiser, grid), ForwardBackward(denoiser, leap=CategoricalLeap())),
    ):
        inpainting = Inpainting(sampler, torch.tensor([1, 0]), torch.tensor([True, False]), resample)
        x_0 = inpainting.sample(10_000, generator=torch.Generator().manual_seed(3))
        assert (x_0[:, 0] == 1).all()
        law = oracle.inpainting_law(inpainting, sampler)
        assert law.sum().item() == pytest.approx(1, abs=1e-6)
        counts = torch.bincount(x_0[:, 1], minlength=n)
        assert chisquare(counts.numpy(), (law.reshape(n, n)[1] / law.sum() * 10_000).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", PROCESSES)
def test_resampling_mends_replacement(name):
    """Replacement is biased whatever the number of steps; rounds bring the law to the conditional one."""
    few, many = (inpainting_distance(name, 1, steps) for steps in (32, 64))
    assert min(few, many) > 0.1
    assert abs(few - many) < 0.2 * many
    distances = [inpainting_distance(name, rounds, 32) for rounds in (1, 2, 5, 10)]
    assert all(after < 0.75 * before for before, after in itertools.pairwise(distances)), distances


@pytest.mark.parametrize("name", PROCESSES)
def test_documented_distances_are_those_of_the_benchmark(name):
    rows = (line.split("|") for line in DOCUMENTATION.read_text("utf-8").splitlines() if line.startswith(f"| {name}, 64 steps"))
    (cells,) = rows
    for rounds in (1, 5):
        assert inpainting_distance(name, rounds) == pytest.approx(float(cells[2 + ROUNDS.index(rounds)]), abs=1e-4)


def test_every_chain_has_its_data_and_its_seed(chain, exact):
    """Data and masks of each chain follow it through sub-batches; a sample does not depend on its batch."""
    oracle = chain("gaussian_target", dimensions=3)
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randint(0, 4, (20, 3), generator=generator)
    known = torch.rand(20, 3, generator=generator) < 0.5
    sampler = TauLeaping(exact(oracle), UniformGrid(4), leap=CategoricalLeap())
    together = Inpainting(sampler, x_0, known, 2).sample(20, seeds=range(20))
    assert torch.equal(together[known], x_0[known])
    parts = [Inpainting(sampler, x_0[i:j], known[i:j], 2).sample(j - i, seeds=range(i, j)) for i, j in ((0, 3), (3, 20))]
    assert torch.equal(together, torch.cat(parts))
    # What is not known may hold anything, even what is no data.
    rubbish = torch.where(known, x_0, -7)
    assert torch.equal(Inpainting(sampler, rubbish, known, 2).sample(20, seeds=range(20)), together)
    # One x_0 with a mask for each chain, one mask for each x_0, and one of both.
    for data, mask in ((x_0[0], known), (x_0, known[0]), (x_0[0], known[0]), (x_0, torch.tensor(True))):
        drawn = Inpainting(sampler, data, mask).sample(20, seeds=range(20))
        assert torch.equal(drawn[mask.expand(20, 3)], data.expand(20, 3)[mask.expand(20, 3)])


def test_a_run_tells_what_it_cost(chain, exact):
    oracle = chain("uniform")
    sampler = Ancestral(exact(oracle), UniformGrid(3, t_max=0.9))
    inpainting = Inpainting(sampler, torch.tensor([1, 2]), torch.tensor([True, False]), 4)
    states = list(inpainting.trajectory(50, generator=torch.Generator().manual_seed(0)))
    assert [state.nfe for state in states] == [0, 4, 8, 12, 13]
    assert [state.t for state in states] == [*sampler.grid.times(), 0.0]
    assert all(torch.equal(state.memory[0][:, 0], torch.ones(50, dtype=torch.int64)) for state in states)
    # Known dimensions are noisy on the way: as noisy as the process makes them.
    kept = [(state.x[:, 0] == 1).double().mean().item() for state in states]
    assert kept[0] < 0.6
    assert kept[-1] == 1.0


def test_guided_inpainting():
    chains = Chains(PROCESSES["Gaussian target"](), class_laws())
    sampler = Ancestral(PosteriorGuidance(chains.denoiser(), ConstantScale(1.0), {"y": 2}), QuadraticGrid(48, t_min=1e-3))
    inpainting = Inpainting(sampler, torch.tensor([2, 0]), torch.tensor([True, False]), 10)
    law = chains.mean.inpainting_law(inpainting, sampler, y=1).reshape(4, 4)
    target = class_laws()[1].reshape(4, 4)[2]
    assert law[2].sum().item() == pytest.approx(1, abs=1e-6)
    assert 0.5 * (law[2] - target / target.sum()).abs().sum() < 0.1
    x_0 = inpainting.sample(5, seeds=range(5), y=torch.ones(5, dtype=torch.int64))
    assert (x_0[:, 0] == 2).all()


def test_on_an_absent_accelerator(process):
    with fake_tensors(), torch.device(ABSENT):
        table = torch.zeros(4, 4)
        denoiser = LeaveOneOutDenoiser(process("gaussian_target", 4), lambda x, t, **cond: table[x], (1, 4, 4))
        x_0 = torch.zeros(1, 4, 4, dtype=torch.int64)
        inpainting = Inpainting(Ancestral(denoiser, UniformGrid(2)), x_0, x_0 == 0, 2)
        with torch.no_grad():
            state = inpainting.finish(inpainting.step(inpainting.start(3), *torch.tensor([0.5, 0.4], dtype=torch.float64)))
        assert (state.x.device.type, state.x.shape) == (ABSENT, (3, 1, 4, 4))


def test_bad_arguments_are_named(chain, exact):
    sampler = Ancestral(exact(chain("uniform")), UniformGrid(2))
    x_0, known = torch.tensor([1, 2]), torch.tensor([True, False])
    for arguments, message in (
        ((torch.zeros(3, dtype=torch.int64), known), r"x_0 has shape \(3,\), expected \(2\) or \(B, 2\)"),
        ((x_0, known.long()), r"known has dtype torch\.int64, expected torch\.bool"),
        ((x_0, torch.ones(3, dtype=torch.bool)), r"known has shape \(3,\), expected \(2\) or \(B, 2\)"),
        ((x_0.expand(4, 2), known.expand(3, 2)), r"known has shape \(3, 2\)"),
        ((x_0, known.expand(1, 1, 2)), r"known has shape \(1, 1, 2\)"),
        ((x_0, known, 0), "resample = 0, expected an integer of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Inpainting(sampler, *arguments)
    with pytest.raises(ValueError, match="x_0 has 4 examples for 3 samples, expected 1 or 3"):
        Inpainting(sampler, x_0.expand(4, 2), known).sample(3)
    with pytest.raises(ValueError, match=r"x_0 has dtype torch\.float32, expected an integer dtype"):
        Inpainting(sampler, x_0.float(), known).sample(3)
    with pytest.raises(ValueError, match="x_0 has the value 9"):
        Inpainting(sampler, x_0 + 8, known).sample(3)
