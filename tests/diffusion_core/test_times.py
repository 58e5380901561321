"""Grids end where they say; time samplers draw from the density they state; the objective is its integral."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from torch import Tensor, nn

from diffusion_core import (
    CosineGrid,
    Denoiser,
    Loss,
    Objective,
    PerSampleRandomness,
    QuadraticGrid,
    StratifiedTimes,
    TimeGrid,
    TimeSampler,
    UniformGrid,
    UniformTimes,
)


def concrete(base: type) -> list[type]:
    found = []
    for cls in base.__subclasses__():
        found += [cls, *concrete(cls)]
    return [cls for cls in found if not inspect.isabstract(cls)]


GRIDS, SAMPLERS = concrete(TimeGrid), concrete(TimeSampler)


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


@pytest.mark.parametrize(("t_min", "t_max"), [(0.5, 0.5), (-0.1, 1.0), (0.1, 1.1)])
def test_bad_intervals_are_named(t_min, t_max):
    for make in (lambda: UniformGrid(2, t_min, t_max), lambda: UniformTimes(t_min, t_max)):
        with pytest.raises(ValueError, match=f"t_min = {t_min}, t_max = {t_max}"):
            make()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_weight_is_one_over_the_density(sampler):
    """`E[weight f(t)]` is the integral of f, here of t^2."""
    t, weight = sampler(t_min=0.1)(200_000, torch.Generator().manual_seed(0))
    assert t.min() >= 0.1
    assert t.max() <= 1
    assert (weight * t**2).mean().item() == pytest.approx((1 - 0.1**3) / 3, rel=5e-3)


class Fixed(Denoiser):
    """A denoiser that is never asked."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), (2,))

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return x_t


class Square(Loss):
    """t^2, and a record of the labels it saw."""

    labels: Tensor | None = None

    def __call__(self, denoiser, x_0, t, y=None, generator=None):
        self.labels = y
        return t**2


def test_the_objective_integrates_the_loss_and_drops_labels():
    loss = Square()
    objective = Objective(Fixed(), loss, StratifiedTimes(0.1), label_dropout=0.25, null_class=10)
    x_0, y = torch.zeros(4000, 2), torch.arange(4000) % 10
    assert objective(x_0, y, PerSampleRandomness(range(4000))).mean().item() == pytest.approx((1 - 0.1**3) / 3, rel=1e-2)
    assert loss.labels is not None
    dropped = loss.labels == 10
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(loss.labels[~dropped], y[~dropped])


def test_bad_objectives_are_named():
    with pytest.raises(ValueError, match=r"label_dropout = 1\.5"):
        Objective(Fixed(), Square(), UniformTimes(), label_dropout=1.5, null_class=0)
    with pytest.raises(ValueError, match="needs a null_class"):
        Objective(Fixed(), Square(), UniformTimes(), label_dropout=0.1)
    with pytest.raises(ValueError, match=r"x has shape \(4, 3\)"):
        Objective(Fixed(), Square(), UniformTimes())(torch.zeros(4, 3))
