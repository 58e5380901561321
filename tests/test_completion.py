"""Conditional models: known positions in training, in sampling and in likelihoods, against exact conditional laws."""

from __future__ import annotations

import inspect
import itertools
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from torch import nn

import continuous_diffusion as continuous
from backbones import CategoricalHead, KnownChannels, OrdinalInput, PixelLogits, UNet
from ctdiff.training import fit
from diffusion_core import (
    HalfMask,
    KnownMask,
    Objective,
    PerSampleRandomness,
    PrefixMask,
    RandomPixelsMask,
    RectangleMask,
    State,
    StratifiedTimes,
    UniformGrid,
    UniformTimes,
)
from discrete_diffusion import (
    CTMC,
    ELBO,
    CrossEntropy,
    EnumeratedCTMC,
    LeaveOneOutDenoiser,
    ScoreDenoiser,
    X0Denoiser,
    bits_per_dim,
    samplers,
)
from discrete_diffusion.oracle import total_variation
from discrete_diffusion.rates import AbsorbingRates, BirthDeathRates, UniformRates
from discrete_diffusion.samplers import (
    Ancestral,
    CategoricalLeap,
    Euler,
    ForwardBackward,
    MidpointTauLeaping,
    PredictorCorrector,
    TauLeaping,
)
from discrete_diffusion.schedules import Constant, LinearSurvival

F64 = torch.float64
DOCUMENTATION = Path(__file__).resolve().parents[1] / "docs" / "completion.md"
MASKS = [HalfMask(), HalfMask("random"), RectangleMask(), RandomPixelsMask((0.2, 0.6)), PrefixMask()]


def chain(rates=UniformRates, values=3, dimensions=3, schedule=None):
    law = torch.from_numpy(np.random.default_rng(0).gamma(0.4, size=values**dimensions) + 0.02)
    process = CTMC(rates(values), Constant(4.0) if schedule is None else schedule)
    return EnumeratedCTMC(process, law / law.sum(), dimensions)


def exact_network(oracle):
    """The exact log p(x_0^d | x_t, known values): a known position is clean, so its column is one-hot."""

    def network(x_t, t, known=None):
        columns = oracle._joint_columns(x_t, t)
        if known is not None:
            clean = F.one_hot(x_t.clamp(max=oracle.data_states - 1), oracle.data_states).to(F64)
            columns = [torch.where(known[:, d, None], clean[:, d], column) for d, column in enumerate(columns)]
        joint = oracle._joint(columns)
        laws = torch.stack([oracle._axis_marginal(joint, d) for d in range(oracle.dimensions)], 1)
        return torch.where(laws.sum(-1, keepdim=True) > 0, laws, 1.0).log()

    return network


def exact(oracle):
    return X0Denoiser(oracle.process, exact_network(oracle), (oracle.dimensions,), evidence_floor=0.0)


def conditional(oracle, given, known):
    """p(x_0 | known values) over all clean states."""
    fits = ((oracle.clean == given) | ~known).all(1)
    law = torch.where(fits, oracle.data_law, 0.0)
    return law / law.sum()


SAMPLERS = {
    "ancestral": Ancestral,
    "tau_leaping": lambda denoiser, grid: TauLeaping(denoiser, grid, leap=CategoricalLeap()),
    "euler": Euler,
    "corrected": lambda denoiser, grid: PredictorCorrector(
        Euler(denoiser, grid), ForwardBackward(denoiser, leap=CategoricalLeap()), corrector_steps=2
    ),
}


@pytest.mark.parametrize("rates", [AbsorbingRates, UniformRates])
def test_one_position_after_another_has_the_exact_conditional_law(rates):
    """By the chain rule. One step draws each unknown position from its own conditional law; one of them is kept."""
    oracle = chain(rates, schedule=LinearSurvival())
    sampler = Ancestral(exact(oracle), UniformGrid(1, t_min=1e-9))
    known = torch.tensor([True, False, False])
    second = oracle.completion_law(sampler, torch.tensor([2, 0, 0]), known).reshape(3, 3, 3).sum((0, 2))
    found = torch.zeros(27, dtype=F64)
    for value in range(3):
        given, more = torch.tensor([2, value, 0]), torch.tensor([True, True, False])
        found += second[value] * oracle.completion_law(sampler, given, more)
    assert total_variation(found, conditional(oracle, torch.tensor([2, 0, 0]), known)) < 1e-7


def table_row(name):
    """The numbers of a row of the table in the documentation."""
    row = next(line for line in DOCUMENTATION.read_text("utf-8").splitlines() if line.startswith(f"| {name} "))
    return [float(cell) for cell in row.split("|")[2:-1]]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("rates", [AbsorbingRates, UniformRates])
def test_more_steps_come_closer_to_the_exact_conditional_law(name, rates):
    """All unknown positions in parallel: an error of first order. The documentation has these distances."""
    oracle = chain(rates, schedule=LinearSurvival() if rates is AbsorbingRates else None)
    given, known = torch.tensor([0, 1, 0]), torch.tensor([False, True, False])
    expected, found = conditional(oracle, given, known), []
    for steps in (8, 16, 32, 64, 128):
        sampler = SAMPLERS[name](exact(oracle), UniformGrid(steps, t_min=1e-3, t_max=0.999))
        law = oracle.completion_law(sampler, given, known)
        assert law.sum().item() == pytest.approx(1, abs=1e-9)
        assert law[oracle.clean[:, 1] != 1].sum() == 0
        found.append(total_variation(law, expected))
    assert all(after < 0.75 * before for before, after in itertools.pairwise(found)), found
    assert found[-1] < 0.02
    assert table_row(f"{name}, {'absorbing' if rates is AbsorbingRates else 'uniform'}") == pytest.approx(found, rel=0.06)


EVERY_SAMPLER = {**SAMPLERS, "midpoint": MidpointTauLeaping}


def test_every_sampler_is_here():
    grid, denoiser = UniformGrid(4, t_min=0.02), exact(chain(BirthDeathRates))
    exported = {getattr(samplers, name) for name in samplers.__all__}
    kinds = {kind for kind in exported if issubclass(kind, samplers.Sampler) and not inspect.isabstract(kind)}
    assert {type(make(denoiser, grid)) for make in EVERY_SAMPLER.values()} == kinds


WITH_RATES = [*itertools.product(SAMPLERS, [AbsorbingRates]), *itertools.product(EVERY_SAMPLER, [BirthDeathRates])]


@pytest.mark.parametrize(("name", "rates"), WITH_RATES)  # a mask has no displacement, which the midpoint needs
def test_draws_have_the_enumerated_law(name, rates):
    oracle = chain(rates)
    sampler = EVERY_SAMPLER[name](exact(oracle), UniformGrid(4, t_min=0.02, t_max=0.9))
    given, known = torch.tensor([0, 1, 0]), torch.tensor([False, True, False])
    cond = {"known": known.expand(6000, 3), "given": given.expand(6000, 3)}
    drawn = sampler.sample(6000, generator=torch.Generator().manual_seed(0), **cond)
    counts = torch.bincount((drawn * torch.tensor([9, 3, 1])).sum(1), minlength=27).double()
    law = oracle.completion_law(sampler, given, known)
    assert counts[law == 0].sum() == 0
    assert chisquare(counts[law > 0], 6000 * law[law > 0] / law.sum()).pvalue > 1e-3


def plane():
    """Two correlated Gaussian numbers, and their exact noise prediction with the first one known or not."""
    process = continuous.GaussianProcess(continuous.CosineSchedule())
    mean, covariance = torch.tensor([0.4, -0.3], dtype=F64), torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=F64)

    def network(x, t, known=None):
        known = torch.zeros_like(x, dtype=torch.bool) if known is None else known
        alpha, sigma = (part[:, None] for part in process.schedule(t.double()))
        alpha, sigma = (torch.where(known, clean, part) for part, clean in ((alpha, 1.0), (sigma, 0.0)))
        a, c = (alpha**2 * covariance.diag() + sigma**2).unbind(-1)  # the covariance (a, b; b, c) of x, and its inverse
        b = alpha.prod(-1) * covariance[0, 1]
        u, v = (x - alpha * mean).unbind(-1)
        solved = torch.stack([c * u - b * v, a * v - b * u], dim=-1) / (a * c - b**2)[:, None]
        x0 = mean + (alpha * solved) @ covariance
        return torch.where(known, 0.0, (x - alpha * x0) / sigma.clamp(min=1e-9))

    return continuous.EpsilonDenoiser(process, network, (2,)), mean, covariance


@pytest.mark.parametrize("sampler", [continuous.Ancestral, continuous.DDIM, continuous.Heun])
def test_gaussian_completions_have_the_conditional_mean_and_variance(sampler):
    denoiser, mean, covariance = plane()
    n = 20_000 if sampler is continuous.Ancestral else 1000  # the others draw nothing, and start from quantiles
    given = torch.tensor([1.1, math.nan], dtype=F64).expand(n, 2)
    known = torch.tensor([True, False]).expand(n, 2)
    start = torch.special.ndtri((torch.arange(n, dtype=F64) + 0.5) / n)[:, None].expand(n, 2)
    walker = sampler(denoiser, UniformGrid(400, t_min=1e-3, t_max=0.998))
    drawn = walker.sample(start, generator=torch.Generator().manual_seed(1), given=given, known=known)
    assert (drawn[:, 0] == 1.1).all()
    slope = covariance[0, 1] / covariance[0, 0]
    expected, variance = mean[1] + slope * (1.1 - mean[0]), covariance[1, 1] - slope * covariance[0, 1]
    assert drawn[:, 1].mean().item() == pytest.approx(expected.item(), abs=4 * math.sqrt(variance / 20_000) + 0.004)
    assert drawn[:, 1].var().item() == pytest.approx(variance.item(), rel=0.05)


def walkers():
    """Samplers of both engines, with clean data."""
    oracle, draw = chain(BirthDeathRates), torch.Generator().manual_seed(0)
    for make in EVERY_SAMPLER.values():
        yield make(exact(oracle), UniformGrid(4, t_min=0.02, t_max=0.9)), torch.randint(3, (7, 3), generator=draw)
    score = ScoreDenoiser(oracle.process, lambda x_t, t, known=None: torch.zeros(*x_t.shape, 3, dtype=F64), (3,))
    yield Euler(score, UniformGrid(4, t_min=0.02, t_max=0.9)), torch.randint(3, (7, 3), generator=draw)
    for kind in (continuous.Ancestral, continuous.DDIM, continuous.Heun):
        yield kind(plane()[0], UniformGrid(4, t_min=0.02, t_max=0.98)), torch.randn(7, 2, generator=draw)


def test_known_values_stay_clean_and_chains_keep_their_own():
    """At every state, whatever the sampler; a chain depends on its seed and its own known values only."""
    for sampler, given in walkers():
        known = torch.rand(given.shape, generator=torch.Generator().manual_seed(2)) < 0.5
        sampler.sub_batch = 3
        *_, last = states = list(sampler.trajectory(7, seeds=range(7), given=given, known=known))
        assert len(states) == 6
        for state in states:
            assert torch.equal(state.x[known], given[known])
        alone = sampler.sample(1, seeds=[5], given=given[5:6], known=known[5:6])
        assert torch.equal(alone, last.x[5:6])
        nothing = sampler.sample(7, seeds=range(7), given=given, known=torch.zeros_like(known))
        assert torch.equal(nothing, sampler.sample(7, seeds=range(7)))  # nothing known: the unconditional samples


def test_known_dimensions_neither_jump_nor_count():
    """Rates of a network that was never trained there may be infinite."""
    process = CTMC(UniformRates(4), Constant(2.0))

    def network(x_t, t, known=None):
        return torch.where(torch.arange(4) == 3, 400.0, 0.0).expand(*x_t.shape, 4)

    denoiser = X0Denoiser(process, network, (3,), evidence_floor=0.0)
    grid = UniformGrid(3, t_min=1e-3)
    corrected = PredictorCorrector(Euler(denoiser, grid), ForwardBackward(denoiser))
    for sampler in (TauLeaping(denoiser, grid), Euler(denoiser, grid), corrected):
        given, known = torch.zeros(5, 3, dtype=torch.int64), torch.ones(5, 3, dtype=torch.bool)
        *_, last = sampler.trajectory(5, seeds=range(5), given=given, known=known)
        assert torch.equal(last.x, given)
        assert all(last.count(name).sum() == 0 for name in ("rejected", "clamped"))


def test_a_sampler_that_loses_the_known_positions_is_refused():
    class Forgetful(Ancestral):
        def step(self, state, t, s, **cond):
            return State(super().step(state, t, s, **cond).x, s, state.randomness)

    given, known = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    sampler = Forgetful(exact(chain()), UniformGrid(2))
    assert sampler.sample(2).shape == (2, 3)
    with pytest.raises(ValueError, match=r"Forgetful lost the known positions, expected dataclasses\.replace"):
        sampler.sample(2, given=given, known=known)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known": None}, "give both or neither: given, clean data"),
        ({"given": None}, "give both or neither: given, clean data"),
        ({"known": torch.ones(2, 3)}, "known has dtype torch.float32, expected torch.bool"),
        ({"known": torch.ones(2, 2, dtype=torch.bool)}, r"known has shape \(2, 2\), expected \(2, 3\)"),
        ({"given": torch.zeros(2, 4, dtype=torch.int64)}, r"given has shape \(2, 4\), expected \(2, 3\)"),
        ({"given": torch.zeros(2, 3)}, "x_0 has dtype torch.float32, expected an integer dtype"),
        ({"given": torch.full((2, 3), 3)}, r"x_0 has the value 3, expected values in 0 \.\. 2"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    cond = {"given": torch.zeros(2, 3, dtype=torch.int64), "known": torch.ones(2, 3, dtype=torch.bool), **change}
    sampler = Ancestral(exact(chain()), UniformGrid(2))
    with pytest.raises(ValueError, match=message):
        sampler.sample(2, **{name: value for name, value in cond.items() if value is not None})


def test_values_of_unknown_positions_have_no_meaning():
    sampler = Ancestral(exact(chain()), UniformGrid(3, t_min=0.02))
    known = torch.tensor([[True, False, False]])
    one, two = (sampler.sample(1, seeds=[0], given=torch.tensor([[2, value, value]]), known=known) for value in (0, 77))
    assert torch.equal(one, two)


@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_masks_are_keyed_by_the_example(mask):
    """The mask of an example depends on its own stream; all channels of a pixel are known together."""
    together = mask((6, 3, 8, 10), PerSampleRandomness(range(6)))
    assert together.shape == (6, 3, 8, 10)
    assert together.dtype == torch.bool
    assert torch.equal(together, together[:, :1].expand_as(together))
    assert torch.equal(mask((2, 3, 8, 10), PerSampleRandomness([4, 5])), together[4:])
    assert mask((5, 12), torch.Generator().manual_seed(0)).shape == (5, 12)


def test_halves():
    draw = torch.Generator().manual_seed(0)
    image = torch.arange(5 * 4).reshape(5, 4)
    for side, part in (("upper", image[:2]), ("lower", image[3:]), ("left", image[:, :2]), ("right", image[:, 2:])):
        known = HalfMask(side)((2, 1, 5, 4), draw)
        assert image[known[0, 0]].tolist() == part.flatten().tolist()
        assert torch.equal(known[0], known[1])
    assert HalfMask()((1, 6), draw)[0].tolist() == [True] * 3 + [False] * 3
    mixed = HalfMask("random")((4000, 1, 4, 4), draw)
    for side in ("upper", "lower", "left", "right"):
        fits = (mixed == HalfMask(side)((1, 1, 4, 4), draw)).flatten(1).all(1)
        assert fits.double().mean().item() == pytest.approx(0.25, abs=4 * math.sqrt(0.1875 / 4000))
    with pytest.raises(ValueError, match="side = 'top', expected one of upper, lower, left, right, random"):
        HalfMask("top")


def test_rectangles_prefixes_and_random_pixels_have_their_shares():
    draw = torch.Generator().manual_seed(0)
    hole = ~RectangleMask((0.25, 0.5))((5000, 1, 8, 12), draw)[:, 0]
    heights, widths = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(hole.flatten(1).sum(1), heights * widths)  # a whole rectangle
    for sides, values in ((heights, [2, 3, 4]), (widths, [3, 4, 5, 6])):
        assert chisquare([(sides == value).sum().item() for value in values]).pvalue > 1e-3
        assert sides.unique().tolist() == values
    top = hole[heights == 4].any(2).int().argmax(1)
    assert chisquare(torch.bincount(top, minlength=5)).pvalue > 1e-3
    rows = PrefixMask((0.25, 0.75))((4000, 8), draw)
    assert torch.equal(rows, rows.int().cummin(1).values.bool())
    assert chisquare(torch.bincount(rows.sum(1), minlength=7)[2:]).pvalue > 1e-3
    assert rows.sum(1).unique().tolist() == [2, 3, 4, 5, 6]
    pixels = RandomPixelsMask((0.2, 0.6))((4000, 1, 6, 6), draw).double()
    assert pixels.mean().item() == pytest.approx(0.4, abs=0.01)
    assert pixels.flatten(1).mean(1).var().item() == pytest.approx(0.4**2 / 12 + (0.24 - 0.4**2 / 12) / 36, rel=0.1)
    for make, message in (
        (lambda: RectangleMask((0.5, 0.25)), r"sides = \(0.5, 0.25\), expected the smaller number first"),
        (lambda: RectangleMask((0.0, 0.25)), r"sides = \(0.0, 0.25\), expected each a number in \(0, 1\]"),
        (lambda: PrefixMask((0.0, 1.5)), "share = "),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_known_positions_are_neither_noised_nor_scored(mask):
    """The loss is that of the unknown positions, and the network's output at known ones has no gradient."""
    process = CTMC(UniformRates(4), Constant(2.0))
    table = nn.Parameter(torch.randn(12, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(0)))
    denoiser = LeaveOneOutDenoiser(process, lambda x_t, t, known: table[torch.arange(12), x_t] * (1 + t[:, None, None]), (12,))
    x_0 = torch.randint(4, (64, 12), generator=torch.Generator().manual_seed(1))
    for loss in (ELBO(), CrossEntropy()):
        objective = Objective(denoiser, loss, StratifiedTimes(0.1), known=mask)
        sample, cond = objective.draw(x_0, PerSampleRandomness(range(64)))
        known = cond["known"]
        assert torch.equal(known, mask((64, 12), PerSampleRandomness(range(64))))
        assert torch.equal(sample.x_t[known], x_0[known])
        assert (sample.x_t != x_0)[~known].any()
        whole = objective(sample, **cond) / sample.weight
        every = loss(denoiser, sample._replace(active=None), **cond)
        flipped = loss(denoiser, sample._replace(active=known), **cond)
        torch.testing.assert_close(whole + flipped, every)
        again, _ = objective.draw(x_0, PerSampleRandomness(range(64)), known=~known)
        assert torch.equal(again.x_t[~known], x_0[~known])


def test_a_batch_in_parts_has_the_same_masks_and_gradient():
    """Masks are keyed by (seed, step, place in the batch), as the noise is."""
    steps = []
    for accumulation in (1, 3):
        table = nn.Embedding.from_pretrained(torch.ones(4, 4, dtype=F64), freeze=False)
        network = nn.ModuleDict({"table": table})
        network.forward = lambda x_t, t, known, table=table: table(x_t) * (1 + known[..., None])
        denoiser = LeaveOneOutDenoiser(CTMC(UniformRates(4), Constant(2.0)), network, (12,))
        objective = Objective(denoiser, ELBO(), StratifiedTimes(0.1), known=RandomPixelsMask())
        optimizer = torch.optim.SGD(denoiser.parameters(), lr=0.1)
        batches = [torch.randint(4, (7, 12), generator=torch.Generator().manual_seed(i)) for i in range(2)]
        steps.append([step.loss for step in fit(objective, batches, optimizer, steps=2, accumulation=accumulation)])
    assert steps[0] == pytest.approx(steps[1], rel=1e-12)
    assert steps[0][0] != steps[0][1]


def test_an_example_whose_known_positions_are_dropped_is_noised_everywhere():
    class Network(nn.Module):
        conditions: ClassVar = {"known": torch.zeros(12, dtype=torch.bool)}

        def forward(self, x_t, t, known):
            return torch.zeros(*x_t.shape, 4)

    denoiser = LeaveOneOutDenoiser(CTMC(UniformRates(4), Constant(9.0)), Network(), (12,))
    objective = Objective(denoiser, ELBO(), UniformTimes(0.9), 0.5, denoiser.network.conditions, HalfMask())
    x_0 = torch.zeros(400, 12, dtype=torch.int64)
    sample, cond = objective.draw(x_0, torch.Generator().manual_seed(0))
    dropped = ~cond["known"].any(1)
    assert dropped.double().mean().item() == pytest.approx(0.5, abs=0.1)
    assert sample.active[dropped].all()
    assert (sample.x_t[dropped, :6] > 0).double().mean().item() == pytest.approx(0.75, abs=0.05)
    assert (sample.x_t[~dropped, :6] == 0).all()


def test_the_bound_is_that_of_the_conditional_law():
    """bits_per_dim with the condition `known` is the bound on -log p(unknown | known), known by enumeration."""
    oracle = chain(schedule=Constant(2.0))
    denoiser = LeaveOneOutDenoiser(oracle.process, leave_one_out(oracle), (3,))
    x_0 = oracle.clean.repeat(40, 1)
    known = torch.tensor([True, False, False]).expand_as(x_0)
    times = StratifiedTimes(0.05)
    bits = bits_per_dim(denoiser, x_0, times, draws=64, generator=torch.Generator().manual_seed(1), known=known)
    found = bits.images.double().reshape(40, 27).mean(0) @ oracle.data_law
    by_first = oracle.data_law.reshape(3, 9)
    expected = sum(
        mass.item() * EnumeratedCTMC(oracle.process, law / mass, 2).exact_bound(0.05) / (2 * math.log(2))
        for law, mass in zip(by_first, by_first.sum(1), strict=True)
    )
    error = bits.standard_error * math.sqrt(27 * oracle.data_law.square().sum())
    assert error < 0.02
    assert found.item() == pytest.approx(expected, abs=4 * error)


def leave_one_out(oracle):
    """The exact log p_loo of a conditional model."""

    def network(x_t, t, known):
        columns = oracle._joint_columns(x_t, t)
        clean = F.one_hot(x_t, oracle.data_states).to(F64)
        columns = [torch.where(known[:, d, None], clean[:, d], column) for d, column in enumerate(columns)]
        others = [[torch.ones_like(c) if i == d else c for i, c in enumerate(columns)] for d in range(3)]
        return torch.stack([oracle._axis_marginal(oracle._joint(part), d) for d, part in enumerate(others)], 1).log()

    return network


def test_the_mask_is_input_channels():
    """The wrapped network gets the image and the mask; nothing known is the null value."""
    torch.manual_seed(0)
    small = {"widths": (4, 4), "blocks": 1, "patch_size": 1, "attention_levels": (), "groups": 1, "time_features": 4}
    inner = UNet(4, 8, **small, time_dim=4, num_classes=3)
    nn.init.normal_(inner.get_submodule([name for name, _ in inner.named_modules()][-1]).weight)
    network = KnownChannels(inner, (2, 5, 5))
    x, c, y = torch.randn(3, 2, 5, 5), torch.rand(3), torch.tensor([0, 1, 2])
    known = torch.rand(3, 2, 5, 5) < 0.5
    assert torch.equal(network(x, c, known=known, y=y), inner(torch.cat([x, known.float()], 1), c, y=y))
    assert torch.equal(network(x, c), inner(torch.cat([x, torch.zeros_like(x)], 1), c))
    assert not torch.equal(network(x, c, known=known), network(x, c))
    assert [*network.conditions] == ["y", "known"]
    integers = PixelLogits(network, CategoricalHead(2, 4), OrdinalInput(2), 4)
    assert integers(torch.zeros(3, 2, 5, 5, dtype=torch.int64), c, known=known).shape == (3, 2, 5, 5, 4)
    with pytest.raises(ValueError, match=r"known has shape \(3, 1, 5, 5\), expected \(3, 2, 5, 5\)"):
        network(x, c, known=known[:, :1])
    with pytest.raises(ValueError, match=r"known has dtype torch\.float32, expected torch\.bool"):
        network(x, c, known=known.float())
    with pytest.raises(ValueError, match="in_channels = 4, expected more than 4"):
        KnownChannels(inner, (4, 5, 5))
    with pytest.raises(ValueError, match="the condition known was given to a network with the conditions: y"):
        inner(torch.zeros(3, 4, 5, 5), c, known=known)


def test_every_kind_of_mask_is_here():
    assert {type(mask) for mask in MASKS} == {*KnownMask.__subclasses__()}
