"""The loop and its state: what is counted by name, times as tensors, and samplers that lose their place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffusion_core import Denoiser, Process, Sampler, State, UniformGrid, as_randomness
from diffusion_core.randomness import PerSampleRandomness


class Nothing(Process):
    def sample(self, x_0, t, generator=None):
        return x_0

    def renoise(self, x_s, s, t, generator=None):
        return x_s

    def prior(self, shape, generator=None):
        return as_randomness(generator).uniform(shape)


class Itself(Denoiser[torch.Tensor]):
    nfe = 3

    def forward(self, x_t, t):
        assert (t.shape, t.dtype) == ((), torch.float64)
        return x_t


class Counting(Sampler[torch.Tensor]):
    """Counts draws below 1/2 as "low" where a sub-batch has any, and every step as "moved"."""

    late = 0.0

    def step(self, state, t, s):
        x, state = self.evaluate(state, t)
        low = (x < 0.5).sum(-1)
        state = replace(state, t=s + self.late).counted(moved=torch.ones_like(low))
        return state.counted(low=low) if low.any() else state

    def finish(self, state):
        assert state.t == self.grid.t_min
        return replace(state, t=torch.zeros_like(state.t))


@pytest.fixture
def sampler():
    return Counting(Itself(Nothing(), (1,)), UniformGrid(4, t_min=0.1), sub_batch=2)


@pytest.mark.parametrize("given", [{}, {"seeds": range(5)}])
def test_what_is_counted_by_name(sampler, given):
    states = list(sampler.trajectory(torch.tensor([[0.1], [0.2], [0.7], [0.8], [0.9]]), **given))
    assert [state.nfe for state in states] == [0, 3, 6, 9, 12, 12]
    assert [state.t.item() for state in states] == [*sampler.grid.times(), 0.0]
    assert states[0].counts == {}
    assert states[-1].count("moved").tolist() == [4] * 5
    assert states[-1].count("low").tolist() == [4, 4, 0, 0, 0]
    assert states[-1].count("rejected").tolist() == [0] * 5
    assert states[-1].counts["low"].dtype == torch.int64


def test_names_that_some_sub_batches_have():
    t = torch.tensor(0.5, dtype=torch.float64)
    state = State(torch.zeros(3, 2), t, PerSampleRandomness([1, 2, 3])).counted(old=torch.tensor([1, 2, 3]))
    first, second = state.split(2)
    assert second.counts["old"].tolist() == [3, 3]
    first, second = first.counted(one=torch.tensor([5, 6])), second.counted(old=torch.tensor([1, 1]), two=torch.tensor([7, 8]))
    counts = state.merged([first, second]).counts
    assert {name: count.tolist() for name, count in counts.items()} == {"old": [1, 2, 4], "one": [5, 6, 0], "two": [0, 0, 7]}
    assert state.counts["old"].tolist() == [1, 2, 3]


def test_a_state_at_the_wrong_time_is_named(sampler):
    sampler.late = 0.25
    with pytest.raises(ValueError, match=r"Counting returned a state at t = 1\.025, expected t = 0\.775"):
        sampler.sample(3)
