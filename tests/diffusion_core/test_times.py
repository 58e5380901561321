"""Grids end where they say; time samplers draw from the density they state; the objective is its integral."""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_core import (
    CosineGrid,
    Denoiser,
    GridTimes,
    ImportanceTimes,
    Loss,
    Objective,
    PerSampleRandomness,
    PiecewiseTimes,
    Process,
    QuadraticGrid,
    RespacedGrid,
    StratifiedTimes,
    TimeGrid,
    TimeSampler,
    UniformGrid,
    UniformTimes,
    learned_times,
)
from diffusion_core.densities import pilot_times

from ..losses import losses_of


def concrete(base: type) -> list[type]:
    found = []
    for cls in base.__subclasses__():
        found += [cls, *concrete(cls)]
    return [cls for cls in found if not inspect.isabstract(cls)]


SAMPLERS = concrete(TimeSampler)
GIVEN_BY_PIECES = {
    "GridTimes": lambda t_min: GridTimes(QuadraticGrid(200, t_min), range(1, 201)),
    "PiecewiseTimes": lambda t_min: PiecewiseTimes([t_min, 0.3, 0.35, 1.0], [1.0, 3.0, 0.5]),
}


def made(sampler: type, t_min: float) -> TimeSampler:
    return GIVEN_BY_PIECES.get(sampler.__name__, lambda t_min: sampler(t_min=t_min))(t_min)


# Grids that are not given by an interval and a shape have a file of their own, test_grids.py.
GRIDS = [grid for grid in concrete(TimeGrid) if "t_max" in inspect.signature(grid).parameters]


def test_there_are_grids_and_time_samplers():
    assert len(GRIDS) >= 3
    assert len(SAMPLERS) >= 2


@pytest.mark.parametrize("grid", GRIDS)
def test_grids_fall_from_end_to_end(grid):
    for steps in (1, 2, 50):
        times = grid(steps, 0.02, 0.9).times()
        assert (times[0], times[-1], len(times)) == (0.9, 0.02, steps + 1)
        assert all(t > s for t, s in itertools.pairwise(times))


def test_grids_have_their_formulas():
    assert UniformGrid(4, 0.0).times() == [1, 0.75, 0.5, 0.25, 0]
    assert QuadraticGrid(4, 0.0).times() == [1, 0.5625, 0.25, 0.0625, 0]
    assert CosineGrid(3, 0.0).times() == pytest.approx([1, 0.5, 1 - 3**0.5 / 2, 0])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_bad_numbers_of_steps_are_named(grid, steps):
    with pytest.raises(ValueError, match=f"steps = {steps}"):
        grid(steps)


@pytest.mark.parametrize("grid", GRIDS)
def test_numbers_of_steps_may_be_numpy_s_but_not_booleans(grid):
    made = grid(np.int64(5))
    assert type(made.steps) is int
    assert made == grid(5)
    assert len(made.times()) == 6
    with pytest.raises(ValueError, match="steps = True, expected an integer of at least 1"):
        grid(True)
    assert RespacedGrid(np.int32(4), np.int64(9)) == RespacedGrid(4, 9)
    assert len(ImportanceTimes(bins=np.int64(7)).probabilities()) == 7
    for wrong in ({"bins": True}, {"history": 0}, {"bins": 2.0}):
        (name, value), *_ = wrong.items()
        with pytest.raises(ValueError, match=f"{name} = {value}, expected an integer of at least 1"):
            ImportanceTimes(**wrong)


@pytest.mark.parametrize(
    ("t_min", "t_max", "message"),
    [
        (0.5, 0.5, r"t_min = 0\.5, t_max = 0\.5: expected 0 <= t_min < t_max <= 1"),
        (-0.1, 1.0, r"t_min = -0\.1, expected a number in \[0, 1\)"),
        (0.1, 1.1, r"t_max = 1\.1, expected a number in \(0, 1\]"),
    ],
)
def test_bad_intervals_are_named(t_min, t_max, message):
    for make in (
        lambda: UniformGrid(2, t_min, t_max),
        lambda: UniformTimes(t_min, t_max),
        lambda: ImportanceTimes(t_min, t_max),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_weight_is_one_over_the_density(sampler):
    """`E[weight f(t)]` is the integral of f, here of t^2."""
    times = made(sampler, 0.1)
    t, weight = times(200_000, torch.Generator().manual_seed(0))
    assert t.dtype == weight.dtype == torch.float32
    assert t.min() >= 0.1
    assert t.max() <= 1
    assert weight.double().mean().item() == pytest.approx(0.9, rel=2e-3)
    assert (weight * t**2).mean().item() == pytest.approx((1 - 0.1**3) / 3, rel=5e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_states_of_what_does_not_learn_are_empty(sampler):
    times = made(sampler, 0.1)
    if sampler is not ImportanceTimes:
        assert times.state_dict() == {}
        times.load_state_dict({})
        with pytest.raises(ValueError, match="the state contains seen, expected an empty state"):
            times.load_state_dict({"seen": torch.zeros(3)})


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_times_are_the_inverse_of_their_distribution_function(sampler):
    """The share of draws below t(u) is u; the derivative of t by u is the weight."""
    times = made(sampler, 0.1)
    u = torch.arange(1, 4000, dtype=torch.float64) / 4000
    t, weight = times.at(u)
    assert (t.diff() >= 0).all()
    drawn, _ = times(200_000, torch.Generator().manual_seed(0))
    for share in (0.1, 0.5, 0.9):
        below = (drawn <= times.at(torch.tensor([share], dtype=torch.float64))[0]).double().mean().item()
        assert below == pytest.approx(share, abs=6e-3)
    if sampler is not GridTimes:  # its times are the middles of steps
        slope = (t[2:] - t[:-2]).double() * 2000
        torch.testing.assert_close(slope.quantile(0.5), weight[1:-1].double().quantile(0.5), rtol=1e-3, atol=0)


def test_learned_times_follow_the_root_of_the_mean_square():
    """A loss of `a(t) |z|`, z normal: the density is proportional to a, but for the share that stays with the pilot's."""
    interval = UniformTimes(0.1, 0.9)
    t, _ = pilot_times(interval)(400_000, torch.Generator().manual_seed(0))
    size = 1 / t.double()
    loss = size * torch.randn(len(t), generator=torch.Generator().manual_seed(1), dtype=torch.float64).abs()
    loss[:5] = torch.inf  # a step that failed says nothing
    learned = learned_times(interval, t, loss)
    edges = torch.tensor(learned.edges)
    expected = 0.9 * edges.log().diff() / math.log(9) + 0.1 * (edges - 0.1).sqrt().diff() / 0.8**0.5
    torch.testing.assert_close(torch.tensor(learned.masses), expected, rtol=0.05, atol=0)
    assert (learned.t_min, learned.t_max) == (0.1, 0.9)
    # No weight exceeds ten times that of the pilot's density.
    assert (learned.masses >= 0.1 * pilot_times(interval).masses).all()
    with pytest.raises(ValueError, match="none of 3 losses is finite and positive"):
        learned_times(interval, t[:3], torch.tensor([0.0, torch.nan, torch.inf]))


def test_pieces_that_are_none_are_named():
    for edges, masses, message in (
        ([0.5], None, r"edges = \[0.5\], expected at least two increasing times"),
        ([0.1, 0.5, 0.5], None, "expected at least two increasing times"),
        ([-0.1, 0.5], None, r"edges = \[-0.1, 0.5\], expected each a number in \[0, 1\]"),
        ([0.1, 0.5], [1.0, 2.0], r"masses = \[1.0, 2.0\], expected 1 numbers, one for each piece"),
        ([0.1, 0.5, 0.9], [1.0, 0.0], r"masses = \[1.0, 0.0\], expected each a number above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            PiecewiseTimes(edges, masses)


def test_without_weights_the_density_weighs_the_loss():
    """The mean of `weight * t` is the length of the interval times the mean time: one sixth, a half, one third."""
    edges, masses = [0.1, 0.3, 0.35, 1.0], [1.0, 3.0, 2.0]
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    t, weight = PiecewiseTimes(edges, masses, weighted=False).at(u)
    assert (t == PiecewiseTimes(edges, masses).at(u)[0]).all()
    assert weight.dtype == torch.float32
    assert (weight * t).double().mean().item() == pytest.approx(0.9 * (0.2 / 6 + 0.325 / 2 + 0.675 / 3), rel=1e-6)


class TestGridTimes:
    def test_n_draws_are_the_n_steps(self):
        grid = QuadraticGrid(7, 0.02, 0.9)
        ends = torch.tensor(grid.times(), dtype=torch.float64).flip(0)
        t, weight = GridTimes(grid)(7, torch.Generator().manual_seed(0))
        torch.testing.assert_close(t.double(), (ends[1:] + ends[:-1]) / 2, atol=1e-7, rtol=0)
        torch.testing.assert_close(weight.double(), 7 * ends.diff(), atol=1e-6, rtol=0)
        assert (GridTimes(grid).t_min, GridTimes(grid).t_max) == (0.02, 0.9)

    def test_more_draws_visit_each_equally_often(self):
        t, _ = GridTimes(UniformGrid(7, 0.0))(21)
        assert (t * 7).floor().tolist() == [i for i in range(7) for _ in range(3)]


class TestImportanceTimes:
    def learned(self, times, loss, rounds=60):
        generator = torch.Generator().manual_seed(1)
        for _ in range(rounds):
            t, _ = times(64, generator)
            times.update(t, loss(t))
        return times

    def test_uniform_until_every_bin_is_full(self):
        times = ImportanceTimes(0.0, 1.0, bins=4, history=2)
        assert times.probabilities().tolist() == [0.25] * 4
        times.update(torch.tensor([0.1, 0.1, 0.3, 0.3, 0.6, 0.6, 0.9]), torch.tensor([1.0, 1, 2, 2, 3, 3, 4]))
        assert times.probabilities().tolist() == [0.25] * 4
        times.update(torch.tensor([0.9]), torch.tensor([4.0]))
        expected = [0.999 * i / 10 + 0.00025 for i in (1, 2, 3, 4)]
        assert times.probabilities().tolist() == pytest.approx(expected)

    def test_only_the_last_losses_count_and_the_second_moment_does(self):
        times = ImportanceTimes(0.0, 1.0, bins=2, history=2)
        times.update(torch.tensor([0.2] * 4 + [0.7] * 3), torch.tensor([100.0, 100, 3, 4, 50, 1, 1]))
        sizes = [12.5**0.5, 1.0]
        assert times.probabilities().tolist() == pytest.approx([0.999 * s / sum(sizes) + 0.0005 for s in sizes])

    def test_what_is_no_number_or_off_the_interval_teaches_nothing(self):
        times = ImportanceTimes(0.5, 1.0, bins=1, history=1)
        times.update(torch.tensor([0.7, 0.2]), torch.tensor([float("nan"), 1.0]))
        assert times.state_dict()["seen"].tolist() == [0]

    def test_agrees_with_uniform_times_in_expectation(self):
        """By quadrature over the strata: 100,000 stratified draws are the integral."""
        times = self.learned(ImportanceTimes(0.0, 1.0, bins=20, history=3), lambda t: t.square() * 50)
        assert times.probabilities()[-1] > 20 * times.probabilities()[0]
        t, weight = (part.double() for part in times(100_000, torch.Generator().manual_seed(0)))
        for loss in (lambda t: t**2, lambda t: (7 * t).cos() + 2):
            u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
            assert (weight * loss(t)).mean().item() == pytest.approx(loss(u).mean().item(), rel=5e-4)
        one = times(64, torch.Generator().manual_seed(3))
        learned, uniform = ((w * t.square() * 50).std() for t, w in (one, UniformTimes(0.0)(64)))
        assert learned < 0.25 * uniform

    def test_state_continues_bit_for_bit(self):
        times = self.learned(ImportanceTimes(bins=10, history=4), lambda t: t)
        other = ImportanceTimes(bins=10, history=4)
        other.load_state_dict({name: value.clone() for name, value in times.state_dict().items()})
        for one in (times, other):
            self.learned(one, lambda t: 1 - t, rounds=3)
        draws = [one(50, PerSampleRandomness.keyed(0, 1, 0, 50)) for one in (times, other)]
        assert torch.equal(draws[0][0], draws[1][0])
        assert torch.equal(draws[0][1], draws[1][1])
        saved = times.state_dict()
        before = saved["squares"].clone()
        self.learned(times, lambda t: 9 * t, rounds=3)
        assert torch.equal(saved["squares"], before), "a checkpoint must not move with the training"

    def test_all_zero_losses_stay_uniform(self):
        times = self.learned(ImportanceTimes(bins=2, history=1), torch.zeros_like)
        assert times.probabilities().tolist() == [0.5, 0.5]

    def test_bad_arguments_are_named(self):
        with pytest.raises(ValueError, match="bins = 0, expected an integer of at least 1"):
            ImportanceTimes(bins=0)
        with pytest.raises(ValueError, match=r"history = 1\.5"):
            ImportanceTimes(history=1.5)
        with pytest.raises(ValueError, match=r"uniform_share = 0, expected a number in \(0, 1\]"):
            ImportanceTimes(uniform_share=0)
        with pytest.raises(ValueError, match=r"squares has shape \(3, 10\) in the state, expected \(2, 10\)"):
            ImportanceTimes(bins=2).load_state_dict(ImportanceTimes(bins=3).state_dict())
        with pytest.raises(ValueError, match="squares has shape None"):
            ImportanceTimes().load_state_dict({})


class Still(Process):
    """Nothing happens to the data."""

    def sample(self, x_0, t, generator=None):
        return x_0

    def renoise(self, x_s, s, t, generator=None):
        return x_s

    def prior(self, shape, generator=None):
        return torch.zeros(shape)


class Fixed(Denoiser):
    """A denoiser that is never asked."""

    def __init__(self) -> None:
        super().__init__(Still(), (2,))

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return x_t


class Square(Loss):
    """t^2, and a record of the labels it saw."""

    labels: Tensor | None = None

    def __call__(self, denoiser, sample, **cond):
        self.labels = cond.get("y")
        return self.evaluate(None, sample)

    def evaluate(self, posterior, sample):
        return sample.t**2


def test_the_objective_integrates_the_loss_and_drops_labels():
    loss = Square()
    objective = Objective(Fixed(), loss, StratifiedTimes(0.1), label_dropout=0.25, null={"y": 10})
    x_0, y = torch.zeros(4000, 2), torch.arange(4000) % 10
    assert losses_of(objective, x_0, PerSampleRandomness(range(4000)), y=y).mean().item() == pytest.approx(
        (1 - 0.1**3) / 3, rel=1e-2
    )
    assert loss.labels is not None
    dropped = loss.labels == 10
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(loss.labels[~dropped], y[~dropped])
    losses_of(Objective(Fixed(), loss, StratifiedTimes(0.1), label_dropout=1.0, null={"y": 256}), x_0, y=y.byte())
    assert (loss.labels == 256).all()


def test_the_times_learn_the_unweighted_losses_that_they_are_shown():
    times = ImportanceTimes(bins=3, history=1)
    objective = Objective(Fixed(), Square(), times)
    sample, _ = objective.draw(torch.zeros(9, 2), PerSampleRandomness(range(9)))
    losses = objective(sample)
    assert losses.tolist() == pytest.approx((sample.t**2 * sample.weight).tolist())
    assert times.state_dict()["seen"].sum() == 0
    objective.learn(sample, losses)
    assert times.state_dict()["seen"].sum() == 9
    in_last = sample.t > 0.67
    kept = times.state_dict()["squares"][2]
    assert (kept - sample.t[in_last].double() ** 4).abs().min() < 1e-6


def test_a_loss_at_the_end_of_a_bin_belongs_to_it():
    """A chain's loss is measured at the end of the step that a time was drawn in."""
    times = ImportanceTimes(0.0, 1.0, bins=1000, history=1)
    ends = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    for t in (ends, ends.float()):
        times.update(t, torch.ones(1000))
    assert (times.state_dict()["seen"] == 2).all()


def test_bad_objectives_are_named():
    with pytest.raises(ValueError, match=r"label_dropout = 1\.5"):
        Objective(Fixed(), Square(), UniformTimes(), label_dropout=1.5, null={"y": 0})
    with pytest.raises(ValueError, match="Fixed lists no conditions: give null, such as"):
        Objective(Fixed(), Square(), UniformTimes(), label_dropout=0.1)
    with pytest.raises(ValueError, match=r"x has shape \(4, 3\)"):
        Objective(Fixed(), Square(), UniformTimes()).draw(torch.zeros(4, 3))
